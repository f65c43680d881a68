"""Objects in a local folder or an S3 bucket: one contract, two homes.

An object is a path and its bytes. A reader sees a path's former bytes or its new ones, never a
part of them, whatever happens to the writer. Paths are relative and '/'-separated; one that could
leave the storage is refused with a ValueError before anything is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.request import url2pathname

if TYPE_CHECKING:
    from dagster_aws.s3 import S3Resource
    from types_boto3_s3 import S3Client

__all__ = [
    "LocalFolder",
    "ObjectExists",
    "ObjectMissing",
    "S3Bucket",
    "Storage",
    "StorageUnavailable",
    "image_path",
    "open_storage",
    "thumbnail_path",
]


class ObjectMissing(FileNotFoundError):
    """There is no object at this path."""


class ObjectExists(FileExistsError):
    """There is an object at this path already."""


class StorageUnavailable(OSError):
    """The bucket cannot be used; the message says which one, why, and what to do."""


_TEMPORARY_PREFIX = ".tmp-"
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def _checked(path: str) -> str:
    """Return the path.

    Raises:
        ValueError: when it is not a plain relative path.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or _FORBIDDEN.search(path):
        raise ValueError(f"{path!r} is not a relative path of plain parts between single slashes")
    if any(part.startswith(_TEMPORARY_PREFIX) for part in parts):
        raise ValueError(f"{path!r} has a part that is reserved for unfinished files")
    path.encode()  # a lone surrogate has no UTF-8 form; its UnicodeEncodeError is a ValueError
    return path


