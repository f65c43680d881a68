"""WebDataset: tars of pictures, captions and lineage, with ordinals as names.

webdataset/train-00000.tar, .index.json       where each picture lies
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from typing_extensions import override

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import ReleaseFile
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch
from imagepipeline_dagster.storage.contract import image_path

_TAR_BYTES = 500 * 2**20
_JSON = json.JSONEncoder(default=str)


@dataclass(frozen=True, slots=True)
class _PlannedTar:
    """A tar of whole parts: its place, its parts, and how many pictures lie before it."""

    number: int
    parts: Sequence[Part]
    first: int

    def key(self, parts: Iterable[str], extension: str) -> str:
        """Return the key of the tar, with these parts in it, its pictures named like that."""
        made_of = {"first": self.first, "parts": list(parts), "extension": extension}
        return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()[:32]


class WebDatasetTars(Writer):
    """Tars of whole parts, with an index beside each.

    A tar is taken over where all its parts are the same, and as many pictures lie before it.
    """

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        self._split = split
        self._packed = packed
        tars = list(_planned_tars(parts))
        self._tar_of = {part.number: tar for tar in tars for part in tar.parts}
        self._same = {tar.number for tar in tars if self._is_taken_over(tar)}
        self._open: BufferedWriter | None = None
        self._index: list[dict[str, Any]] = []
        self._written: list[str] = []

    def _is_taken_over(self, tar: _PlannedTar) -> bool:
        key = tar.key((part.key for part in tar.parts), self._packed.extension)
        former = self._packed.former_files("webdataset", key)
        names = {f"{self._stem(tar)}.{file.path.partition('.')[2]}": file for file in former}
        return bool(names) and self._packed.take_over(names)

    @override
    def wants(self, part: Part) -> HeldRows:
        return HeldRows() if self._tar_of[part.number].number in self._same else part.rows

    @override
    def add(self, part: Part, batch: Batch) -> None:
        if self._open is None:
            self._open = self._packed.new_path().open("xb")
        for row, (_, data) in zip(batch.rows, batch.files(), strict=True):
            key = f"{self._tar_of[part.number].first + len(self._index):09d}"
            caption = row["prompt"]
            offset = _add_member(self._open, f"{key}.{self._packed.extension}", data)
            lineage = _JSON.encode(row).encode()
            _add_member(self._open, f"{key}.json", pa.py_buffer(lineage))
            _add_member(self._open, f"{key}.txt", pa.py_buffer((caption or "").encode()))
            self._index.append(
                {"key": key, "offset": offset, "size": data.size, "caption": caption}
            )

    @override
    def end(self, part: Part) -> None:
        self._written.append(part.key)
        tar = self._tar_of[part.number]
        if self._open is None or part.number != tar.parts[-1].number:
            return
        # Two empty blocks end a tar, and its size is one of whole records.
        self._open.write(bytes(2 * tarfile.BLOCKSIZE))
        self._open.write(bytes(-self._open.tell() % tarfile.RECORDSIZE))
        self._open.close()
        key = tar.key(self._written, self._packed.extension)
        self._packed.move(f"{self._stem(tar)}.tar", Path(self._open.name), part=key)
        data = json.dumps(self._index).encode()
        index = ReleaseFile.of(f"{self._stem(tar)}.index.json", data, part=key)
        self._packed.put([(index, data)])
        self._open, self._index, self._written = None, [], []

    @override
    def abandon(self) -> None:
        if self._open is not None:
            self._open.close()

    def _stem(self, tar: _PlannedTar) -> str:
        return f"webdataset/{self._split}-{tar.number:05d}"


def _add_member(tar: BufferedWriter, name: str, data: pa.Buffer) -> int:
    """Add a file to a tar, and return where its bytes begin."""
    member = tarfile.TarInfo(name)
    member.size = data.size
    tar.write(member.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-data.size % tarfile.BLOCKSIZE))
    return offset


def _planned_tars(parts: Sequence[Part]) -> Iterator[_PlannedTar]:
    """Yield the tars, each of about 500 MB at most or of one part."""
    number = first = size = 0
    run: list[Part] = []
    for part in parts:
        added = part.rows.picture_bytes
        if run and size + added > _TAR_BYTES:
            yield _PlannedTar(number, run, first)
            number, first = number + 1, first + sum(len(own.rows) for own in run)
            run, size = [], 0
        run.append(part)
        size += added
    if run:
        yield _PlannedTar(number, run, first)


def member_extension(rows: Iterable[ModeratedImage]) -> str:
    """Return the extension of all pictures in tars, without its dot.

    Readers tell a sample's parts by their extensions, and take a sample with others for broken.
    They tell a picture's format by its bytes. So pictures of several formats are all named `.jpg`.
    """
    formats = {row.format or "" for row in rows}
    if len(formats) != 1:
        return "jpg"
    return PurePosixPath(image_path("0" * 64, *formats)).suffix[1:]
