"""The pictures of a release, read and stamped some at a time, with the rows that they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any

import pyarrow as pa

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.columns import lineage_table, released_row
from imagepipeline_dagster.release.containers import readable
from imagepipeline_dagster.release.parts import Part, portions_of
from imagepipeline_dagster.release.stamping import Stamped
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

# A reader of a release holds a row group at a time, and so does its writer.
_ROW_GROUP = 100  # rows
_ROW_GROUP_BYTES = 16 * 2**20

Stamp = Callable[[ModeratedImage, bytes], Stamped]
"""What turns a picture's bytes into those of its file in a release."""

PictureFile = tuple[tuple[bytes | memoryview, ...], str | None]
"""The bytes of a picture's file, in pieces, and its mark."""

Released = Callable[[ModeratedImage], PictureFile | None]
"""What has the file of a row's picture as it was released."""


@dataclass(frozen=True, slots=True)
class LostImage:
    """A row whose picture cannot be released: its bytes are gone or changed, as `why` says."""

    row: ModeratedImage
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one part as they are released: a row group at most.

    Attributes:
        digests: of what each row says and shows.
        rows: their lineage, as it is released.
        lineage: the same as a table.
        files: the bytes of each picture's file.
        images: the same with the files' names, as the column `image` holds them.
        lost: the rows whose pictures are lost, which are none of these.
    """

    digests: Sequence[bytes]
    rows: Sequence[Mapping[str, Any]]
    lineage: pa.Table
    files: Sequence[memoryview]
    images: pa.StructArray
    lost: Sequence[LostImage]


def read_batches(
    storage: Storage,
    part: Part,
    *,
    stamp: Stamp | None = None,
    released: Released | None = None,
) -> Iterator[Batch]:
    """Yield the rows of a part with their pictures, a batch at a time.

    Args:
        storage: where the pictures are.
        part: whose rows they are.
        stamp: writes a picture's origin into its file; None leaves it out.
        released: has the files of pictures that are gone from the storage.

    Raises:
        ValueError: when a row has no image.
    """
    digests = iter(part.rows.digests)
    for rows in portions_of(part.rows, bytes_at_most=_ROW_GROUP_BYTES, rows_at_most=_ROW_GROUP):
        yield _read(storage, part.split, rows, list(islice(digests, len(rows))), stamp, released)


def _read(
    storage: Storage,
    split: str,
    rows: Sequence[ModeratedImage],
    digests: Sequence[bytes],
    stamp: Stamp | None,
    released: Released | None,
) -> Batch:
    """Return the rows as they are released, with the pictures that were bought."""
    there: list[bytes] = []
    names: list[str] = []
    lineage: list[Mapping[str, Any]] = []
    pieces: list[bytes | memoryview] = []
    sizes: list[int] = []
    lost: list[LostImage] = []
    pictures = list(map(_picture_of, rows))
    read = read_each(storage, pictures)
    for row, digest, picture, data in zip(rows, digests, pictures, read, strict=True):
        if isinstance(data, str):
            file = released(row) if released else None
        else:
            file = _stamped(row, readable(data, picture[1]), stamp)
        if file is None:
            lost.append(LostImage(row, str(data)))
            continue
        of_file, mark = file
        pieces += of_file
        there.append(digest)
        names.append(_file_name(picture))
        sizes.append(sum(map(len, of_file)))
        lineage.append(
            released_row(
                row,
                split=split,
                # Of the bytes as they are stored it is known, and was checked.
                file_sha256=picture[0] if of_file == (data,) else _sha256_of(of_file),
                mark=mark,
            )
        )
    ends = list(accumulate(sizes, initial=0))
    joined = pa.allocate_buffer(ends[-1])  # Arrow's, which has memory at hand
    view = free = memoryview(joined).cast("B")
    for piece in pieces:
        free[: len(piece)] = piece
        free = free[len(piece) :]
    return Batch(
        digests=there,
        rows=lineage,
        lineage=lineage_table(lineage),
        files=[view[start:end] for start, end in pairwise(ends)],
        images=_images(names, joined, ends),
        lost=lost,
    )


def _stamped(row: ModeratedImage, shown: bytes, stamp: Stamp | None) -> PictureFile:
    if stamp is None:
        return (shown,), None
    stamped = stamp(row, shown)
    return stamped.pieces, stamped.mark.value


def _sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def read_each(storage: Storage, pictures: Sequence[tuple[str, str]]) -> Iterator[bytes | str]:
    """Yield the bytes of stored pictures, named by SHA-256 and format, or why they are lost."""
    paths = [image_path(*picture) for picture in pictures]
    for (sha256, _), path, data in zip(pictures, paths, storage.read_each(paths), strict=True):
        if isinstance(data, ObjectMissing):
            yield f"{data}: restore it from a backup, or fetch it again"
        elif hashlib.sha256(data).hexdigest() != sha256:
            yield (
                f"{storage.uri_of(path)} does not hold the bytes that were stored: their SHA-256 "
                "differs. Restore it from a backup, or delete it and fetch it again"
            )
        else:
            yield data


def _images(names: Sequence[str], joined: pa.Buffer, ends: Sequence[int]) -> pa.StructArray:
    """Return the column `image`, of bytes that are not copied."""
    _, offsets = pa.array(ends, pa.int32()).buffers()
    columns: list[pa.Array[Any]] = [
        pa.Array.from_buffers(pa.binary(), len(names), [None, offsets, joined]),
        pa.array(names, pa.string()),
    ]
    return pa.StructArray.from_arrays(columns, names=["bytes", "path"])


def file_name(row: ModeratedImage) -> str:
    """Return the name of a picture's file, which tells its content."""
    return _file_name(_picture_of(row))


def _file_name(picture: tuple[str, str]) -> str:
    return image_path(*picture).rpartition("/")[2]


def _picture_of(row: ModeratedImage) -> tuple[str, str]:
    if row.image_sha256 is None or row.format is None:
        raise ValueError(f"{row.prompt_set!r}, prompt {row.prompt_id!r}: there is no image")
    return row.image_sha256, row.format
