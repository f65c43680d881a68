"""An image folder, as Hugging Face's loader reads it: a file a picture.

imagefolder/train/ab/<sha256>.png             with metadata.parquet
imagefolder/train/ab/<sha256>-source.png      a picture that requests start from
rows/train-1f0c….parquet                      the same table, where no Parquet files have it

Pictures are taken over one by one: a change costs what changed, wherever it is.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, count
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
from imagepipeline_dagster.release.formats.source_files import put_sources
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch, file_name


@dataclass(slots=True)
class _New:
    """The rows of a part whose pictures are written, not taken over.

    Attributes:
        are_new: which of the part's rows they are.
        planned: their files' names and keys, by the rows' digests.
        written: the names of those that are written, and their places in the tables.
        tables: their lineage.
    """

    are_new: Sequence[bool]
    planned: dict[bytes, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    written: dict[bytes, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    tables: list[pa.Table] = field(default_factory=list)

    @property
    def number(self) -> int:
        """How many are written."""
        return sum(table.num_rows for table in self.tables)


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
        self._keys = {part.number: list(map(part.key_of, part.rows.digests)) for part in parts}
        wanted = Counter(chain.from_iterable(self._keys.values()))
        same = {
            key: files
            for key, number in wanted.items()
            if (files := packed.former_files("imagefolder", key)[:number])
        }
        taken_over = list(chain.from_iterable(same.values()))
        # All at once: each folder is looked at once.
        if not packed.take_over({file.path: file for file in taken_over}):
            same, taken_over = {}, []
        self._same: dict[str, list[ReleaseFile]] = same
        self._used = set(map(_name_of, taken_over))
        self._missing = wanted - Counter({key: len(files) for key, files in same.items()})
        self._new: dict[int, _New] = {}
        self._tables: dict[int, pa.Table] = {}
        self._sources = put_sources(split, parts, packed)

    @override
    def wants(self, part: Part) -> HeldRows:
        keys = self._keys[part.number]
        are_new = list(map(self._is_missing, keys))
        self._new[part.number] = new = _New(are_new)
        if not any(are_new):
            self.end(part)
            return HeldRows()
        rows = part.rows if all(are_new) else HeldRows(compress(part.rows, are_new))
        # Parts are asked for in their order: the same content has the same names.
        for row, digest, key in zip(rows, rows.digests, compress(keys, are_new), strict=True):
            new.planned[digest].append((self._new_name(file_name(row)), key))
        return rows

    def _is_missing(self, key: str) -> bool:
        """Tell whether a row with this key has to be written, and count it as one that is."""
        is_missing = self._missing[key] > 0
        self._missing[key] -= is_missing
        return is_missing

    def _new_name(self, plain: str) -> str:
        """Return a file's name: a reader knows a row by it, so a picture of two prompts has two."""
        path = PurePosixPath(plain)
        others = (f"{path.stem}-{again}{path.suffix}" for again in count(1))
        name = next(name for name in chain([plain], others) if name not in self._used)
        self._used.add(name)
        return name

    @override
    def add(self, part: Part, batch: Batch) -> None:
        new = self._new[part.number]
        first, places = new.number, list[int]()
        files: list[tuple[ReleaseFile, memoryview]] = []
        for place, digest in enumerate(batch.digests):
            if not new.planned[digest]:
                continue  # another format asked for it
            name, key = new.planned[digest].pop()
            new.written[digest].append((name, first + len(places)))
            places.append(place)
            row, data = batch.rows[place], batch.files[place]
            file = ReleaseFile(
                path=f"imagefolder/{self._split}/{name[:2]}/{name}",
                sha256=row["file_sha256"],
                size=len(data),
                part=key,
                marks={} if row["mark"] is None else {row["mark"]: 1},
            )
            files.append((file, data))
        # Of a batch that another format asked for there may be none.
        new.tables.append(batch.lineage.take(pa.array(places, pa.int64())))
        self._packed.put(files)

    @override
    def end(self, part: Part) -> None:
        new, keys = self._new.pop(part.number), self._keys.pop(part.number)
        are_same = [not is_new for is_new in new.are_new]
        same = [self._same[key].pop() for key in compress(keys, are_same)]
        # The others came with their pictures: where none is taken over, no row is decoded.
        rows = compress(part.rows, are_same) if same else ()
        lineage = lineage_table(list(map(self._taken_over, rows, same)))
        names_of_same = zip(map(_name_of, same), count(new.number))
        named = [
            new.written[digest].pop() if is_new else next(names_of_same)
            for digest, is_new in zip(part.rows.digests, new.are_new, strict=True)
        ]
        files = pa.array([f"{name[:2]}/{name}" for name, _ in named], pa.string())
        table = pa.concat_tables([*new.tables, lineage]).take([place for _, place in named])
        table = table.add_column(0, "file_name", files)
        for kind in self._packed.sources:  # in all splits: a reader wants the same columns in each
            starts = table.column(f"{kind}_image_sha256").to_pylist()
            names = [self._sources.get(sha256 or "") for sha256 in starts]
            table = table.append_column(f"{kind}_file_name", pa.array(names, pa.string()))
        self._tables[part.number] = table

    def _taken_over(self, row: ModeratedImage, file: ReleaseFile) -> dict[str, Any]:
        mark = next(iter(file.marks), None)
        return released_row(row, split=self._split, file_sha256=file.sha256, mark=mark)

    @override
    def finish(self) -> None:
        tables = [self._tables[number] for number in sorted(self._tables)]
        rows = sum(table.num_rows for table in tables)
        if not rows:
            return
        table = pa.concat_tables(tables)
        metadata = io.BytesIO()
        pq.write_table(table, metadata)
        data = metadata.getvalue()
        file = ReleaseFile.of(f"imagefolder/{self._split}/metadata.parquet", data)
        self._packed.put([(file, data)])
        if self._alone:
            # Named by its content: what is written anew stands beside it until it is whole.
            name = f"{ROWS}/{self._split}-{file.sha256[:16]}.parquet"
            again = {"path": name, "rows": rows, "marks": _marks_of(table)}
            self._packed.put([(file.model_copy(update=again), data)])


def _marks_of(table: pa.Table) -> dict[str, int]:
    """Return how many pictures say what of their origin."""
    marks = Counter(mark for mark in table["mark"].to_pylist() if mark is not None)
    return dict(sorted(marks.items()))


def _name_of(file: ReleaseFile) -> str:
    return file.path.rpartition("/")[2]
