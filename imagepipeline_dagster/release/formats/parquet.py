"""Parquet: a file a part, with a row group a batch.

parquet/data/train-00000-1f0c….parquet        named by its content
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from imagepipeline_dagster.release.columns import shard_schema
from imagepipeline_dagster.release.formats.contract import Writer, marks_of
from imagepipeline_dagster.release.formats.files import NewFile, PackedFiles
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch

_ROWS_AT_ONCE = 10  # are added to a page, which ends at a megabyte: who wants one reads the page


@dataclass(frozen=True, slots=True)
class _Open:
    """A file that is being written, and how many of its pictures say what of their origin."""

    file: NewFile
    writer: pq.ParquetWriter
    marks: Counter[str] = field(default_factory=Counter)


class ParquetFiles(Writer):
    """A file for each part, which is taken over where the former release has it."""

    def __init__(self, split: str, parts: Sequence[Part], packed: PackedFiles) -> None:
        del split
        self._packed = packed
        self._open: dict[int, _Open] = {}
        self._same = packed.parts_taken_over("parquet", parts, _name)

    @override
    def wants(self, part: Part) -> HeldRows:
        return HeldRows() if part in self._same else part.rows

    @override
    def add(self, part: Part, batch: Batch) -> None:
        if not batch.rows:
            return  # a file without a row is of no use to anybody
        if part.number not in self._open:
            file = self._packed.new_file()
            self._open[part.number] = _Open(file, _writer(file))
        opened = self._open[part.number]
        columns: list[pa.ChunkedArray[Any]] = batch.lineage.columns
        columns.insert(0, pa.chunked_array([batch.images]))
        opened.writer.write_table(pa.Table.from_arrays(columns, schema=shard_schema()))
        opened.marks.update(marks_of(batch))

    @override
    def end(self, part: Part) -> None:
        if opened := self._open.pop(part.number, None):
            opened.writer.close()
            opened.file.close()
            self._packed.move(
                _name(part),
                opened.file.path,
                sha256=opened.file.sha256,
                part=part.key,
                rows=len(part.rows),
                marks=dict(sorted(opened.marks.items())),
            )

    @override
    def abandon(self) -> None:
        for opened in self._open.values():
            opened.writer.close()
            opened.file.close()


def _name(part: Part) -> str:
    return f"parquet/data/{part.split}-{part.number:05d}-{part.key[:16]}.parquet"


def _writer(file: NewFile) -> pq.ParquetWriter:
    schema = shard_schema()
    lineage = [name for name in schema.names if name not in ("image", "file_sha256")]
    return pq.ParquetWriter(
        file,
        schema,
        # Pictures are compressed already, and none of them is like another. Of a batch's few texts
        # zstd would take longer than all else in here, and save nothing.
        compression=dict.fromkeys([*lineage, "file_sha256"], "snappy"),
        use_dictionary=lineage,  # type: ignore[arg-type] # a list too, says pyarrow
        # Without them a column has no page index. Those of pictures are too long to be kept.
        write_statistics=[*lineage, "file_sha256", "image.bytes", "image.path"],
        write_page_index=True,
        write_batch_size=_ROWS_AT_ONCE,
    )
