"""A row of `generated_images`: one requested sample and what became of it.

Every sample that a row of the prompts table asks for is one row here, whatever became of it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imagepipeline_dagster.ledger.records import (
    Entry,
    Outcome,
    PlanState,
    State,
    StoredSample,
    plan_state,
)
from imagepipeline_dagster.ledger.sources import SourcePicture
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.rows import column, fields_of

CIRCUMSTANCES = frozenset(
    {
        *("uri", "job_id", "submitted_at", "completed_at", "run_id", "endpoint", "error"),
        "content_version",
    }
)
"""Fields that a run, an hour or a storage decided: not part of a table's data version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """One requested sample: where it comes from, what became of it, and where its bytes are."""

    prompt_set: str = column("Prompt set, as in the prompts table")
    prompt_id: str = column("Prompt id, unique within the set")
    call_index: int | None = column("API call of this prompt, from 0; null for a refused row")
    sample_index: int | None = column(
        "Place in the call's answer, from 0; null where fewer links than samples came back"
    )
    outcome: str = column("What became of the sample so far")
    content_version: str = column("Version of the prompt set's content that this comes from")
    task: str | None = column("text2image, image2image or inpainting", default=None)
    model_id: str | None = column("Model at the API", default=None)
    prompt: str | None = column("Prompt as sent, trigger words included", default=None)
    negative_prompt: str | None = column("Negative prompt as sent", default=None)
    embeddings: str | None = column("Embedding's model id at the API", default=None)
    embedding_version: str | None = column("Version of the embedding", default=None)
    seed: int | None = column("Seed of the call", default=None)
    samples: int | None = column("Samples of the call", default=None)
    safety_checker: bool | None = column("Whether the API was asked to check", default=None)
    request_key: str | None = column("Key of the request in the ledger", default=None)
    request: str | None = column("Exact request, canonical JSON", default=None)
    image_sha256: str | None = column("SHA-256 of the bytes as delivered", default=None)
    uri: str | None = column("Where the bytes are", default=None)
    format: str | None = column("Picture format, as Pillow names it", default=None)
    pixel_width: int | None = column("Width in pixels", default=None)
    pixel_height: int | None = column("Height in pixels", default=None)
    bytes: int | None = column("Size in bytes", default=None)
    value_range: int | None = column(
        "Largest difference between two values of a channel, 0 to 255; 0 is one flat colour",
        default=None,
    )
    has_alpha: bool | None = column("Whether a pixel is not fully opaque", default=None)
    carries_more: str | None = column("What the file holds beside its picture", default=None)
    init_image_sha256: str | None = column(
        "SHA-256 of what the link init_image led to, where that is kept", default=None
    )
    init_image_format: str | None = column("Its format, as Pillow names it", default=None)
    mask_image_sha256: str | None = column("The same of mask_image", default=None)
    mask_image_format: str | None = column("Its format, as Pillow names it", default=None)
    job_id: str | None = column("Job at the API", default=None)
    submitted_at: dt.datetime | None = column("When the API took the job", default=None)
    completed_at: dt.datetime | None = column("When the bytes were stored", default=None)
    run_id: str | None = column("Dagster run that bought it", default=None)
    endpoint: str | None = column("URL that the request was sent to", default=None)
    emulated: bool = column("Made by the emulator, not bought", default=False)
    error: str | None = column("What went wrong", default=None)

    @property
    def is_open(self) -> bool:
        """Whether another run may better it by itself: to be bought, under way, or a lost job."""
        lost_job = self.outcome == Outcome.UNKNOWN and self.job_id is not None
        return self.outcome == Outcome.PENDING or lost_job


_OF_PROMPT = (
    *("prompt_set", "prompt_id", "content_version", "task", "model_id"),
    *("embeddings", "embedding_version", "safety_checker"),
)
_OF_ATTEMPT = ("job_id", "submitted_at", "run_id")
_OF_SAMPLE = (
    *("sample_index", "outcome", "image_sha256", "uri", "format", "pixel_width", "pixel_height"),
    *("bytes", "value_range", "has_alpha", "carries_more", "error"),
)


