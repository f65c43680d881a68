"""A release's pictures in each format that its policy names, split by split.

    parquet/data/train-00000-1f0c….parquet        a part of the rows, named by its content
    webdataset/train-00000.tar, .index.json       ordinals as keys; where each picture lies
    imagefolder/train/ab/<sha256>.png             with metadata.parquet

No name holds a word of a prompt: readers take words like "test" in a name for a split. A
picture is never encoded anew: its bytes are copied, with the marks of its origin where asked for.

Each picture is read once and given to all formats. The files of a part that the former release has
too are taken over from it: nothing is read or written for them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import Buffer, override

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release, ReleaseFile, features
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.shards import (
    LostImage,
    Part,
    ShardWriter,
    read_pictures,
    released_row,
    shard_schema,
)
from imagepipeline_dagster.release.stamping import stamp
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

__all__ = ["format_cards", "pack"]

_TAR_BYTES = 500 * 2**20
_BLOCK = 512  # bytes: a header of a tar, and what its files are filled up to
_FINISHERS = 4  # threads
_UNFINISHED = 8  # files that wait for the disk or the network
_NO_MARKS: Mapping[str, int] = {}

_LOADING = {
    "parquet": 'load_dataset("parquet", data_files="data/*.parquet")',
    "webdataset": 'load_dataset(".")',
    "imagefolder": 'load_dataset(".")',
}
_PATTERNS = {
    "parquet": "data/{}-*.parquet",
    "webdataset": "{}-*.tar",
    "imagefolder": "{}/**",
}


class _SummedFile(io.FileIO):
    """A new local file that knows the SHA-256 of what was written to it, from begin to end."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "w")
        self.digest = hashlib.sha256()

    @override
    def write(self, data: Buffer, /) -> int:
        written = super().write(data)
        self.digest.update(memoryview(data)[:written])
        return written


