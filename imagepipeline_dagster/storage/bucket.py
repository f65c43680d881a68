"""Objects in an S3 bucket, below a key prefix."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import stamina
from typing_extensions import override

from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    StorageUnavailable,
    checked_path,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


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
_BUSY = "it is asked for too much at once: let fewer runs work side by side, or run again later"
_FULL = "make room in it, or raise its quota, and run again"
_REMEDIES = {
    **dict.fromkeys(("503", "InternalError", "ServiceUnavailable", "SlowDown"), _BUSY),
    **dict.fromkeys(("507", "QuotaExceeded", "StorageFull", "XMinioStorageFull"), _FULL),
    "403": _PERMISSIONS,
    "AccessDenied": _PERMISSIONS,
    "ConnectTimeoutError": "check the endpoint and the network",
    "EndpointConnectionError": "check the endpoint and the network",
    "FlexibleChecksumError": "it is not what was written; put it back from a copy of the bucket",
    "ExpiredToken": "renew the AWS credentials",
    "InvalidAccessKeyId": _CREDENTIALS,
    "NoCredentialsError": _CREDENTIALS,
    "NoSuchBucket": "make the bucket, or name another one",
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "RequestTimeTooSkewed": "let NTP set this machine's clock",
    "SignatureDoesNotMatch": _CREDENTIALS,
}


WRITE_OPTIONS = ("ACL", "ServerSideEncryption", "SSEKMSKeyId", "StorageClass", "Tagging")
"""What S3 can be told with each object: its owner's rights, encryption, class and tags."""

# A picture is two objects, and a purchase writes sixteen pictures at once.
_CONNECTIONS = 32
_AT_ONCE = 8  # of many that are written or copied
_CHUNK = 2**20
_ABANDONED = timedelta(days=1)  # after which an upload in parts is taken for a dead writer's

# boto repeats a request, and no body that broke off.
_BROKEN_OFF = ("IncompleteReadError", "ResponseStreamingError")
_ATTEMPTS = 5


def _is_broken_off(error: Exception) -> bool:
    return type(error.__cause__).__name__ in _BROKEN_OFF


@runtime_checkable
class S3Opener(Protocol):
    """Makes clients of S3, as dagster-aws' `S3Resource` does."""

    def get_client(self) -> S3Client:
        """Return a new client."""


