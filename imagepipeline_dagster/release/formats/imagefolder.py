"""An image folder, as Hugging Face's loader reads it.

imagefolder/train/ab/<sha256>.png             with metadata.parquet
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.columns import lineage_table, released_row
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch
from imagepipeline_dagster.storage.contract import image_path

__all__ = ["ImageFolder"]


class ImageFolder(Writer):
    """Files named by their content, and a table of what they are."""

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        del parts
        self._folder = f"imagefolder/{split}"
        self._packed = packed
        self._tables: dict[int, list[pa.Table]] = defaultdict(list)
        self._used: set[str] = set()

    @override
    def wants(self, part: Part) -> bool:
        former = self._packed.former_files("imagefolder", part.key)
        names = {PurePosixPath(file.path).name: file for file in former}
        # Names that tell two equal pictures apart are given anew where they may meet others.
        plain = [PurePosixPath(image_path(*_picture_of(row))).name for row in part.rows]
        if sorted(plain) != sorted(names) or not self._used.isdisjoint(plain):
            return True
        if not self._packed.take_over({file.path: file for file in former}):
            return True
        self._used.update(plain)
        rows = [
            released_row(
                row,
                split=part.split,
                file_sha256=names[name].sha256,
                mark=next(iter(names[name].marks), None),
            )
            for row, name in zip(part.rows, plain, strict=True)
        ]
        self._tables[part.number] = [_table(plain, rows)]
        return False

    @override
    def add(self, part: Part, batch: Batch) -> None:
        names: list[str] = []
        for row, (plain, data) in zip(batch.rows, batch.files(), strict=True):
            path = PurePosixPath(plain)
            # A reader knows a row by its file: the same picture of two prompts is two files.
            others = (f"{path.stem}-{again}{path.suffix}" for again in count(1))
            name = next(name for name in chain([plain], others) if name not in self._used)
            self._used.add(name)
            names.append(name)
            self._packed.put(
                f"{self._folder}/{_in_its_folder(name)}",
                data.to_pybytes(),
                part=part.key,
                sha256=row["file_sha256"],
                marks={} if row["mark"] is None else {row["mark"]: 1},
            )
        self._tables[part.number].append(_table(names, batch.rows))

    @override
    def finish(self) -> None:
        tables = [table for number in sorted(self._tables) for table in self._tables[number]]
        if any(table.num_rows for table in tables):
            metadata = io.BytesIO()
            pq.write_table(pa.concat_tables(tables), metadata)
            self._packed.put(f"{self._folder}/metadata.parquet", metadata.getvalue())


def _table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    files = pa.array(map(_in_its_folder, names), pa.string())
    return lineage_table(rows).add_column(0, "file_name", files)


def _picture_of(row: ModeratedImage) -> tuple[str, str]:
    return row.image_sha256 or "", row.format or ""


def _in_its_folder(name: str) -> str:
    return f"{name[:2]}/{name}"
