"""An image folder, as Hugging Face's loader reads it: a file a picture.

imagefolder/train/ab/<sha256>.png             with metadata.parquet
rows/train-1f0c….parquet                      the same table, where no Parquet files have it

Pictures are taken over one by one: a change costs what changed, wherever it is.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import ROWS, ReleaseFile
from imagepipeline_dagster.release.columns import digest_of, lineage_table, released_row
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.held_rows import HeldRows
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
        # Samples that are alike in all have one key, and are a file each.
        wanted = Counter(chain.from_iterable(map(_keys, parts)))
        same = {
            key: files
            for key, number in wanted.items()
            if (files := packed.former_files("imagefolder", key)[:number])
        }
        taken_over = list(chain.from_iterable(same.values()))
        # All at once: the names in one folder are synced once.
        if not packed.take_over({file.path: file for file in taken_over}):
            same, taken_over = {}, []
        self._same: dict[str, list[ReleaseFile]] = same
        self._used = {PurePosixPath(file.path).name for file in taken_over}
        self._missing = wanted - Counter({key: len(files) for key, files in same.items()})
        self._new: dict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
        self._tables: dict[int, pa.Table] = {}
        self._marks: Counter[str] = Counter()

    @override
    def wants(self, part: Part) -> HeldRows:
        keys = _keys(part)
        if not any(self._missing[key] for key in keys):
            self.end(part)
            return HeldRows()
        return HeldRows(row for row, key in zip(part.rows, keys, strict=True) if self._missing[key])

    @override
    def add(self, part: Part, batch: Batch) -> None:
        files: list[tuple[ReleaseFile, memoryview]] = []
        for source, row, (plain, data) in zip(
            batch.sources, batch.rows, batch.files(), strict=True
        ):
            key = part.key_of(digest_of(source))
            if not self._missing[key]:
                continue
            self._missing[key] -= 1
            path = PurePosixPath(plain)
            # A reader knows a row by its file: the same picture of two prompts is two files.
            others = (f"{path.stem}-{again}{path.suffix}" for again in count(1))
            name = next(name for name in chain([plain], others) if name not in self._used)
            self._used.add(name)
            self._new[key].append((name, row))
            file = ReleaseFile(
                path=f"imagefolder/{self._split}/{name[:2]}/{name}",
                sha256=row["file_sha256"],
                size=data.size,
                part=key,
                marks={} if row["mark"] is None else {row["mark"]: 1},
            )
            files.append((file, memoryview(data)))
        self._packed.put(files)

    @override
    def end(self, part: Part) -> None:
        named = [self._named(*keyed) for keyed in zip(part.rows, _keys(part), strict=True)]
        files = pa.array([f"{name[:2]}/{name}" for name, _ in named], pa.string())
        rows = [row for _, row in named]
        self._tables[part.number] = lineage_table(rows).add_column(0, "file_name", files)
        self._marks.update(row["mark"] for row in rows if row["mark"] is not None)

    def _named(self, row: ModeratedImage, key: str) -> tuple[str, Mapping[str, Any]]:
        """Return a row's file name, and the row as it is released."""
        if not self._same.get(key):
            return self._new[key].pop(0)
        file = self._same[key].pop(0)
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


def _keys(part: Part) -> list[str]:
    """Return what a part of each of its rows alone would be known by."""
    return [part.key_of(digest) for digest in part.rows.digests]
