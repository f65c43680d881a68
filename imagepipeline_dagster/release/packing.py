"""A release's pictures in each format that its policy names, split by split.

    parquet/data/train-00000-1f0c….parquet        a part of the rows, named by its content
    webdataset/train-00000.tar, .index.json       ordinals as keys; where each picture lies
    imagefolder/train/ab/<sha256>.png             with metadata.parquet
    imagefolder/train/ab/<sha256>-source.png      a picture that requests start from
    lance/train.lance/                            a dataset a split, with a fragment a part
    rows/train-1f0c….parquet                      that table, where there is no parquet/

No name holds a word of a prompt: readers take words like "test" in a name for a split. A
picture is never encoded anew: its bytes are copied, with the marks of its origin where asked for.

Each picture is read once and given to all formats. The files of a part that the former release has
too, and in an image folder those of a row, are taken over: nothing is read or written for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event
from types import MappingProxyType

from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release, ReleaseFile, features
from imagepipeline_dagster.release.credentials import stamp_of
from imagepipeline_dagster.release.formats.contract import Writer
from imagepipeline_dagster.release.formats.files import PackedFiles
from imagepipeline_dagster.release.formats.imagefolder import ImageFolder
from imagepipeline_dagster.release.formats.lance import LanceDatasets
from imagepipeline_dagster.release.formats.parquet import ParquetFiles
from imagepipeline_dagster.release.formats.webdataset import WebDatasetTars, member_extension
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import LostImage, Released, Stamp, read_batches
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.contract import Storage

# A thread takes its run from the pictures to the finished files: each hand-over to another would
# wait for it. Two keep as many cores busy, and hold two batches of pictures.
_RUNS_AT_ONCE = 2
_WRITERS: Mapping[str, Callable[[str, Sequence[Part], PackedFiles], Writer]] = {
    "parquet": ParquetFiles,
    "webdataset": WebDatasetTars,
    "imagefolder": ImageFolder,
    "lance": LanceDatasets,
}
_WRITERS_WITHOUT_PARQUET = {"imagefolder": partial(ImageFolder, alone=True)}
_PATTERNS = {
    "parquet": "data/{}-*.parquet",
    "webdataset": "{}-*.tar",
    "imagefolder": "{}/**",
    "lance": "{}.lance/**",
}


def pack(
    storage: Storage,
    path: str,
    parts: Mapping[str, Sequence[Part]],
    *,
    policy: ReleasePolicy,
    scratch: Path,
    former: Release | None = None,
    released: Mapping[Part, Callable[[], Released]] = MappingProxyType({}),
) -> tuple[tuple[ReleaseFile, ...], list[LostImage], list[str]]:
    """Write the rows with their pictures below `path`; they last once that folder is settled.

    Where a row's picture is lost the files are not all there. A format may have taken over what
    another lacks, so all is to be packed anew without these rows.

    Returns:
        The files, the rows whose pictures are lost, and a sentence for each other lost picture.

    Args:
        storage: where the pictures are, and where the files go.
        path: the release's folder.
        parts: of each split, in the order that they are released in.
        policy: names the formats.
        scratch: a folder for files that are not finished.
        former: the release whose files are taken over where they are the same.
        released: opens, for a part, the files of pictures that are gone from the storage.
    """
    rows = (row for of_split in parts.values() for part in of_split for row in part.rows)
    extension = member_extension(rows) if "webdataset" in policy.formats else ""
    made = _WRITERS if policy.has_parquet else _WRITERS_WITHOUT_PARQUET
    kinds = [part.rows.sources for of_split in parts.values() for part in of_split]
    sources = sorted(set[str]().union(*kinds))
    packed = PackedFiles(storage, path, scratch, former, extension=extension, sources=sources)
    lost: list[LostImage] = []
    for split, of_split in parts.items():
        writers = [made[name](split, of_split, packed) for name in policy.formats]
        lost += _write(storage, of_split, writers, policy, released)
    return tuple(sorted(packed.files, key=lambda file: file.path)), lost, packed.left_out


def _write(
    storage: Storage,
    parts: Sequence[Part],
    writers: Sequence[Writer],
    policy: ReleasePolicy,
    released: Mapping[Part, Callable[[], Released]],
) -> list[LostImage]:
    """Write what the writers want of the parts, each picture read once."""
    stamped = stamp_of(policy)
    writers_of = {part: _wanted(part, writers) for part in parts}
    is_lost = Event()

    def write(run: Sequence[Part]) -> list[LostImage]:
        """Write some parts, from their pictures to the finished files, and return what was lost."""
        lost = (
            _write_part(
                storage,
                part,
                writers_of[part],
                stamp=stamped,
                released=released.get(part),
                is_lost=is_lost,
            )
            for part in run
            if writers_of[part]
        )
        return list(chain.from_iterable(lost))

    # The longest that a format asks for; the other formats take parts in any order.
    runs = min((writer.runs(parts) for writer in writers), key=len)
    try:
        with ThreadPoolExecutor(_RUNS_AT_ONCE) as threads:
            lost = list(chain.from_iterable(threads.map(write, runs)))
        for writer in writers:
            writer.abandon() if lost else writer.finish()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    return lost


def _write_part(
    storage: Storage,
    part: Part,
    wanted: Mapping[Writer, HeldRows],
    *,
    stamp: Stamp | None,
    released: Callable[[], Released] | None,
    is_lost: Event,
) -> list[LostImage]:
    """Write a part, and return what was lost; once anything is, parts are just read for that."""
    # Some formats want all pictures of a part or none, and no other wants further ones.
    read = replace(part, rows=max(wanted.values(), key=len))
    lost: list[LostImage] = []
    files = released() if released else None
    for batch in read_batches(storage, read, stamp=stamp, released=files):
        lost += batch.lost
        if lost:
            is_lost.set()
        for writer in () if is_lost.is_set() else wanted:
            writer.add(part, batch)
    for writer in () if is_lost.is_set() else wanted:
        writer.end(part)
    return lost


def _wanted(part: Part, writers: Sequence[Writer]) -> dict[Writer, HeldRows]:
    return {writer: rows for writer in writers if (rows := writer.wants(part))}


def format_cards(
    release: Release, policy: ReleasePolicy, kept: Iterable[ModeratedImage]
) -> dict[str, bytes]:
    """Return the small card of each format's folder, by its path: a folder loads by itself."""
    return {
        f"{name}/README.md": template("release/format.md.jinja")
        .render(
            release=release,
            format=name,
            extension=member_extension(kept) if name == "webdataset" else None,
            features=[feature for feature in features() if feature[0] != "image"],
            splits={split: _PATTERNS[name].format(split) for split in release.splits},
        )
        .encode()
        for name in policy.formats
    }
