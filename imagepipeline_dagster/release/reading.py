"""Releases read back: their manifests, and the rows of their Parquet files."""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from itertools import tee
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import ValidationError

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.changes import CHANGES, PLACE, Change
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.splits import leaks, place_of
from imagepipeline_dagster.rows import StoredTable, parquet_table
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH = 1000  # rows
_COLUMNS_OF_SAMPLE = [*PLACE, "image_sha256"]
_SAMPLE = attrgetter(*_COLUMNS_OF_SAMPLE)

VERSION = re.compile(r"v\d+")
"""A release's folder."""


class ManifestBroken(CorrectableError):
    """What a release says of itself cannot be read; the message says where, and what to do."""


def number_of(version: str) -> int:
    """Return the number of a version: of two, the newer one has the higher."""
    return int(version[1:])


def manifests(storage: Storage, folder: str = "releases") -> list[Release]:
    """Return the manifests of a dataset's releases, oldest first."""
    newest_first = _manifests(storage, folder)
    return list(newest_first)[::-1]


def latest_manifest(storage: Storage, folder: str = "releases") -> Release | None:
    """Return the manifest of the release with the highest number, None where there is none yet."""
    return next(_manifests(storage, folder), None)


def _manifests(storage: Storage, folder: str) -> Iterator[Release]:
    """Yield the manifests, the newest first; a folder without one is no release."""
    for version in versions_in(storage, folder):
        with suppress(ObjectMissing):
            yield manifest_at(storage, f"{folder}/{version}")


def manifest_at(storage: Storage, path: str) -> Release:
    """Return the manifest in a version's folder.

    Raises:
        ManifestBroken: it says nothing, or is another version's.
        ObjectMissing: it is no release, or not yet.
    """
    return _release(storage.read(f"{path}/manifest.json"), path)


def newest_version(storage: Storage, folder: str) -> str | None:
    """Return the name of the newest release; its manifest, which may be long, is not read."""
    versions = versions_in(storage, folder)
    return next((v for v in versions if storage.exists(f"{folder}/{v}/manifest.json")), None)


def versions_in(storage: Storage, folder: str) -> Iterator[str]:
    """Yield the names of the versions' folders, the newest first."""
    versions = filter(VERSION.fullmatch, storage.folders(folder))
    yield from sorted(versions, key=number_of, reverse=True)


@lru_cache(maxsize=1)
def _release(manifest: bytes, path: str) -> Release:
    """Return what a manifest says; a publisher asks for the newest one again and again."""
    try:
        release = Release.model_validate_json(manifest)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    else:
        if path.endswith(f"/{release.version}"):
            return release.model_copy(update={"path": path})  # its folder may have been moved
        problem = f"it is that of {release.version}"
    raise ManifestBroken(
        f"{path}/manifest.json is not what was released: {problem}. Restore it from a backup, or "
        f"delete {path}, and the version with it."
    )


def made_mark(path: str) -> str:
    """Return the path of the word that the version at a path was seen whole."""
    folder, version = path.rsplit("/", 1)
    return f"{folder}/claims/{version}/made"


def delete_release(storage: Storage, release: Release) -> None:
    """Delete a version: first its manifest, with which it ends, then its files.

    Its claim stays, so that no other version ever has its number.
    """
    storage.delete(made_mark(release.path))  # if this one dies, the next publisher ends it
    storage.delete(f"{release.path}/manifest.json")
    storage.delete_folder(release.path)


