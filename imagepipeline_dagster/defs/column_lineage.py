"""Where the columns of each stage come from, as Dagster's column lineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.planning.prompts import PARAMETERS, Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.rows import arrow_schema
from imagepipeline_dagster.tables.schema import PromptRow, columns_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


_Column = tuple[str, str]
"""An asset, and a column of its table."""

_TRIGGERS: list[_Column] = [("embeddings", "trigger_words"), ("embeddings", "placement")]
_PROMPT: _Column = ("prompt_sets", "effective_prompt")
_NEGATIVE_PROMPT: _Column = ("prompt_sets", "effective_negative_prompt")

_COMPOSED: dict[_Column, list[_Column]] = {
    _PROMPT: [("prompts", "prompt"), *_TRIGGERS],
    _NEGATIVE_PROMPT: [("prompts", "negative_prompt"), *_TRIGGERS],
    ("prompt_sets", "embedding_version"): [("embeddings", "version")],
    ("generation_requests", "request"): [
        *(_PROMPT, _NEGATIVE_PROMPT),
        *(("prompt_sets", parameter) for parameter in PARAMETERS),
    ],
    ("generated_images", "prompt"): [_PROMPT],
    ("generated_images", "negative_prompt"): [_NEGATIVE_PROMPT],
    **{
        ("generated_images", f"{link}_{what}"): [("prompt_sets", link)]
        for link in ("init_image", "mask_image")
        for what in ("sha256", "format")
    },
    ("image_dataset", "image"): [("moderated_images", "image_sha256")],
}
"""Columns made of others; each other one has the name that it had before."""

_ABOVE = {
    "prompt_sets": ("prompts",),
    "generation_requests": ("prompt_sets",),
    "generated_images": ("generation_requests", "prompt_sets"),
    "moderated_images": ("generated_images",),
    "image_dataset": ("moderated_images",),
}
ROW_TYPES: dict[str, type[DataclassInstance]] = {
    "prompt_sets": Prompt,
    "generation_requests": PlannedRequest,
    "generated_images": GeneratedImage,
    "moderated_images": ModeratedImage,
}
"""What a row of each stage's table is."""


def column_lineage(
    dataset: ImageDataset, stage: str, columns: Iterable[str]
) -> dg.TableColumnLineage:
    """Return where these columns of a stage come from; a column of its own is left out."""
    origins = {column: list(_origins(stage, column)) for column in columns}
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dataset.key(asset), name) for asset, name in above]
            for column, above in origins.items()
            if above
        }
    )


def _origins(stage: str, column: str) -> Iterator[_Column]:
    if (stage, column) in _COMPOSED:
        yield from _COMPOSED[stage, column]
        return
    for asset in _ABOVE[stage]:
        if column in _columns(asset):
            yield asset, column
            return


def _columns(asset: str) -> Iterable[str]:
    return columns_of(PromptRow) if asset == "prompts" else arrow_schema(ROW_TYPES[asset]).names
