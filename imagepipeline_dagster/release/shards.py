"""The kept images with their lineage: cut into parts, read, and written as Parquet files.

A part is a run of rows of one split, known by its content. The next release takes the files of a
part over as they are. So parts end where prompt sets end, and a change reaches one part alone.

The `image` column is a struct of `bytes` and `path`, and each file carries the description that
Hugging Face `datasets` looks for: there, and in its viewer, the column is a picture.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.containers import readable
from imagepipeline_dagster.release.stamping import Stamped
from imagepipeline_dagster.rows import arrow_schema
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

__all__ = [
    "FORMAT_VERSION",
    "SHARD_BYTES",
    "LostImage",
    "Part",
    "ShardWriter",
    "Stamp",
    "fingerprint",
    "parts_of",
    "read_pictures",
    "released_row",
    "shard_schema",
    "split_into_shards",
]

FORMAT_VERSION = 4
"""Version of the shards' columns and layout; another one makes a new release."""

SHARD_BYTES = 256 * 2**20
"""Images of a shard, in bytes: few files, yet each is quick to fetch and to hold."""

_PART_BYTES = 4 * 2**20  # a prompt set with more pictures than this has parts of its own
_MOST_PARTS = 4096  # of a split, about: a larger dataset has larger parts

# A writer and a reader hold a row group at a time.
_ROW_GROUP = 100  # rows
_ROW_GROUP_BYTES = 16 * 2**20
_READERS = 8  # threads

_OF_THE_RELEASE = ("image", "split", "file_sha256", "mark")
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
        metadata={"description": "The picture: its pixels as delivered, and a file name"},
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
                "where its origin was written into the file, or broken metadata was dropped"
            },
        )
    )
    lineage.append(
        pa.field(
            "mark",
            pa.string(),
            metadata={
                "description": "stamped: the file says its origin; credentials: it carries "
                "content credentials and is as delivered; none: it could not be stamped; null: no "
                "stamp was asked for"
            },
        )
    )
    features = {"image": {"_type": "Image"}} | {
        field.name: {"_type": "Value", "dtype": _dtype(field.type)} for field in lineage
    }
    described = json.dumps({"info": {"features": features}})
    return pa.schema([image, *lineage], metadata={"huggingface": described})


@cache
def _lineage() -> tuple[str, ...]:
    return tuple(name for name in shard_schema().names if name not in _OF_THE_RELEASE)


def _dtype(arrow_type: pa.DataType) -> str:
    """Return the name that Hugging Face `datasets` has for an Arrow type."""
    return "float64" if pa.types.is_float64(arrow_type) else str(arrow_type)


def fingerprint(rows: Iterable[ModeratedImage], *, packing: str = "") -> str:
    """Return the SHA-256 of what the rows say and show, in whatever order and by whichever run."""
    digest = hashlib.sha256(f"shards {FORMAT_VERSION} {packing}\n".encode())
    for line in sorted(map(_digest_of, rows)):  # a million digests take little memory
        digest.update(line)
    return digest.hexdigest()


@cache
def _content_columns() -> tuple[str, ...]:
    names = arrow_schema(ModeratedImage).names
    return tuple(name for name in names if name not in _LEFT_OUT | _CIRCUMSTANCES)


def _digest_of(row: ModeratedImage) -> bytes:
    content = {name: getattr(row, name) for name in _content_columns()}
    return hashlib.sha256(canonical_json(content).encode()).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A run of rows of one split, whose files are the same as long as its content is.

    Attributes:
        split: of all its rows.
        number: its place in the split.
        rows: in the order of the release.
        key: of the content, and of what else makes the files' bytes.
    """

    split: str
    number: int
    rows: Sequence[ModeratedImage]
    key: str

    @classmethod
    def of(
        cls, split: str, number: int, rows: Sequence[ModeratedImage], *, shaping: str = ""
    ) -> Part:
        """Return the part that these rows are; `shaping` is what else makes the files' bytes."""
        return cls(split, number, rows, fingerprint(rows, packing=f"{split} {shaping}")[:32])


def parts_of(
    split: str, rows: Sequence[ModeratedImage], *, bytes_per_shard: int, shaping: str = ""
) -> Iterator[Part]:
    """Yield the rows of a split, in order, in parts that end where prompt sets end.

    A large set has parts of its own. Of the small ones the names decide which end a part: so no
    change of one set moves the borders between others.
    """
    runs = _runs(rows)
    shards = chain.from_iterable(
        split_into_shards(run, bytes_per_shard=bytes_per_shard) for run in runs
    )
    for number, shard in enumerate(shards):
        yield Part.of(split, number, shard, shaping=shaping)


def _runs(rows: Sequence[ModeratedImage]) -> Iterator[list[ModeratedImage]]:
    """Yield the rows of a large prompt set, or of several small ones."""
    least = _PART_BYTES
    total = sum(row.bytes or 0 for row in rows)
    while total > least * _MOST_PARTS:
        least *= 2
    run: list[ModeratedImage] = []
    for name, of_set in groupby(rows, key=lambda row: row.prompt_set):
        listed = list(of_set)
        size = sum(row.bytes or 0 for row in listed)
        if size >= least:
            yield run
            run = []
        run += listed
        if size >= least * _share(name):
            yield run
            run = []
    yield run


