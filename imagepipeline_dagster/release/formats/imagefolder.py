"""An image folder, as Hugging Face's loader reads it: a file a picture.

imagefolder/train/ab/<sha256>.png             with metadata.parquet
rows/train-1f0c….parquet                      the same table, where no Parquet files have it

Pictures are taken over one by one: a change costs what changed, wherever it is.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import ROWS, ReleaseFile
from imagepipeline_dagster.release.columns import lineage_table, released_row
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch


class ImageFolder(Writer):
    """Files named by their content, and a table of what they are.

    Where there are no Parquet files, the table is put once more, for all who read rows.
    """

    def __init__(
        self, split: str, parts: Sequence[Part], packed: PackedFiles, *, alone: bool = False
    ) -> None:
        self._split = split
        self._packed = packed
        self._alone = alone
        same: dict[int, ReleaseFile] = {}
        former: dict[str, list[ReleaseFile]] = {}
        for part in parts:
            for row in part.rows:
                key = part.key_of(row)
                # Samples that are alike in all are a file each.
                if files := former.setdefault(key, packed.former_files("imagefolder", key)):
                    same[id(row)] = files.pop()
        # All at once: the names in one folder are synced once.
        taken_over = packed.take_over({file.path: file for file in same.values()})
        self._same = same if taken_over else {}
        self._used = {PurePosixPath(file.path).name for file in self._same.values()}
        self._new: dict[int, tuple[str, Mapping[str, Any]]] = {}
        self._tables: dict[int, pa.Table] = {}
        self._marks: Counter[str] = Counter()

    @override
    def wants(self, part: Part) -> Sequence[ModeratedImage]:
        new = [row for row in part.rows if id(row) not in self._same]
        if not new:
            self.end(part)
        return new

    @override
    def add(self, part: Part, batch: Batch) -> None:
        files: list[tuple[ReleaseFile, memoryview]] = []
        for source, row, (plain, data) in zip(
            batch.sources, batch.rows, batch.files(), strict=True
        ):
            if id(source) in self._same:
                continue
            path = PurePosixPath(plain)
            # A reader knows a row by its file: the same picture of two prompts is two files.
            others = (f"{path.stem}-{again}{path.suffix}" for again in count(1))
            name = next(name for name in chain([plain], others) if name not in self._used)
            self._used.add(name)
            self._new[id(source)] = name, row
            file = ReleaseFile(
                path=f"imagefolder/{self._split}/{name[:2]}/{name}",
                sha256=row["file_sha256"],
                size=data.size,
                part=part.key_of(source),
                marks={} if row["mark"] is None else {row["mark"]: 1},
            )
            files.append((file, memoryview(data)))
        self._packed.put(files)

    @override
    def end(self, part: Part) -> None:
        named = [
            self._taken_over(row) if id(row) in self._same else self._new.pop(id(row))
            for row in part.rows
        ]
        files = pa.array([f"{name[:2]}/{name}" for name, _ in named], pa.string())
        rows = [row for _, row in named]
        self._tables[part.number] = lineage_table(rows).add_column(0, "file_name", files)
        self._marks.update(row["mark"] for row in rows if row["mark"] is not None)

    def _taken_over(self, row: ModeratedImage) -> tuple[str, Mapping[str, Any]]:
        file = self._same[id(row)]
        mark = next(iter(file.marks), None)
        lineage = released_row(row, split=self._split, file_sha256=file.sha256, mark=mark)
        return PurePosixPath(file.path).name, lineage

    @override
    def finish(self) -> None:
        tables = [self._tables[number] for number in sorted(self._tables)]
        rows = sum(table.num_rows for table in tables)
        if not rows:
            return
        metadata = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), metadata)
        data = metadata.getvalue()
        file = ReleaseFile.of(f"imagefolder/{self._split}/metadata.parquet", data)
        self._packed.put([(file, data)])
        if self._alone:
            # Named by its content: what is written anew stands beside it until it is whole.
            name = f"{ROWS}/{self._split}-{file.sha256[:16]}.parquet"
            again = {"path": name, "rows": rows, "marks": dict(self._marks)}
            self._packed.put([(file.model_copy(update=again), data)])