def read_rows(storage: Storage, release: Release, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a release's rows, with these columns or all."""
    import pyarrow as pa

    return pa.concat_tables(
        parquet_table(shard_source(storage, f"{release.path}/{shard.path}"), columns)
        for shard in release.shards
    )


def splits_in(storage: Storage, release: Release) -> dict[int, str]:
    """Return the split of each of a release's samples, by its place."""
    columns = ("prompt_set", "prompt_id", "call_index", "sample_index", "image_sha256", "split")
    return {place_of(row): sys.intern(row.split) for row in _samples(storage, release, columns)}


def leaks_in(
    storage: Storage,
    release: Release,
    policy: ReleasePolicy,
    *,
    alike: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return which pictures of a release tell of each other and are in several of its splits.

    `alike` are the near-duplicates among the pictures that it was made from.
    """
    if len(release.splits) == 1:
        return []
    columns = {"prompt_set", "prompt_id", "split", "request"}
    columns |= {"image_sha256", "duplicate_of", "init_image_sha256"}
    samples, again = tee(_samples(storage, release, {*columns, policy.group_by}))
    return leaks(samples, (sample.split for sample in again), policy, alike=alike)


def _samples(
    storage: Storage, release: Release, columns: Iterable[str]
) -> Iterator[SimpleNamespace]:
    """Yield the rows of a release with these columns, some of which are held at once."""
    for shard in release.shards:
        for row in lineage_in(storage, release, shard, columns):
            yield SimpleNamespace(**row)


def stored_changes(storage: Storage, release: Release) -> Collection[Change] | None:
    """Return the changes that were found when a release was made.

    None where none are written, and where the file is not the one that was released.
    """
    with suppress(ObjectMissing):
        stored = storage.read(f"{release.path}/{CHANGES}")
        if hashlib.sha256(stored).hexdigest() == listed_sha256(release, CHANGES):
            return StoredTable(stored).rows(Change)
    return None


def listed_sha256(release: Release, path: str) -> str | None:
    """Return the SHA-256 that the manifest says of a file, None where it lists none there."""
    return next((file.sha256 for file in release.files if file.path == path), None)


def lineage_in(
    storage: Storage, release: Release, shard: ReleaseFile, columns: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one Parquet file, with these columns or all but the picture."""
    opened = opened_shard(storage, release, shard)
    names = [name for name in opened.schema_arrow.names if name != "image"]
    wanted = names if columns is None else list(columns)
    for batch in opened.iter_batches(_BATCH, columns=wanted, use_threads=False):
        yield from batch.to_pylist()


class ReleasedFiles:
    """The pictures' files in one Parquet file of a release, which is opened when first asked.

    A picture that several rows share has a file for each, whose marks name the row.
    """

    def __init__(self, storage: Storage, release: Release, shard: ReleaseFile) -> None:
        self._open = partial(opened_shard, storage, release, shard)
        self._group: tuple[int, pa.Table] | None = None

    def __call__(self, row: ModeratedImage) -> tuple[tuple[bytes], str | None] | None:
        """Return the file of a row's picture and its mark, None where it is not whole."""
        place = self._places.get(_SAMPLE(row))
        if place is None:
            return None
        group, number = place
        if self._group is None or self._group[0] != group:  # mostly the same as the last time
            self._group = group, self._opened.read_row_group(group, use_threads=False)
        [found] = self._group[1].slice(number, 1).to_pylist()
        data: bytes = found["image"]["bytes"]
        # The first releases had the delivered bytes, and no column for those of the file.
        sha256 = found.get("file_sha256", row.image_sha256)
        return ((data,), found.get("mark")) if hashlib.sha256(data).hexdigest() == sha256 else None

    @cached_property
    def _opened(self) -> pq.ParquetFile:
        return self._open()

    @cached_property
    def _places(self) -> dict[tuple[object, ...], tuple[int, int]]:
        """Return the row group of each sample, and its place in it."""
        if "image" not in self._opened.schema_arrow.names:
            return {}  # an image folder takes over picture by picture
        groups = (
            self._opened.read_row_group(group, _COLUMNS_OF_SAMPLE, use_threads=False)
            for group in range(self._opened.num_row_groups)
        )
        return {
            sample: (group, number)
            for group, table in enumerate(groups)
            for number, sample in enumerate(
                zip(*table.select(_COLUMNS_OF_SAMPLE).to_pydict().values(), strict=True)
            )
        }


def opened_shard(storage: Storage, release: Release, shard: ReleaseFile) -> pq.ParquetFile:
    """Return one of a release's Parquet files, opened."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(shard_source(storage, f"{release.path}/{shard.path}"))


def shard_source(storage: Storage, path: str) -> pa.NativeFile:
    """Return a file of a release as pyarrow reads it, opened: from a bucket, by a local copy.

    The copy's name is gone already, and its bytes go with the last reader.

    Raises:
        ObjectMissing: it is not there.
    """
    import pyarrow as pa

    url = urlsplit(storage.uri_of(path))
    if url.scheme == "file":
        try:
            return pa.OSFile(url2pathname(url.path), mode="r")
        except FileNotFoundError as error:
            raise ObjectMissing(str(error)) from None
    with tempfile.NamedTemporaryFile(prefix="imagepipeline-shard-") as copy:
        for chunk in storage.chunks(path):
            copy.write(chunk)
        copy.flush()
        return pa.OSFile(copy.name, mode="r")
