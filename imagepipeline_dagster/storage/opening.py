"""A storage by its name: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.request import url2pathname

from imagepipeline_dagster.storage.bucket import DefaultS3, S3Bucket, S3Opener
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder


def folder_at(uri: str) -> Path | None:
    """Return the folder that a storage's name stands for, its `~` expanded; None for all others."""
    scheme, separator, rest = uri.partition("://")
    if not separator and uri:
        return Path(uri).expanduser()
    if scheme == "file" and rest.startswith("/"):
        return Path(url2pathname(rest))
    return None


def open_storage(
    uri: str,
    *,
    s3: S3Opener | None = None,
    write_options: Mapping[str, str] = MappingProxyType({}),
) -> Storage:
    """Return the storage at `uri`; nothing is read or made yet.

    Args:
        uri: a folder ('data', '/srv/images', 'file:///srv/images') or 's3://bucket/prefix'.
        s3: how to reach S3; without it boto3's own configuration (environment, profile, role).
        write_options: what S3 is told with each object, as ServerSideEncryption.

    Raises:
        ValueError: for another scheme, a URI that names no folder or bucket, or an unknown option.
    """
    if folder := folder_at(uri):
        return LocalFolder(folder)
    scheme, separator, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and bucket:
        return S3Bucket(bucket, prefix.strip("/"), s3 or DefaultS3(), write_options=write_options)
    raise ValueError(
        "the storage is neither a folder, nor file:///folder, nor s3://bucket/prefix: "
        + (f"it starts with {scheme}://" if separator else "it is empty")
    )
