"""The columns of a release: each row's lineage, and its picture.

The `image` column is a struct of `bytes` and `path`, and each file carries the description that
Hugging Face `datasets` looks for: there, and in its viewer, the column is a picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import pyarrow as pa

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.policy import NOT_RELEASED
from imagepipeline_dagster.rows import arrow_schema

FORMAT_VERSION = 6
"""Version of the shards' columns and layout; another one makes a new release."""

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

_OF_THE_RELEASE = {
    "init_image": "Link of the first picture that the request named",
    "mask_image": "Link of the mask that the request named",
    "split": "The split that it is in",
    "file_sha256": "SHA-256 of the picture's bytes here; another than image_sha256 "
    "where its origin was written into the file, or broken metadata was dropped",
    "mark": "stamped: the file says its origin; signed: and carries our content "
    "credentials; credentials: it carries others' and is as delivered; none: it could "
    "not be stamped; null: no stamp was asked for",
}
"""Columns that are no field of a moderated image, each a text."""

# How an image came to be here. The same image of the same request is the same content, whichever
# run fetched it, and whatever else changed in its prompt set.
_CIRCUMSTANCES = {
    *("job_id", "submitted_at", "completed_at", "overridden_at"),
    *("run_id", "endpoint", "content_version"),
}


@cache
def shard_schema() -> pa.Schema:
    """Return the shards' columns: the image, then its lineage, each with its description."""
    image = pa.field(  # nullable, or `datasets` does not take it for a picture
        "image",
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        metadata={"description": "The picture: its pixels as delivered, and a file name"},
    )
    lineage = [field for field in arrow_schema(ModeratedImage) if field.name not in NOT_RELEASED]
    lineage += (
        pa.field(name, pa.string(), metadata={"description": description})
        for name, description in _OF_THE_RELEASE.items()
    )
    features = {"image": {"_type": "Image"}} | {
        field.name: {"_type": "Value", "dtype": _dtype(field.type)} for field in lineage
    }
    described = json.dumps({"info": {"features": features}})
    return pa.schema([image, *lineage], metadata={"huggingface": described})


@cache
def _lineage() -> tuple[tuple[str, ...], attrgetter[tuple[Any, ...]]]:
    """Return the columns that a row has itself, and what takes them from it."""
    own = ("image", *_OF_THE_RELEASE)
    names = tuple(name for name in shard_schema().names if name not in own)
    return names, attrgetter(*names)


def _dtype(arrow_type: pa.DataType) -> str:
    """Return the name that Hugging Face `datasets` has for an Arrow type."""
    return "float64" if pa.types.is_float64(arrow_type) else str(arrow_type)


def fingerprint(
    digests: Iterable[bytes], splits: Iterable[str] | None = None, *, packing: str = ""
) -> str:
    """Return the SHA-256 of what the rows say and show, in whatever order and by whichever run.

    Args:
        digests: of the rows of a release, or of a part of it.
        splits: those that the rows are in, where they are told apart by them.
        packing: how they are packed.
    """
    digest = hashlib.sha256(f"shards {FORMAT_VERSION} {packing}\n".encode())
    lines = digests
    if splits is not None:
        lines = (line + split.encode() for line, split in zip(lines, splits, strict=True))
    for line in sorted(lines):  # a million digests take little memory
        digest.update(line)
    return digest.hexdigest()


DIGEST_BYTES = hashlib.sha256().digest_size
"""Of what a row says and shows."""


def digest_of(row: ModeratedImage) -> bytes:
    """Return a digest of what the row says and shows."""
    return hashlib.sha256(_JSON.encode(_content()(row)).encode()).digest()


@cache
def _content() -> attrgetter[tuple[object, ...]]:
    """Return what takes from a row the columns that are its content."""
    left_out = NOT_RELEASED | _CIRCUMSTANCES
    return attrgetter(*sorted(set(arrow_schema(ModeratedImage).names) - left_out))


def sources_of(row: ModeratedImage) -> dict[str, tuple[str, str]]:
    """Return the kept pictures that a row starts from, by kind: SHA-256 and format."""
    sources = {
        "init": (row.init_image_sha256, row.init_image_format),
        "mask": (row.mask_image_sha256, row.mask_image_format),
    }
    return {kind: (sha, name) for kind, (sha, name) in sources.items() if sha and name}


def without_sources(row: ModeratedImage, withdrawn: Collection[str]) -> ModeratedImage:
    """Return a row that starts from none of these pictures, which are no more; by SHA-256."""
    if row.init_image_sha256 in withdrawn:
        row = dataclasses.replace(row, init_image_sha256=None, init_image_format=None)
    if row.mask_image_sha256 in withdrawn:
        row = dataclasses.replace(row, mask_image_sha256=None, mask_image_format=None)
    return row


def released_row(
    row: ModeratedImage, *, split: str, file_sha256: str, mark: str | None
) -> dict[str, Any]:
    """Return the row as it is released, without its picture."""
    names, values = _lineage()
    lineage = dict(zip(names, values(row), strict=True))
    request = json.loads(row.request or "{}")
    links = {name: request.get(name) for name in ("init_image", "mask_image")}
    return {**lineage, **links, "split": split, "file_sha256": file_sha256, "mark": mark}


def lineage_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return released rows as a table, without their pictures."""
    return pa.Table.from_pylist(rows, schema=shard_schema().remove(0).remove_metadata())