def images_of_plan(
    prompts: Sequence[Prompt],
    plan: Sequence[PlannedRequest],
    entries: Mapping[str, Entry],
    sources: Mapping[str, SourcePicture] = MappingProxyType({}),
) -> list[GeneratedImage]:
    """Return a row for each sample that the prompts ask for, as the ledger knows it.

    `prompts` are all of one set, refused ones too; `plan` holds the calls of the valid ones, and
    `sources` what their links led to.
    """
    calls: dict[str, list[PlannedRequest]] = {}
    for call in plan:
        calls.setdefault(call.prompt_id, []).append(call)
    return [
        image
        for prompt in prompts
        for image in (
            _images_of_calls(prompt, calls.get(prompt.prompt_id, ()), entries, sources)
            if prompt.valid
            else _refused_images(prompt)
        )
    ]


def samples_asked_for(images: Iterable[GeneratedImage]) -> int:
    """Return how many samples the requests of these rows ask for: those of a shared one once."""
    return sum({image.request_key: image.samples or 0 for image in images}.values())


def noting_why_withheld(
    images: Sequence[GeneratedImage], why: Exception | None
) -> list[GeneratedImage]:
    """Return the images with a word at those that were not sent because a person has to approve."""
    if why is None:
        return list(images)
    return [
        dataclasses.replace(image, error=str(why))
        if image.outcome == Outcome.PENDING and image.job_id is None
        else image
        for image in images
    ]


def _refused_images(prompt: Prompt) -> Iterator[GeneratedImage]:
    for _ in range(prompt.samples):
        yield GeneratedImage(
            **_of_prompt(prompt),
            call_index=None,
            sample_index=None,
            outcome=Outcome.INVALID,
            error=prompt.problems,
        )


def _images_of_calls(
    prompt: Prompt,
    calls: Sequence[PlannedRequest],
    entries: Mapping[str, Entry],
    sources: Mapping[str, SourcePicture],
) -> Iterator[GeneratedImage]:
    for call in calls:
        entry = entries.get(call.request_key)
        known: dict[str, Any] = {
            **_of_prompt(prompt),
            **fields_of(call, "call_index", "request_key", "request", "seed", "samples"),
        }
        for name, link in call.source_links.items():
            if (source := sources.get(link)) and source.is_kept:
                known[f"{name}_sha256"] = source.image_sha256
                known[f"{name}_format"] = source.format
        if entry is not None:
            known |= fields_of(entry, "endpoint", "emulated", *_OF_ATTEMPT)
        stored = {sample.slot: sample for sample in entry.stored} if entry else {}
        for slot in range(call.samples):
            yield GeneratedImage(**{**known, **_of_sample(slot, stored.get(slot), entry)})


def _of_prompt(prompt: Prompt) -> dict[str, Any]:
    return {
        **fields_of(prompt, *_OF_PROMPT),
        "prompt": prompt.effective_prompt,
        "negative_prompt": prompt.effective_negative_prompt,
    }


def _of_sample(slot: int, sample: StoredSample | None, entry: Entry | None) -> dict[str, Any]:
    if sample is None:
        outcome, error = _outcome_so_far(entry)
        return {"sample_index": slot, "outcome": outcome, "error": error}
    return {
        **(fields_of(entry.bought_by(sample), *_OF_ATTEMPT) if entry else {}),
        **fields_of(sample, *_OF_SAMPLE),
        "completed_at": sample.stored_at,
    }


def _outcome_so_far(entry: Entry | None) -> tuple[Outcome, str | None]:
    """Return the outcome of a sample of which nothing is stored, and why."""
    if entry is None:
        return Outcome.PENDING, None
    match entry.state:
        case State.UNKNOWN:
            return Outcome.UNKNOWN, entry.error
        case State.FAILED if plan_state(entry) is PlanState.FAILED:
            return Outcome.FAILED, entry.error
        case State.SUCCEEDED:
            return Outcome.FAILED, "the ledger says succeeded, but holds no such sample"
        case _:
            return Outcome.PENDING, entry.error
