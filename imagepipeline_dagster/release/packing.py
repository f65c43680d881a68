"""A release's pictures in each format that its policy names, split by split.

    parquet/data/train-00000-of-00002.parquet     the rows that all else is made from
    webdataset/train-00000.tar, .index.json       ordinals as keys; where each picture lies
    imagefolder/train/ab/<sha256>.png             with metadata.parquet

No name holds a word of a prompt: readers take words like "test" in a name for a split. A picture's
bytes are copied and never encoded anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.shards import (
    LostImage,
    shard_schema,
    split_into_shards,
    write_shard,
)
from imagepipeline_dagster.storage.contract import Storage

__all__ = ["format_cards", "pack"]

_TAR_BYTES = 500 * 2**20
_ROWS_AT_ONCE = 16
_BLOCK = 512  # bytes: a header of a tar, and what its files are filled up to

_LOADING = {
    "parquet": 'load_dataset("parquet", data_files="data/*.parquet")',
    "webdataset": 'load_dataset("webdataset", data_files={"train": "train-*.tar"})',
    "imagefolder": 'load_dataset("imagefolder", data_dir=".")',
}
_PATTERNS = {
    "parquet": "data/{}-*.parquet",
    "webdataset": "{}-*.tar",
    "imagefolder": "{}/**",
}


@dataclass(slots=True)
class _Packed:
    """The files put so far, below a release's folder."""

    storage: Storage
    path: str
    files: list[ReleaseFile] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        self.storage.write(f"{self.path}/{name}", data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.files.append(ReleaseFile(path=name, sha256=sha256, size=len(data)))

    def move(self, name: str, file: Path, *, rows: int | None = None) -> None:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        size = file.stat().st_size
        self.storage.upload(f"{self.path}/{name}", file)
        self.files.append(ReleaseFile(path=name, sha256=sha256, size=size, rows=rows))


class _Writer(Protocol):
    """Writes the rows of one split in a format of its own."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row, with its picture."""

    def close(self) -> None:
        """Finish what is open."""


def pack(
    storage: Storage,
    path: str,
    rows: Sequence[ModeratedImage],
    *,
    splits: Sequence[str],
    policy: ReleasePolicy,
    bytes_per_shard: int,
) -> tuple[tuple[ReleaseFile, ...], list[LostImage]]:
    """Write the rows with their pictures below `path`; return the files, and what was lost.

    Args:
        storage: where the pictures are, and where the files go.
        path: the release's folder.
        rows: in the order that they are released in.
        splits: the split of each row.
        policy: names the splits and the formats.
        bytes_per_shard: pictures of a Parquet file, in bytes.
    """
    packed = _Packed(storage, path)
    lost: list[LostImage] = []
    with scratch_folder() as scratch:
        for split in policy.splits:
            of_split = [row for row, own in zip(rows, splits, strict=True) if own == split]
            writers = [_writer(name, split, packed, scratch) for name in policy.other_formats]
            shards = list(split_into_shards(of_split, bytes_per_shard=bytes_per_shard))
            for index, shard in enumerate(shards):
                file = scratch / "shard.parquet"
                lost_here = write_shard(file, shard, storage, split=split)
                lost += lost_here
                if len(lost_here) == len(shard):
                    continue  # a file without a row is of no use to anybody
                if writers:
                    for row in _rows_of(file):
                        for writer in writers:
                            writer.add(row)
                name = f"parquet/data/{split}-{index:05d}-of-{len(shards):05d}.parquet"
                packed.move(name, file, rows=len(shard) - len(lost_here))
            for writer in writers:
                writer.close()
    return tuple(packed.files), lost


def _rows_of(file: Path) -> Iterator[Mapping[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _writer(name: str, split: str, packed: _Packed, scratch: Path) -> _Writer:
    if name == "webdataset":
        return _Tars(split, packed, scratch)
    return _Folder(split, packed)


class _Tars:
    """WebDataset: tars whose members are named by ordinals, with an index beside each."""

    def __init__(self, split: str, packed: _Packed, scratch: Path) -> None:
        self._split = split
        self._packed = packed
        self._file = scratch / "shard.tar"
        self._tar: tarfile.TarFile | None = None
        self._index: list[dict[str, Any]] = []
        self._tars = 0
        self._ordinal = 0

    def add(self, row: Mapping[str, Any]) -> None:
        image = row["image"]["bytes"]
        if self._tar and self._tar.offset + len(image) > _TAR_BYTES:
            self.close()
        if self._tar is None:
            self._tar = tarfile.open(self._file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        extension = Path(row["image"]["path"]).suffix
        key = f"{self._ordinal:09d}"
        self._ordinal += 1
        lineage = {name: value for name, value in row.items() if name != "image"}
        offset = self._member(f"{key}{extension}", image)
        self._member(f"{key}.json", json.dumps(lineage, default=str).encode())
        self._index.append(
            {"key": key, "offset": offset, "size": len(image), "caption": row["prompt"]}
        )

    def _member(self, name: str, data: bytes) -> int:
        """Add a file, and return where its bytes begin."""
        assert self._tar is not None  # noqa: S101 - opened before
        offset = self._tar.offset + _BLOCK
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return offset

    def close(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        name = f"webdataset/{self._split}-{self._tars:05d}"
        self._packed.move(f"{name}.tar", self._file)
        self._packed.put(f"{name}.index.json", json.dumps(self._index).encode())
        self._tar, self._index = None, []
        self._tars += 1


class _Folder:
    """An image folder: files named by their content, and a table of what they are."""

    def __init__(self, split: str, packed: _Packed) -> None:
        self._folder = f"imagefolder/{split}"
        self._packed = packed
        self._rows: list[dict[str, Any]] = []
        self._seen: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        image = row["image"]
        path = Path(image["path"])
        again = self._seen[path.name]
        self._seen[path.name] += 1
        # A reader knows a row by its file: the same picture of two prompts is two files.
        name = f"{path.stem}-{again}{path.suffix}" if again else path.name
        file_name = f"{path.stem[:2]}/{name}"
        self._packed.put(f"{self._folder}/{file_name}", image["bytes"])
        lineage = {name: value for name, value in row.items() if name != "image"}
        self._rows.append({"file_name": file_name, **lineage})

    def close(self) -> None:
        if self._rows:
            lineage = [f for f in shard_schema() if f.name != "image"]
            schema = pa.schema([pa.field("file_name", pa.string()), *lineage])
            table = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self._rows, schema=schema), table)
            self._packed.put(f"{self._folder}/metadata.parquet", table.getvalue())


def format_cards(release: Release, policy: ReleasePolicy) -> dict[str, bytes]:
    """Return the small card of each format's folder, by its path: a folder loads by itself."""
    return {
        f"{name}/README.md": template("release/format.md.jinja")
        .render(
            release=release,
            format=name,
            loading=_LOADING[name],
            splits={split: _PATTERNS[name].format(split) for split in release.splits},
        )
        .encode()
        for name in policy.formats
    }