class Storage(ABC):
    """A place for objects. Safe to use from many threads and processes at once.

    Every method that takes a path raises ValueError for one with an empty, '.' or '..' part, a
    backslash or a control character. `uri` is the root's, without a trailing slash.
    """

    uri: str

    @abstractmethod
    def uri_of(self, path: str) -> str:
        """Return the URI of the object at `path`, whether it exists or not."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> str:
        """Put the bytes at `path`, in place of what is there, and return the URI."""

    def write_once(self, path: str, data: bytes) -> str:
        """Put the bytes at a path that names their content, unless they are there; return the URI.

        Two writers at once do no harm: the path names the content, so both bring the same bytes.
        """
        if not self.exists(path):
            self.write(path, data)
        return self.uri_of(path)

    @abstractmethod
    def create(self, path: str, data: bytes) -> str:
        """Put the bytes at a path that must be free, and return the URI.

        Raises:
            ObjectExists: when the path is taken; of several writers at once, all but one get it.
        """

    @abstractmethod
    def upload(self, path: str, file: Path) -> str:
        """Move a finished local file to `path`, in place of what is there, and return the URI.

        The file is gone afterwards, and still there when this fails.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the object's bytes.

        Raises:
            ObjectMissing: when there is none.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Tell whether there is an object at `path`."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield the paths below the folder `prefix` ('' for all), sorted by code point."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; nothing happens where there is none."""


class LocalFolder(Storage):
    """Objects as files below a folder, made with the first object.

    New bytes are written under a temporary name in their folder, synced to the disk and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.expanduser().resolve()
        self.uri = self._root.as_uri().rstrip("/")

    def uri_of(self, path: str) -> str:  # noqa: D102 - inherited
        return (self._root / _checked(path)).as_uri()

    def write(self, path: str, data: bytes) -> str:  # noqa: D102 - inherited
        _replace_file(self._location(path), data)
        return self.uri_of(path)

    def write_once(self, path: str, data: bytes) -> str:  # noqa: D102 - inherited
        location = self._location(path)
        if not location.is_file():
            _replace_file(location, data)
        return self.uri_of(path)

    def create(self, path: str, data: bytes) -> str:  # noqa: D102 - inherited
        location = self._location(path)
        with _temporary_beside(location) as temporary:
            _write_synced(temporary, data)
            try:
                # A rename would replace; a hard link fails where the name is taken.
                location.hardlink_to(temporary)
            except FileExistsError:
                raise ObjectExists(f"{self.uri_of(path)} exists already") from None
        _sync_folder(location.parent)
        return self.uri_of(path)

    def upload(self, path: str, file: Path) -> str:  # noqa: D102 - inherited
        location = self._location(path)
        source = file.resolve(strict=True)
        with _temporary_beside(location) as temporary:
            try:
                temporary.hardlink_to(source)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(location)
        _sync_folder(location.parent)
        file.unlink()
        return self.uri_of(path)

    def read(self, path: str) -> bytes:  # noqa: D102 - inherited
        try:
            return self._location(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectMissing(f"there is no object at {self.uri_of(path)}") from None

    def exists(self, path: str) -> bool:  # noqa: D102 - inherited
        return self._location(path).is_file()

    def list(self, prefix: str) -> Iterator[str]:  # noqa: D102 - inherited
        if not prefix:
            return _files_below(self._root, "")
        return _files_below(self._location(prefix), f"{prefix}/")

    def delete(self, path: str) -> None:  # noqa: D102 - inherited
        location = self._location(path)
        if location.is_file():
            location.unlink(missing_ok=True)

    def _location(self, path: str) -> Path:
        location = self._root / _checked(path)
        # A link that somebody put into the folder must not lead writes and reads out of it.
        if not location.resolve().is_relative_to(self._root):
            raise ValueError(f"{path!r} leads out of {self.uri} by a symbolic link")
        return location


@contextmanager
def _temporary_beside(location: Path) -> Iterator[Path]:
    """Yield an unused name in the folder of `location`; what is left of it is removed."""
    _make_folder(location.parent)
    temporary = location.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _replace_file(location: Path, data: bytes) -> None:
    with _temporary_beside(location) as temporary:
        _write_synced(temporary, data)
        temporary.replace(location)
    _sync_folder(location.parent)


def _write_synced(file: Path, data: bytes) -> None:
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(folder: Path, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # With its slash a folder sorts among the files just as the paths below it do.
            found = sorted(
                (f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in found:
        if name.endswith("/"):
            yield from _files_below(folder / entry.name, prefix + name)
        elif entry.is_file(follow_symlinks=False) and not name.startswith(_TEMPORARY_PREFIX):
            yield prefix + name


_CONTENT_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}

_CREDENTIALS = "give AWS credentials by the environment, a profile or a role"
_PERMISSIONS = (
    "allow s3:ListBucket on the bucket, s3:GetObject, s3:PutObject and s3:DeleteObject in it"
)
_REMEDIES = {
    "403": _PERMISSIONS,
    "AccessDenied": _PERMISSIONS,
    "ConnectTimeoutError": "check the endpoint and the network",
    "EndpointConnectionError": "check the endpoint and the network",
    "ExpiredToken": "renew the AWS credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "NoCredentialsError": _CREDENTIALS,
    "NoSuchBucket": "make the bucket, or name another one",
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
}


class S3Bucket(Storage):
    """Objects in an S3 bucket, below a key prefix.

    S3 shows an object when its last byte has arrived, so a single PUT is atomic. Every method that
    asks the bucket raises StorageUnavailable when it cannot be reached or used.

    Args:
        bucket: the bucket's name; it exists already.
        prefix: where in the bucket, '' for its root.
        s3: how to reach S3. Its client is made at the first use and shared by all threads.
    """

    def __init__(self, bucket: str, prefix: str, s3: S3Resource) -> None:
        self._bucket = bucket
        self._key_prefix = f"{_checked(prefix)}/" if prefix else ""
        self._s3 = s3
        self._opening = threading.Lock()
        self._opened: tuple[S3Client, threading.Semaphore] | None = None
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def uri_of(self, path: str) -> str:  # noqa: D102 - inherited
        return f"{self.uri}/{_checked(path)}"

    def write(self, path: str, data: bytes) -> str:  # noqa: D102 - inherited
        key = self._key(path)
        with self._asking(path) as client:
            client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ContentType=_content_type(path)
            )
        return self.uri_of(path)

    def create(self, path: str, data: bytes) -> str:  # noqa: D102 - inherited
        key = self._key(path)
        with self._asking(path) as client:
            client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentType=_content_type(path),
                IfNoneMatch="*",
            )
        return self.uri_of(path)

    def upload(self, path: str, file: Path) -> str:  # noqa: D102 - inherited
        key = self._key(path)
        # upload_file would hide the cause of a failure in an error of its own; this one does not.
        with file.open("rb") as source, self._asking(path) as client:
            client.upload_fileobj(
                source, self._bucket, key, ExtraArgs={"ContentType": _content_type(path)}
            )
        file.unlink()
        return self.uri_of(path)

    def read(self, path: str) -> bytes:  # noqa: D102 - inherited
        key = self._key(path)
        with self._asking(path) as client:
            return client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def exists(self, path: str) -> bool:  # noqa: D102 - inherited
        key = self._key(path)
        with suppress(ObjectMissing), self._asking(path) as client:
            client.head_object(Bucket=self._bucket, Key=key)
            return True
        return False

    def list(self, prefix: str) -> Iterator[str]:  # noqa: D102 - inherited
        return self._keys_below(f"{self._key(prefix)}/" if prefix else self._key_prefix, prefix)

    def delete(self, path: str) -> None:  # noqa: D102 - inherited
        key = self._key(path)
        with self._asking(path) as client:
            client.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, path: str) -> str:
        return self._key_prefix + _checked(path)

    def _keys_below(self, key_prefix: str, path: str) -> Iterator[str]:
        following: dict[str, Any] = {}
        while True:
            with self._asking(path) as client:
                page = client.list_objects_v2(Bucket=self._bucket, Prefix=key_prefix, **following)
            for found in page.get("Contents", ()):
                # The S3 console marks an empty folder by an object whose key ends in a slash.
                if not found["Key"].endswith("/"):
                    yield found["Key"].removeprefix(self._key_prefix)
            if not page["IsTruncated"]:
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    @contextmanager
    def _asking(self, path: str) -> Iterator[S3Client]:
        """Yield the client for one request about `path`; its errors become ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        uri = f"{self.uri}/{path}"
        try:
            client, connections = self._open()
            with connections:
                yield client
        except ClientError as error:
            code = error.response["Error"]["Code"]
            match code:
                case "NoSuchKey" | "404":
                    raise ObjectMissing(f"there is no object at {uri}") from None
                case "PreconditionFailed" | "ConditionalRequestConflict":
                    raise ObjectExists(f"{uri} exists already") from None
                case _:
                    raise _unavailable(uri, code) from error
        except BotoCoreError as error:
            raise _unavailable(uri, type(error).__name__) from error

    def _open(self) -> tuple[S3Client, threading.Semaphore]:
        with self._opening:  # making a client is not thread-safe; using one is
            if self._opened is None:
                client: S3Client = self._s3.get_client()
                # More requests at once than pooled connections would each open one and throw it
                # away, with a warning.
                pooled: int = vars(client.meta.config)["max_pool_connections"]
                connections = threading.Semaphore(pooled)
                self._opened = client, connections
            return self._opened


def _unavailable(uri: str, cause: str) -> StorageUnavailable:
    # The cause's name alone: the vendor's message may quote the endpoint or the credentials.
    remedy = _REMEDIES.get(cause, "check the bucket, the credentials and the network")
    return StorageUnavailable(f"{uri} cannot be used ({cause}): {remedy}")


def _content_type(path: str) -> str:
    return _CONTENT_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")


def open_storage(uri: str, *, s3: S3Resource | None = None) -> Storage:
    """Return the storage at `uri`; nothing is read or made yet.

    Args:
        uri: a folder ('data', '/srv/images', 'file:///srv/images') or 's3://bucket/prefix'.
        s3: how to reach S3; without it boto3's own configuration (environment, profile, role).

    Raises:
        ValueError: for another scheme, or a URI that names no folder or bucket.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator and uri:
        return LocalFolder(Path(uri))
    if scheme == "file" and rest.startswith("/"):
        return LocalFolder(Path(url2pathname(rest)))
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and bucket:
        from dagster_aws.s3 import S3Resource

        return S3Bucket(bucket, prefix.strip("/"), s3 or S3Resource())
    raise ValueError(
        "the storage is neither a folder, nor file:///folder, nor s3://bucket/prefix: "
        + (f"it starts with {scheme}://" if separator else "it is empty")
    )


_SHA256 = re.compile(r"[0-9a-f]{64}")


def image_path(sha256: str, format: str) -> str:  # noqa: A002 - Pillow's own word
    """Return the path of an image's bytes, named after their content.

    Args:
        sha256: of the bytes, 64 lower-case hexadecimal digits.
        format: Pillow's name of the picture's format, as 'PNG' or 'JPEG'.
    """
    extension = "jpg" if format == "JPEG" else format.lower()
    return f"images/{_shard(sha256)}.{extension}"


def thumbnail_path(sha256: str) -> str:
    """Return the path of the thumbnail of the image with these bytes."""
    return f"thumbnails/{_shard(sha256)}.webp"


def _shard(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
    return f"{sha256[:2]}/{sha256}"
