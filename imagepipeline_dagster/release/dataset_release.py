"""A release as its users have it: where it is, what is in it, and its rows in other libraries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import Counts
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.changes import PLACE, Change
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.policy import PACKING
from imagepipeline_dagster.release.reading import (
    latest_manifest,
    manifests,
    number_of,
    read_rows,
    stored_changes,
)
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.opening import open_storage

if TYPE_CHECKING:
    import pyarrow as pa


_place = attrgetter(*PLACE)


class ReleaseMissing(CorrectableError, LookupError):
    """There is no release; the message says where it was looked for."""


class PicturesElsewhere(CorrectableError):
    """The rows have no pictures; the message says how to load them."""


@dataclass(frozen=True, slots=True)
class DatasetRelease:
    """One version of a dataset, on its storage; `manifest` is all that it says of itself."""

    manifest: Release
    storage: Storage

    @property
    def version(self) -> str:
        """The version, as v0003."""
        return self.manifest.version

    @property
    def counts(self) -> Counts:
        """What became of the samples; those kept are in the release."""
        return self.manifest.counts

    @property
    def uri(self) -> str:
        """The URI of its folder."""
        return f"{self.storage.uri}/{self.manifest.path}"

    @property
    def path(self) -> str:
        """Its folder as a local path; in a bucket, the folder below the storage."""
        url = urlsplit(self.uri)
        return url2pathname(url.path) if url.scheme == "file" else self.manifest.path

    def files(self) -> list[str]:
        """Return the URI of every file that the manifest lists."""
        return [f"{self.uri}/{file.path}" for file in self.manifest.files]

    def as_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows as an Arrow table; without the column `image` they take little memory."""
        return read_rows(self.storage, self.manifest, columns)

    def changes_since(self, former: DatasetRelease) -> list[Change]:
        """Return which samples differ from another release of the dataset, and why."""
        # The verdicts of that time say more of what went than the two releases do.
        stored = (
            stored_changes(self.storage, self.manifest)
            if self.manifest.previous == former.version
            else None
        )
        if stored is not None:
            return list(stored)
        why_gone = self._why_gone(former)
        return [
            replace(change, cause=told.cause, after=told.after)
            if change.change == "removed" and (told := why_gone.get(_place(change)))
            else change
            for change in changes_of(self.storage, former.manifest, self.manifest)
        ]

    def _why_gone(self, former: DatasetRelease) -> dict[tuple[object, ...], Change]:
        """Return what the releases after a former one, up to this one, said of what they lost."""
        folder = self.manifest.path.rpartition("/")[0]
        return {
            _place(change): change
            for release in manifests(self.storage, folder)
            if number_of(former.version) < number_of(release.version) <= number_of(self.version)
            for change in stored_changes(self.storage, release) or ()
            if change.change == "removed"
        }

    def packing_since(self, former: DatasetRelease) -> list[str]:
        """Return a line for each option of how the samples are packed that is another now."""
        was, is_now = (json.loads(release.manifest.policy or "{}") for release in (former, self))
        return [
            f"{name}: {json.dumps(was[name])} -> {json.dumps(is_now[name])}"
            for name in PACKING
            if name in was and name in is_now and was[name] != is_now[name]
        ]

    def as_hf_dataset(self) -> Any:  # noqa: ANN401 - `datasets` has no types
        """Return the rows as a Hugging Face `datasets.Dataset`; its column `image` is a picture.

        Raises:
            ModuleNotFoundError: `datasets` is not installed.
            PicturesElsewhere: an image folder has the pictures.
        """
        if not self.manifest.holds_parquet:
            raise PicturesElsewhere(
                f"{self.version} is an image folder: load_dataset({f'{self.uri}/imagefolder'!r})"
            )
        from datasets import Dataset  # type: ignore[import-untyped] # it has no types

        return Dataset(self.as_arrow())


def releases_in(storage: Storage, folder: str = "releases") -> list[DatasetRelease]:
    """Return the releases of a dataset, oldest first."""
    return [DatasetRelease(manifest, storage) for manifest in manifests(storage, folder)]


def latest_release(storage: Storage | str, *, folder: str = "releases") -> DatasetRelease:
    """Return a dataset's newest release.

    Args:
        storage: where it is: a folder, `s3://bucket/prefix`, or an opened storage.
        folder: the dataset's releases on it; a dataset with a key prefix has `prefix/releases`.

    Raises:
        ReleaseMissing: there is none.
    """
    opened = open_storage(storage) if isinstance(storage, str) else storage
    manifest = latest_manifest(opened, folder)
    if manifest is None:
        raise ReleaseMissing(f"There is no release at {opened.uri}/{folder}: materialize one first")
    return DatasetRelease(manifest, opened)
