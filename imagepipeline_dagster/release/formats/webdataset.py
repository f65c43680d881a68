"""WebDataset: tars of pictures, captions and lineage, with ordinals as names.

webdataset/train-00000.tar, .index.json       where each picture lies
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from typing_extensions import override

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import ReleaseFile
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import NewFile, PackedFiles
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch
from imagepipeline_dagster.storage.contract import image_path

_TAR_BYTES = 500 * 2**20
_JSON = json.JSONEncoder(default=str)


@dataclass(slots=True)
class _Tar:
    """A tar of whole parts.

    Attributes:
        number: its place.
        parts: those in it.
        first: how many pictures lie before it.
        file: what is written of it, where it is not taken over.
        size: how many bytes that is.
        index: of the pictures that are written.
    """

    number: int
    parts: Sequence[Part]
    first: int
    file: NewFile | None = None
    size: int = 0
    index: list[dict[str, Any]] = field(default_factory=list)

    def write(self, file: NewFile, *pieces: bytes | memoryview) -> None:
        """Write some pieces to its file."""
        for piece in pieces:
            file.write(piece)
            self.size += len(piece)

    def add(self, file: NewFile, name: str, data: bytes | memoryview) -> int:
        """Add a member, and return where its bytes begin."""
        offset = self.size + tarfile.BLOCKSIZE
        self.write(file, _header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def key(self, extension: str) -> str:
        """Return what the tar is known by, its pictures named like that."""
        parts = [part.key for part in self.parts]
        made_of = {"first": self.first, "parts": parts, "extension": extension}
        return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()[:32]


class WebDatasetTars(Writer):
    """Tars of whole parts, with an index beside each.

    A tar is taken over where all its parts are the same, and as many pictures lie before it.
    """

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        self._split = split
        self._packed = packed
        self._tars = list(_planned_tars(parts))
        self._tar_of = {part.number: tar for tar in self._tars for part in tar.parts}
        self._same = {tar.number for tar in self._tars if self._is_taken_over(tar)}

    def _is_taken_over(self, tar: _Tar) -> bool:
        key = tar.key(self._packed.extension)
        former = self._packed.former_files("webdataset", key)
        names = {f"{self._stem(tar)}.{file.path.partition('.')[2]}": file for file in former}
        return bool(names) and self._packed.take_over(names)

    @override
    def wants(self, part: Part) -> HeldRows:
        return HeldRows() if self._tar_of[part.number].number in self._same else part.rows

    @override
    def runs(self, parts: Sequence[Part]) -> Sequence[Sequence[Part]]:
        return [tar.parts for tar in self._tars]

    @override
    def add(self, part: Part, batch: Batch) -> None:
        tar = self._tar_of[part.number]
        if tar.file is None:
            tar.file = self._packed.new_file()
        for row, data in zip(batch.rows, batch.files, strict=True):
            key = f"{tar.first + len(tar.index):09d}"
            caption = row["prompt"]
            offset = tar.add(tar.file, f"{key}.{self._packed.extension}", data)
            lineage = _JSON.encode(row).encode()
            tar.add(tar.file, f"{key}.json", lineage)
            tar.add(tar.file, f"{key}.txt", (caption or "").encode())
            tar.index.append({"key": key, "offset": offset, "size": len(data), "caption": caption})

    @override
    def end(self, part: Part) -> None:
        tar = self._tar_of[part.number]
        if tar.file is None or part.number != tar.parts[-1].number:
            return
        # Two empty blocks end a tar, and its size is one of whole records.
        tar.write(tar.file, bytes(2 * tarfile.BLOCKSIZE))
        tar.write(tar.file, bytes(-tar.size % tarfile.RECORDSIZE))
        tar.file.close()
        key = tar.key(self._packed.extension)
        name = f"{self._stem(tar)}.tar"
        self._packed.move(name, tar.file.path, sha256=tar.file.sha256, part=key)
        data = json.dumps(tar.index).encode()
        index = ReleaseFile.of(f"{self._stem(tar)}.index.json", data, part=key)
        self._packed.put([(index, data)])
        tar.index.clear()

    @override
    def abandon(self) -> None:
        for tar in self._tars:
            if tar.file is not None:
                tar.file.close()

    def _stem(self, tar: _Tar) -> str:
        return f"webdataset/{self._split}-{tar.number:05d}"


# A header as tarfile makes it, up to the member's name and size: making each anew takes as long as
# all else that is done for a member.
_PLAIN = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _header(name: str, size: int) -> bytes:
    """Return the header of a member."""
    header = bytearray(_PLAIN)
    header[_NAME] = name.encode().ljust(100, b"\0")
    header[_SIZE] = b"%011o\0" % size
    header[_SUM] = b" " * 8
    header[_SUM] = b"%06o\0 " % sum(header)
    return bytes(header)


def _planned_tars(parts: Sequence[Part]) -> Iterator[_Tar]:
    """Yield the tars, each of about 500 MB at most or of one part."""
    number = first = size = 0
    run: list[Part] = []
    for part in parts:
        added = part.rows.picture_bytes
        if run and size + added > _TAR_BYTES:
            yield _Tar(number, run, first)
            number, first = number + 1, first + sum(len(own.rows) for own in run)
            run, size = [], 0
        run.append(part)
        size += added
    if run:
        yield _Tar(number, run, first)


def member_extension(rows: Iterable[ModeratedImage]) -> str:
    """Return the extension of all pictures in tars, without its dot.

    Readers tell a sample's parts by their extensions, and take a sample with others for broken.
    They tell a picture's format by its bytes. So pictures of several formats are all named `.jpg`.
    """
    formats = {row.format or "" for row in rows}
    if len(formats) != 1:
        return "jpg"
    return PurePosixPath(image_path("0" * 64, *formats)).suffix[1:]