def _share(name: str) -> float:
    """Return a number from 0 to 1 that a set's name stands for."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32


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


class ShardWriter:
    """Writes one Parquet file, a row group of about 16 MB at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        schema = shard_schema()
        lineage = [name for name in schema.names if name not in ("image", "file_sha256")]
        self._group: list[Mapping[str, Any]] = []
        self._size = 0
        self._writer = pq.ParquetWriter(
            file,
            schema,
            # Pictures are compressed already, and none of them is like another.
            compression=dict.fromkeys([*lineage, "file_sha256"], "zstd"),
            use_dictionary=lineage,  # type: ignore[arg-type] # a list too, says pyarrow
            # Without them a column has no page index. Those of pictures are too long to be kept.
            write_statistics=[*lineage, "file_sha256", "image.bytes", "image.path"],
            write_page_index=True,
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row, as `read_pictures` yields it."""
        size = len(row["image"]["bytes"])
        full = len(self._group) == _ROW_GROUP or self._size + size > _ROW_GROUP_BYTES
        if self._group and full:
            self._flush()
        self._group.append(row)
        self._size += size

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._group:
            return
        schema = shard_schema()
        columns: dict[str, Any] = {
            name: [row[name] for row in self._group] for name in schema.names if name != "image"
        }
        images = [row["image"] for row in self._group]
        columns["image"] = pa.StructArray.from_arrays(
            [
                pa.array([image["bytes"] for image in images], pa.binary()),
                pa.array([image["path"] for image in images], pa.string()),
            ],
            names=["bytes", "path"],
        )
        self._writer.write_table(pa.table(columns, schema=schema))
        self._group, self._size = [], 0


Stamp = Callable[[ModeratedImage, bytes], Stamped]
"""What turns a picture's bytes into those of its file in a release."""


def read_pictures(
    storage: Storage, parts: Iterable[Part], *, stamp: Stamp | None = None
) -> Iterator[tuple[Part, Iterator[Mapping[str, Any] | LostImage]]]:
    """Yield each part with its rows, as they are released, and those whose pictures are lost.

    The next pictures are read while these are written; about 50 MB are held at once.

    Args:
        storage: where the pictures are.
        parts: in the order that they are written in.
        stamp: writes a picture's origin into its file; None leaves it out.

    Raises:
        ValueError: when a row has no image.
    """
    # A bucket answers one read after tens of milliseconds, and eight as soon.
    with ThreadPoolExecutor(_READERS) as readers:
        ahead: deque[tuple[Part, list[Future[Mapping[str, Any] | LostImage]]]] = deque()
        groups = ((part, group) for part in parts for group in _row_groups(part.rows))

        def released() -> Iterator[tuple[Part, Mapping[str, Any] | LostImage]]:
            for part, group in groups:
                read = partial(_released, storage, part.split, stamp)
                ahead.append((part, [readers.submit(read, row) for row in group]))
                if len(ahead) > 1:
                    yield from _finished(*ahead.popleft())
            while ahead:
                yield from _finished(*ahead.popleft())

        for part, rows in groupby(released(), key=itemgetter(0)):
            yield part, map(itemgetter(1), rows)


def _finished(
    part: Part, reading: Sequence[Future[Mapping[str, Any] | LostImage]]
) -> Iterator[tuple[Part, Mapping[str, Any] | LostImage]]:
    for row in reading:
        yield part, row.result()


def _row_groups(rows: Sequence[ModeratedImage]) -> Iterator[list[ModeratedImage]]:
    """Yield the rows in lists of at most a hundred, whose pictures take about 16 MB."""
    for group in split_into_shards(rows, bytes_per_shard=_ROW_GROUP_BYTES):
        for start in range(0, len(group), _ROW_GROUP):
            yield group[start : start + _ROW_GROUP]


def _released(
    storage: Storage, split: str, stamp: Stamp | None, row: ModeratedImage
) -> Mapping[str, Any] | LostImage:
    """Return the row as it is released, with the picture that was bought."""
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
    shown, mark = readable(data, row.format), None
    if stamp is not None:
        stamped = stamp(row, shown)
        shown, mark = stamped.data, stamped.mark.value
    sha256 = row.image_sha256 if shown is data else hashlib.sha256(shown).hexdigest()
    image = {"bytes": shown, "path": PurePosixPath(path).name}
    return {"image": image, **released_row(row, split=split, file_sha256=sha256, mark=mark)}


def released_row(
    row: ModeratedImage, *, split: str, file_sha256: str, mark: str | None
) -> dict[str, Any]:
    """Return the row as it is released, without its picture."""
    lineage = {name: getattr(row, name) for name in _lineage()}
    return {**lineage, "split": split, "file_sha256": file_sha256, "mark": mark}