class DefaultS3:
    """Makes clients by boto3's own configuration: the environment, a profile, a role."""

    def get_client(self) -> S3Client:
        """Return a new client, with a connection for each thread that writes pictures."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3", config=Config(max_pool_connections=_CONNECTIONS, retries={"max_attempts": 5})
        )


class S3Bucket(Storage):
    """Objects in an S3 bucket, below a key prefix.

    S3 shows an object when its last byte has arrived, so a single PUT is atomic. Every method that
    asks the bucket raises StorageUnavailable when it cannot be reached or used.

    Args:
        bucket: the bucket's name; it exists already.
        prefix: where in the bucket, '' for its root.
        s3: makes the client, at the first use. All threads share it, and it renews credentials
            that are temporary.
        write_options: what S3 is told with each object, by the names in `WRITE_OPTIONS`.

    Raises:
        ValueError: a write option has another name.
    """

    reads_at_once = 8  # each is answered after tens of milliseconds

    def __init__(
        self,
        bucket: str,
        prefix: str,
        s3: S3Opener,
        *,
        write_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if unknown := sorted(write_options.keys() - WRITE_OPTIONS):
            raise ValueError(
                f"write_options: {', '.join(unknown)} is not one of {', '.join(WRITE_OPTIONS)}"
            )
        self._write_options = dict(write_options)
        self._bucket = bucket
        self._key_prefix = f"{checked_path(prefix)}/" if prefix else ""
        self._s3 = s3
        self._opening = threading.Lock()
        self._opened: tuple[S3Client, threading.Semaphore] | None = None
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    @override
    def uri_of(self, path: str) -> str:
        return f"{self.uri}/{checked_path(path)}"

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        del derived  # a PUT that was answered lasts
        with self._asking(path) as client:
            client.put_object(**self._at(path), Body=data, **self._told_of(path))
        return self.uri_of(path)

    @override
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as writes:
            deque(writes.map(self.write, objects.keys(), map(bytes, objects.values())), maxlen=0)

    @override
    def upload(self, path: str, file: Path) -> str:
        # upload_file would hide the cause of a failure in an error of its own; this one does not.
        with file.open("rb") as source, self._asking(path) as client:
            client.upload_fileobj(source, **self._at(path), ExtraArgs=self._told_of(path))
        file.unlink()
        return self.uri_of(path)

    @override
    def copy(self, sources: Mapping[str, str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as copies:
            deque(copies.map(self._copy, sources.values(), sources.keys()), maxlen=0)

    def _copy(self, source: str, target: str) -> None:
        told = {"MetadataDirective": "REPLACE", **self._told_of(target)}
        if "Tagging" in told:
            told["TaggingDirective"] = "REPLACE"
        with self._asking(source) as client:
            client.copy_object(**self._at(target), CopySource=self._at(source), **told)

    @override
    @stamina.retry(on=_is_broken_off, attempts=_ATTEMPTS, timeout=None)
    def read(self, path: str) -> bytes:
        with self._asking(path) as client:
            return client.get_object(**self._at(path))["Body"].read()

    @override
    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | ObjectMissing]:
        def read(path: str) -> bytes | ObjectMissing:
            try:
                return self.read(path)
            except ObjectMissing as missing:
                return missing

        with ThreadPoolExecutor(self.reads_at_once) as reads:
            yield from reads.map(read, paths)

    @override
    def chunks(self, path: str) -> Iterator[bytes]:
        at, read = self._at(path), 0
        for attempt in stamina.retry_context(on=_is_broken_off, attempts=_ATTEMPTS, timeout=None):
            with attempt, self._asking(path) as client:
                answer = client.get_object(**at)
                for chunk in answer["Body"].iter_chunks(_CHUNK):
                    yield chunk
                    read += len(chunk)
                    at |= {"Range": f"bytes={read}-", "IfMatch": answer["ETag"]}

    @override
    def exists(self, path: str) -> bool:
        with suppress(ObjectMissing), self._asking(path) as client:
            client.head_object(**self._at(path))
            return True
        return False

    @override
    def list(self, prefix: str) -> Iterator[str]:
        pages = self._pages(self._folder(prefix), prefix)
        keys = (item["Key"] for page in pages for item in page.get("Contents", ()))
        # The S3 console marks an empty folder by an object whose key ends in a slash.
        return (key.removeprefix(self._key_prefix) for key in keys if not key.endswith("/"))

    @override
    def delete(self, path: str) -> None:
        with self._asking(path) as client:
            client.delete_object(**self._at(path))

    @override
    def folders(self, prefix: str) -> Sequence[str]:
        key_prefix = self._folder(prefix)
        return sorted(
            item["Prefix"].removeprefix(key_prefix).rstrip("/")
            for page in self._pages(key_prefix, prefix, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        )

    @override
    def delete_folder(self, prefix: str) -> None:
        for page in self._pages(f"{self._key(prefix)}/", prefix):  # '' is refused
            objects: Any = [{"Key": item["Key"]} for item in page.get("Contents", ())]
            if not objects:
                continue
            with self._asking(prefix) as client:
                answer = client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
                )
            if errors := answer.get("Errors"):
                raise _unavailable(f"{self.uri}/{prefix}", errors[0].get("Code", "DeleteObjects"))
        self._abort_uploads(prefix, begun_before=datetime.now(UTC))

    @override
    def delete_unfinished(self, prefix: str) -> None:
        if prefix:  # the root may be a whole bucket, with others' uploads in it
            self._abort_uploads(prefix, begun_before=datetime.now(UTC) - _ABANDONED)

    def _abort_uploads(self, prefix: str, *, begun_before: datetime) -> None:
        """Give up uploads in parts below the folder: no listing shows them, and they cost space."""
        with suppress(OSError), self._asking(prefix) as client:  # it may be forbidden, or unknown
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._folder(prefix)
            )
            for upload in (some for page in pages for some in page.get("Uploads", ())):
                if upload["Initiated"] < begun_before:
                    client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _told_of(self, path: str) -> dict[str, Any]:
        """Return what S3 is told of an object when it is written."""
        ending = PurePosixPath(path).suffix.lower()
        content_type = _CONTENT_TYPES.get(ending, "application/octet-stream")
        return {"ContentType": content_type, **self._write_options}

    def _at(self, path: str) -> Any:  # noqa: ANN401 - the names of two arguments
        return {"Bucket": self._bucket, "Key": self._key(path)}

    def _key(self, path: str) -> str:
        return self._key_prefix + checked_path(path)

    def _folder(self, prefix: str) -> str:
        return f"{self._key(prefix)}/" if prefix else self._key_prefix

    def _pages(self, key_prefix: str, path: str, **options: str) -> Iterator[Mapping[str, Any]]:
        following: dict[str, Any] = dict(options)
        while True:
            with self._asking(path) as client:
                page = client.list_objects_v2(Bucket=self._bucket, Prefix=key_prefix, **following)
            yield page
            if not page["IsTruncated"]:
                return
            following["ContinuationToken"] = page["NextContinuationToken"]

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
            if code in ("NoSuchKey", "404"):
                raise ObjectMissing(f"there is no object at {uri}") from None
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