class _Packed:
    """The files put so far, below a release's folder.

    A disk or a bucket takes its time for each: that is waited for while others are made.
    """

    def __init__(
        self, storage: Storage, path: str, scratch: Path, former: Release | None, extension: str
    ) -> None:
        self.files: list[ReleaseFile] = []
        self.extension = extension
        self._storage = storage
        self._path = path
        self._scratch = scratch
        self._former = former
        self._of_part: dict[str, list[ReleaseFile]] = defaultdict(list)
        for file in former.files if former else ():
            if file.part is not None:
                self._of_part[file.part].append(file)
        self._numbers = count()
        self._finishing: deque[Future[object]] = deque()
        self._finishers: ThreadPoolExecutor | None = None

    @contextmanager
    def all_finished(self) -> Iterator[None]:
        """Have every file in its place at the end."""
        with ThreadPoolExecutor(_FINISHERS) as self._finishers:
            yield
            self._wait(0)

    def open(self) -> _SummedFile:
        """Return a new local file."""
        return _SummedFile(self._scratch / f"{next(self._numbers)}")

    def put(
        self,
        name: str,
        data: bytes,
        *,
        part: str | None = None,
        sha256: str | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> None:
        """Write a small file; its SHA-256 is given where it is known."""
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        file = ReleaseFile(path=name, sha256=sha256, size=len(data), part=part, marks=marks)
        self._finish(partial(self._storage.write, f"{self._path}/{name}", data), file)

    def move(
        self,
        name: str,
        local: _SummedFile,
        *,
        part: str | None = None,
        rows: int | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> None:
        """Put a local file that is written."""
        size, source = local.tell(), Path(str(local.name))
        local.close()
        file = ReleaseFile(
            path=name,
            sha256=local.digest.hexdigest(),
            size=size,
            rows=rows,
            part=part,
            marks=marks,
        )
        self._finish(partial(self._storage.upload, f"{self._path}/{name}", source), file)

    def former_files(self, format: str, part: str) -> list[ReleaseFile]:  # noqa: A002 - its name
        """Return what the former release has in a format of a part."""
        return [file for file in self._of_part[part] if file.path.startswith(f"{format}/")]

    def take_over(self, files: Mapping[str, ReleaseFile]) -> bool:
        """Put files of the former release under these names; False where one of them is gone."""
        if self._former is None:
            return False
        former = self._former.path
        sources = {f"{self._path}/{name}": f"{former}/{file.path}" for name, file in files.items()}
        try:
            self._storage.copy(sources)
        except ObjectMissing:
            return False
        self.files += [file.model_copy(update={"path": name}) for name, file in files.items()]
        return True

    def _finish(self, task: Callable[[], object], file: ReleaseFile) -> None:
        assert self._finishers is not None  # noqa: S101 - files are put while all are finished
        self._wait(_UNFINISHED)
        self._finishing.append(self._finishers.submit(task))
        self.files.append(file)

    def _wait(self, most: int) -> None:
        while len(self._finishing) > most:
            self._finishing.popleft().result()


class _Writer(ABC):
    """Writes the parts of one split in a format of its own."""

    @abstractmethod
    def wants(self, part: Part) -> bool:
        """Tell whether the part must be written; its files are taken over where they need not."""

    @abstractmethod
    def add(self, part: Part, row: Mapping[str, Any]) -> None:
        """Take one row, with its picture."""

    def end(self, part: Part) -> None:  # noqa: B027 - not every format has to
        """Take note that these were all rows of a part."""

    def finish(self) -> None:  # noqa: B027 - not every format has to
        """Take note that these were all parts."""

    def abandon(self) -> None:  # noqa: B027 - not every format has to
        """Close what is open, after a failure."""


def pack(
    storage: Storage,
    path: str,
    parts: Mapping[str, Sequence[Part]],
    *,
    policy: ReleasePolicy,
    scratch: Path,
    former: Release | None = None,
) -> tuple[tuple[ReleaseFile, ...], list[LostImage]]:
    """Write the rows with their pictures below `path`; return the files, and what was lost.

    Args:
        storage: where the pictures are, and where the files go.
        path: the release's folder.
        parts: of each split, in the order that they are released in.
        policy: names the formats.
        scratch: a folder for files that are not finished.
        former: the release whose files are taken over where they are the same.
    """
    rows = (row for of_split in parts.values() for part in of_split for row in part.rows)
    packed = _Packed(storage, path, scratch, former, _member_extension(rows))
    lost: list[LostImage] = []
    with packed.all_finished():
        for split, of_split in parts.items():
            writers = [_WRITERS[name](split, of_split, packed) for name in policy.formats]
            lost += _write(storage, of_split, writers, policy)
    return tuple(sorted(packed.files, key=lambda file: file.path)), lost


def _write(
    storage: Storage, parts: Sequence[Part], writers: Sequence[_Writer], policy: ReleasePolicy
) -> list[LostImage]:
    """Write what the writers want of the parts, each picture read once."""
    wanted = {part: [writer for writer in writers if writer.wants(part)] for part in parts}
    needed = [part for part in parts if wanted[part]]
    stamped = partial(stamp, content_producer=policy.content_producer) if policy.stamp else None
    lost: list[LostImage] = []
    try:
        for part, rows in read_pictures(storage, needed, stamp=stamped):
            gone: list[LostImage] = []
            for row in rows:
                if isinstance(row, LostImage):
                    gone.append(row)
                    continue
                for writer in wanted[part]:
                    writer.add(part, row)
            written = _without(part, gone, policy.shaping)
            for writer in wanted[part]:
                writer.end(written)
            lost += gone
        for writer in writers:
            writer.finish()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    return lost


def _without(part: Part, lost: Sequence[LostImage], shaping: str) -> Part:
    """Return the part as it was written."""
    if not lost:
        return part
    gone = {loss.row for loss in lost}
    rows = [row for row in part.rows if row not in gone]
    return Part.of(part.split, part.number, rows, shaping=shaping)


class _Shards(_Writer):
    """Parquet: a file a part."""

    def __init__(self, split: str, parts: Sequence[Part], packed: _Packed) -> None:
        del split
        self._packed = packed
        self._open: tuple[ShardWriter, _SummedFile] | None = None
        self._marks: Counter[str] = Counter()
        same = {
            part.number: (self._name(part), former[0])
            for part in parts
            if (former := packed.former_files("parquet", part.key))
        }
        # All at once: the names in one folder are synced once.
        self._same = set(same) if packed.take_over(dict(same.values())) else set()

    @override
    def wants(self, part: Part) -> bool:
        return part.number not in self._same

    @override
    def add(self, part: Part, row: Mapping[str, Any]) -> None:
        del part
        if self._open is None:
            file = self._packed.open()
            self._open = ShardWriter(file), file
        self._open[0].add(row)
        self._marks.update(_marks_of(row))

    @override
    def end(self, part: Part) -> None:
        if self._open is None:
            return  # a file without a row is of no use to anybody
        shard, file = self._open
        self._open = None
        shard.close()
        marks = dict(sorted(self._marks.items()))
        self._marks.clear()
        rows = len(part.rows)
        self._packed.move(self._name(part), file, part=part.key, rows=rows, marks=marks)

    @override
    def abandon(self) -> None:
        for opened in self._open or ():
            opened.close()

    def _name(self, part: Part) -> str:
        return f"parquet/data/{part.split}-{part.number:05d}-{part.key[:16]}.parquet"


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


class _Tars(_Writer):
    """WebDataset: tars of pictures, captions and lineage, with an index beside each.

    Members are named by ordinals.

    A tar is taken over where all its parts are the same, and as many pictures lie before it.
    """

    def __init__(self, split: str, parts: Sequence[Part], packed: _Packed) -> None:
        self._split = split
        self._packed = packed
        tars = list(_planned_tars(parts))
        self._tar_of = {part.number: tar for tar in tars for part in tar.parts}
        self._same = {tar.number for tar in tars if self._is_taken_over(tar)}
        self._open: tuple[_SummedFile, tarfile.TarFile] | None = None
        self._index: list[dict[str, Any]] = []
        self._written: list[str] = []

    def _is_taken_over(self, tar: _PlannedTar) -> bool:
        key = tar.key((part.key for part in tar.parts), self._packed.extension)
        former = self._packed.former_files("webdataset", key)
        names = {f"{self._stem(tar)}.{file.path.partition('.')[2]}": file for file in former}
        return bool(names) and self._packed.take_over(names)

    @override
    def wants(self, part: Part) -> bool:
        return self._tar_of[part.number].number not in self._same

    @override
    def add(self, part: Part, row: Mapping[str, Any]) -> None:
        if self._open is None:
            file = self._packed.open()
            tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
            self._open = file, tar
        image = row["image"]["bytes"]
        key = f"{self._tar_of[part.number].first + len(self._index):09d}"
        lineage = {name: value for name, value in row.items() if name != "image"}
        offset = self._member(f"{key}.{self._packed.extension}", image)
        self._member(f"{key}.json", json.dumps(lineage, default=str).encode())
        self._member(f"{key}.txt", (row["prompt"] or "").encode())
        self._index.append(
            {"key": key, "offset": offset, "size": len(image), "caption": row["prompt"]}
        )

    def _member(self, name: str, data: bytes) -> int:
        """Add a file, and return where its bytes begin."""
        assert self._open is not None  # noqa: S101 - opened before
        _, tar = self._open
        offset = tar.offset + _BLOCK
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        return offset

    @override
    def end(self, part: Part) -> None:
        self._written.append(part.key)
        tar = self._tar_of[part.number]
        if self._open is None or part.number != tar.parts[-1].number:
            return
        file, opened = self._open
        opened.close()
        key = tar.key(self._written, self._packed.extension)
        self._packed.move(f"{self._stem(tar)}.tar", file, part=key)
        index = json.dumps(self._index).encode()
        self._packed.put(f"{self._stem(tar)}.index.json", index, part=key)
        self._open, self._index, self._written = None, [], []

    @override
    def abandon(self) -> None:
        if self._open is not None:
            self._open[0].close()

    def _stem(self, tar: _PlannedTar) -> str:
        return f"webdataset/{self._split}-{tar.number:05d}"


def _member_extension(rows: Iterable[ModeratedImage]) -> str:
    """Return the extension of all pictures in tars, without its dot.

    Readers tell a sample's parts by their extensions, and take a sample with others for broken.
    They tell a picture's format by its bytes. So pictures of several formats are all named `.jpg`.
    """
    formats = {row.format or "" for row in rows}
    if len(formats) != 1:
        return "jpg"
    return PurePosixPath(image_path("0" * 64, *formats)).suffix[1:]


def _planned_tars(parts: Sequence[Part]) -> Iterator[_PlannedTar]:
    """Yield the tars, each of about 500 MB at most or of one part."""
    number = first = size = 0
    run: list[Part] = []
    for part in parts:
        added = sum(row.bytes or 0 for row in part.rows)
        if run and size + added > _TAR_BYTES:
            yield _PlannedTar(number, run, first)
            number, first = number + 1, first + sum(len(own.rows) for own in run)
            run, size = [], 0
        run.append(part)
        size += added
    if run:
        yield _PlannedTar(number, run, first)


class _Folder(_Writer):
    """An image folder: files named by their content, and a table of what they are."""

    def __init__(self, split: str, parts: Sequence[Part], packed: _Packed) -> None:
        del parts
        self._folder = f"imagefolder/{split}"
        self._packed = packed
        self._rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
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
        for row, name in zip(part.rows, plain, strict=True):
            file = names[name]
            mark = next(iter(file.marks), None)
            lineage = released_row(row, split=part.split, file_sha256=file.sha256, mark=mark)
            self._rows[part.number].append({"file_name": _in_its_folder(name), **lineage})
        return False

    @override
    def add(self, part: Part, row: Mapping[str, Any]) -> None:
        image = row["image"]
        path = PurePosixPath(image["path"])
        # A reader knows a row by its file: the same picture of two prompts is two files.
        names = chain([path.name], (f"{path.stem}-{again}{path.suffix}" for again in count(1)))
        name = next(name for name in names if name not in self._used)
        self._used.add(name)
        file_name = _in_its_folder(name)
        self._packed.put(
            f"{self._folder}/{file_name}",
            image["bytes"],
            part=part.key,
            sha256=row["file_sha256"],
            marks=_marks_of(row),
        )
        lineage = {name: value for name, value in row.items() if name != "image"}
        self._rows[part.number].append({"file_name": file_name, **lineage})

    @override
    def finish(self) -> None:
        rows = [row for number in sorted(self._rows) for row in self._rows[number]]
        if rows:
            lineage = [f for f in shard_schema() if f.name != "image"]
            schema = pa.schema([pa.field("file_name", pa.string()), *lineage])
            table = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), table)
            self._packed.put(f"{self._folder}/metadata.parquet", table.getvalue())


def _marks_of(row: Mapping[str, Any]) -> dict[str, int]:
    return {} if row["mark"] is None else {row["mark"]: 1}


def _picture_of(row: ModeratedImage) -> tuple[str, str]:
    return row.image_sha256 or "", row.format or ""


def _in_its_folder(name: str) -> str:
    return f"{name[:2]}/{name}"


_WRITERS: Mapping[str, Callable[[str, Sequence[Part], _Packed], _Writer]] = {
    "parquet": _Shards,
    "webdataset": _Tars,
    "imagefolder": _Folder,
}


def format_cards(
    release: Release, policy: ReleasePolicy, kept: Iterable[ModeratedImage]
) -> dict[str, bytes]:
    """Return the small card of each format's folder, by its path: a folder loads by itself."""
    extension = _member_extension(kept)
    return {
        f"{name}/README.md": template("release/format.md.jinja")
        .render(
            release=release,
            format=name,
            loading=_LOADING[name],
            extension=extension,
            features=[feature for feature in features() if feature[0] != "image"],
            splits={split: _PATTERNS[name].format(split) for split in release.splits},
        )
        .encode()
        for name in policy.formats
    }
