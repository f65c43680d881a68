"""The kept images with their lineage, as Parquet files.

The `image` column is a struct of `bytes` and `path`, and each file carries the description that
Hugging Face `datasets` looks for: there, and in its viewer, the column is a picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.containers import readable
from imagepipeline_dagster.rows import arrow_schema
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

__all__ = [
    "FORMAT_VERSION",
    "SHARD_BYTES",
    "LostImage",
    "fingerprint",
    "shard_schema",
    "split_into_shards",
    "write_shard",
]

FORMAT_VERSION = 3
"""Version of the shards' columns and layout; another one makes a new release."""

SHARD_BYTES = 256 * 2**20
"""Images of a shard, in bytes: few files, yet each is quick to fetch and to hold."""

# A writer and a reader hold a row group at a time.
_ROW_GROUP = 100  # rows
_ROW_GROUP_BYTES = 16 * 2**20
_READERS = 8  # threads

_OF_THE_RELEASE = ("image", "split", "file_sha256")
"""Columns that are no field of a moderated image."""

_LEFT_OUT = frozenset(
    {
        "uri",  # the maker's own folders are nobody else's business
        "bytes",  # the image tells its size
        "value_range",
        "has_alpha",
        "carries_more",
        "moderation_basis",
        # The same for every kept image:
        "outcome",
        "error",
    }
)

_CIRCUMSTANCES = frozenset(
    {
        *("job_id", "submitted_at", "completed_at", "run_id", "endpoint", "content_version"),
        "overridden_at",
    }
)
# How an image came to be here. The same image of the same request is the same content, whichever
# run fetched it, and whatever else changed in its prompt set.


@dataclass(frozen=True, slots=True)
class LostImage:
    """A row whose picture cannot be released: its bytes are gone or changed, as `why` says."""

    row: ModeratedImage
    why: str


@cache
def shard_schema() -> pa.Schema:
    """Return the shards' columns: the image, then its lineage, each with its description."""
    image = pa.field(  # nullable, or `datasets` does not take it for a picture
        "image",
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        metadata={"description": "The picture: its bytes as delivered, and a file name for them"},
    )
    lineage = [field for field in arrow_schema(ModeratedImage) if field.name not in _LEFT_OUT]
    lineage.append(
        pa.field("split", pa.string(), metadata={"description": "The split that it is in"})
    )
    lineage.append(
        pa.field(
            "file_sha256",
            pa.string(),
            metadata={
                "description": "SHA-256 of the picture's bytes here; another than image_sha256 "
                "where metadata that readers stumble over was dropped"
            },
        )
    )
    features = {"image": {"_type": "Image"}} | {
        field.name: {"_type": "Value", "dtype": _dtype(field.type)} for field in lineage
    }
    described = json.dumps({"info": {"features": features}})
    return pa.schema([image, *lineage], metadata={"huggingface": described})


def _dtype(arrow_type: pa.DataType) -> str:
    """Return the name that Hugging Face `datasets` has for an Arrow type."""
    return "float64" if pa.types.is_float64(arrow_type) else str(arrow_type)


def fingerprint(rows: Iterable[ModeratedImage], *, packing: str = "") -> str:
    """Return the SHA-256 of what the rows say and show, in whatever order and by whichever run."""
    names = [
        name
        for name in arrow_schema(ModeratedImage).names
        if name not in _LEFT_OUT | _CIRCUMSTANCES
    ]
    lines = sorted(canonical_json({name: getattr(row, name) for name in names}) for row in rows)
    digest = hashlib.sha256(f"shards {FORMAT_VERSION} {packing}\n".encode())
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def split_into_shards(
    rows: Iterable[ModeratedImage], *, bytes_per_shard: int
) -> Iterator[list[ModeratedImage]]:
    """Yield the rows in order, in lists whose images take at most `bytes_per_shard` together.

    An image that alone takes more has a shard of its own.
    """
    shard: list[ModeratedImage] = []
    size = 0
    for row in rows:
        added = row.bytes or 0
        if shard and size + added > bytes_per_shard:
            yield shard
            shard, size = [], 0
        shard.append(row)
        size += added
    if shard:
        yield shard


def write_shard(
    file: Path, rows: Sequence[ModeratedImage], storage: Storage, *, split: str = "train"
) -> list[LostImage]:
    """Write the rows with their images to a local Parquet file; return those that could not be.

    Raises:
        ValueError: when a row has no image.
    """
    lost: list[LostImage] = []
    schema = shard_schema()
    lineage = [name for name in schema.names if name not in _OF_THE_RELEASE]
    with (
        pq.ParquetWriter(
            file,
            schema,
            # Pictures are compressed already, and none of them is like another.
            compression=dict.fromkeys([*lineage, "split", "file_sha256"], "zstd"),
            use_dictionary=[*lineage, "split"],  # type: ignore[arg-type] # a list too, says pyarrow
            write_statistics=[*lineage, "split"],
            write_page_index=True,
        ) as writer,
        # A bucket answers one read after tens of milliseconds, and eight as soon.
        ThreadPoolExecutor(_READERS) as readers,
    ):
        for wanted in _row_groups(rows):
            read = list(readers.map(partial(_image, storage), wanted))
            lost += [image for image in read if isinstance(image, LostImage)]
            group = [image for image in read if not isinstance(image, LostImage)]
            columns: dict[str, list[object]] = {
                name: [getattr(row, name) for row, _ in group] for name in lineage
            }
            columns["image"] = [image for _, image in group]
            columns["split"] = [split] * len(group)
            columns["file_sha256"] = [
                hashlib.sha256(image["bytes"]).hexdigest() for _, image in group
            ]
            writer.write_table(pa.table(columns, schema=schema))
    return lost


def _row_groups(rows: Sequence[ModeratedImage]) -> Iterator[list[ModeratedImage]]:
    """Yield the rows in lists of at most a hundred, whose pictures take about 16 MB."""
    for group in split_into_shards(rows, bytes_per_shard=_ROW_GROUP_BYTES):
        for start in range(0, len(group), _ROW_GROUP):
            yield group[start : start + _ROW_GROUP]


def _image(
    storage: Storage, row: ModeratedImage
) -> tuple[ModeratedImage, dict[str, Any]] | LostImage:
    if row.image_sha256 is None or row.format is None:
        raise ValueError(f"{row.prompt_set!r}, prompt {row.prompt_id!r}: there is no image")
    path = image_path(row.image_sha256, row.format)
    try:
        data = storage.read(path)
    except ObjectMissing as error:
        return LostImage(row, f"{error}: restore it from a backup, or fetch it again")
    if hashlib.sha256(data).hexdigest() != row.image_sha256:
        return LostImage(
            row,
            f"{storage.uri_of(path)} does not hold the bytes that were bought: their SHA-256 "
            "differs. Restore it from a backup, or delete it and fetch it again",
        )
    return row, {"bytes": readable(data, row.format), "path": PurePosixPath(path).name}
