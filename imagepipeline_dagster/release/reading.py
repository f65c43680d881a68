"""Releases read back: their manifests, and the rows of their Parquet files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.storage.contract import Storage

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["delete_release", "latest_manifest", "manifests", "read_rows"]


def manifests(storage: Storage, folder: str = "releases") -> list[Release]:
    """Return the manifests of a dataset's releases, oldest first."""
    return [Release.model_validate_json(storage.read(path)) for path in _paths(storage, folder)]


def latest_manifest(storage: Storage, folder: str = "releases") -> Release | None:
    """Return the manifest of the release with the highest number, None where there is none yet."""
    paths = _paths(storage, folder)
    return Release.model_validate_json(storage.read(paths[-1])) if paths else None


def _paths(storage: Storage, folder: str) -> list[str]:
    manifest = re.compile(rf"{re.escape(folder)}/v(\d+)/manifest\.json")
    matches = (match for path in storage.list(folder) if (match := manifest.fullmatch(path)))
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def delete_release(storage: Storage, release: Release) -> None:
    """Delete a version: first its manifest, with which it ends, then its files.

    Its claim stays, so that no other version ever has its number.
    """
    storage.delete(f"{release.path}/manifest.json")
    for path in list(storage.list(release.path)):
        storage.delete(path)


def read_rows(storage: Storage, release: Release, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a release's rows, with these columns or all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = None if columns is None else list(columns)
    return pa.concat_tables(
        pq.read_table(_source(storage, f"{release.path}/{shard.path}"), columns=names)
        for shard in release.shards
    )


def _source(storage: Storage, path: str) -> Path | BytesIO:
    url = urlsplit(storage.uri_of(path))
    if url.scheme == "file":
        return Path(url2pathname(url.path))
    return BytesIO(storage.read(path))
