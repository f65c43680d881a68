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

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.columns import lineage_table, shard_schema
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch

if TYPE_CHECKING:
    from lance.fragment import FragmentMetadata

_VERSION = (2, 1)  # of the files: all of a dataset have one, so another needs a FORMAT_VERSION


class LanceDatasets(Writer):
    """A fragment for each part, which is taken over where the former release has it."""

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        self._folder = f"lance/{split}.lance"
        self._packed = packed
        self._open: _DataFile | None = None
        same = {
            part: former[0] for part in parts if (former := packed.former_files("lance", part.key))
        }
        # All at once: the names in one folder are synced once.
        names = {f"{self._folder}/data/{_name(part)}": file for part, file in same.items()}
        taken_over = packed.take_over(names)
        self._fragments = (
            {part.number: _fragment(part, file.size) for part, file in same.items()}
            if taken_over
            else {}
        )

    @override
    def wants(self, part: Part) -> Sequence[ModeratedImage]:
        return () if part.number in self._fragments else part.rows

    @override
    def add(self, part: Part, batch: Batch) -> None:
        del part
        if not batch.rows:
            return  # a file without a row is of no use to anybody
        if self._open is None:
            self._open = _DataFile(self._packed.new_path())
        self._open.write(batch)

    @override
    def end(self, part: Part) -> None:
        if self._open is None:
            return
        file, self._open = self._open, None
        name = f"{self._folder}/data/{_name(part)}"
        size = self._packed.move(name, file, part=part.key)
        self._fragments[part.number] = _fragment(part, size)

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
        for file in committed.rglob("*"):
            if file.is_file():
                name = file.relative_to(committed).as_posix()
                self._packed.put(f"{self._folder}/{name}", file.read_bytes())


class _DataFile:
    """A new local file of rows."""

    def __init__(self, path: Path) -> None:
        from lance.file import LanceFileWriter

        self.path = path
        self._writer = LanceFileWriter(str(path), _schema(), version="{}.{}".format(*_VERSION))

    def write(self, batch: Batch) -> None:
        images = pc.struct_field(batch.images, "bytes").cast(pa.large_binary())
        columns = [images, *lineage_table(batch.rows).columns]
        self._writer.write_batch(pa.Table.from_arrays(columns, schema=_schema()))

    def finish(self) -> tuple[str, int]:
        """Close the file, and return its SHA-256 and its size."""
        self._writer.close()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), self.path.stat().st_size


def _schema() -> pa.Schema:
    """Return the columns: pictures as plain bytes, since a scan reads the columns that it names."""
    schema = shard_schema()
    image = pa.field(
        "image",
        pa.large_binary(),  # others end at 2 GB a batch, and a reader's batch is 8192 rows
        metadata={
            "description": "The picture: its pixels as delivered",
            "lance-encoding:compression": "none",
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
