"""Lance: a dataset a split, with a fragment a part.

lance/train.lance/data/00000-1f0c….lance      a fragment, named by its content
lance/train.lance/_versions/…                 which fragments there are

Each release is a dataset of one version, committed over the files of its parts. So no row is ever
deleted within a file, and the bytes of what left a release are in none of its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from imagepipeline_dagster.release.card import ReleaseFile
from imagepipeline_dagster.release.columns import shard_schema
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch

if TYPE_CHECKING:
    from lance.file import LanceFileWriter
    from lance.fragment import FragmentMetadata

_VERSION = (2, 1)  # of the files: all of a dataset have one, so another needs a FORMAT_VERSION


class LanceDatasets(Writer):
    """A fragment for each part, which is taken over where the former release has it."""

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        self._folder = f"lance/{split}.lance"
        self._packed = packed
        self._open: dict[int, tuple[LanceFileWriter, Path]] = {}
        same = packed.parts_taken_over("lance", parts, self._path)
        self._fragments = {part.number: _fragment(part, file.size) for part, file in same.items()}

    @override
    def wants(self, part: Part) -> HeldRows:
        return HeldRows() if part.number in self._fragments else part.rows

    @override
    def add(self, part: Part, batch: Batch) -> None:
        if not batch.rows:
            return  # a file without a row is of no use to anybody
        if part.number not in self._open:
            path = self._packed.new_path()
            self._open[part.number] = _writer(path), path
        writer, _ = self._open[part.number]
        images = pc.struct_field(batch.images, "bytes").cast(pa.large_binary())
        columns = [images, *batch.lineage.columns]
        writer.write_batch(pa.Table.from_arrays(columns, schema=_schema()))

    @override
    def end(self, part: Part) -> None:
        if part.number not in self._open:
            return
        writer, file = self._open.pop(part.number)
        writer.close()
        self._fragments[part.number] = _fragment(part, file.stat().st_size)
        with file.open("rb") as written:  # from memory, where it still is
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        self._packed.move(self._path(part), file, sha256=sha256, part=part.key)

    @override
    def finish(self) -> None:
        from lance import LanceDataset, LanceOperation

        if not self._fragments:
            return
        fragments = [self._fragments[number] for number in sorted(self._fragments)]
        # A commit reads no data file: it writes beside them which ones there are.
        committed = self._packed.new_path()
        committed.mkdir()
        LanceDataset.commit(str(committed), LanceOperation.Overwrite(_schema(), fragments))
        files = {
            f"{self._folder}/{file.relative_to(committed).as_posix()}": file.read_bytes()
            for file in committed.rglob("*")
            if file.is_file()
        }
        self._packed.put([(ReleaseFile.of(name, data), data) for name, data in files.items()])

    def _path(self, part: Part) -> str:
        return f"{self._folder}/data/{_name(part)}"


def _writer(file: Path) -> LanceFileWriter:
    from lance.file import LanceFileWriter

    return LanceFileWriter(str(file), _schema(), version="{}.{}".format(*_VERSION))


def _schema() -> pa.Schema:
    """Return the columns: pictures as plain bytes, since a scan reads the columns that it names."""
    schema = shard_schema()
    image = pa.field(
        "image",
        pa.large_binary(),  # others end at 2 GB a batch, and a reader's batch is 8192 rows
        metadata={
            "description": "The picture: its pixels as delivered",
            "lance-encoding:compression": "none",
            # A page with few different values gets a dictionary, which is read whole for any of
            # them; to count them, each picture would be hashed. With this none are few enough.
            "lance-encoding:dict-divisor": "1000000000",
        },
    )
    return schema.set(0, image)


def _name(part: Part) -> str:
    return f"{part.number:05d}-{part.key[:16]}.lance"


def _fragment(part: Part, size: int) -> FragmentMetadata:
    from lance.fragment import DataFile, FragmentMetadata

    columns = list(range(len(_schema())))
    file = DataFile(_name(part), columns, columns, *_VERSION, file_size_bytes=size)
    return FragmentMetadata(id=part.number, files=[file], physical_rows=len(part.rows))
