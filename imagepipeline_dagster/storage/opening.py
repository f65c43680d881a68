"""A storage by its name: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import url2pathname

from imagepipeline_dagster.storage.bucket import S3Bucket
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource

__all__ = ["folder_at", "open_storage"]


def folder_at(uri: str) -> Path | None:
    """Return the folder that a storage's name stands for, its `~` expanded; None for all others."""
    scheme, separator, rest = uri.partition("://")
    if not separator and uri:
        return Path(uri).expanduser()
    if scheme == "file" and rest.startswith("/"):
        return Path(url2pathname(rest))
    return None


def open_storage(uri: str, *, s3: S3Resource | None = None) -> Storage:
    """Return the storage at `uri`; nothing is read or made yet.

    Args:
        uri: a folder ('data', '/srv/images', 'file:///srv/images') or 's3://bucket/prefix'.
        s3: how to reach S3; without it boto3's own configuration (environment, profile, role).

    Raises:
        ValueError: for another scheme, or a URI that names no folder or bucket.
    """
    if folder := folder_at(uri):
        return LocalFolder(folder)
    scheme, separator, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and bucket:
        from dagster_aws.s3 import S3Resource

        return S3Bucket(bucket, prefix.strip("/"), s3 or S3Resource())
    raise ValueError(
        "the storage is neither a folder, nor file:///folder, nor s3://bucket/prefix: "
        + (f"it starts with {scheme}://" if separator else "it is empty")
    )
