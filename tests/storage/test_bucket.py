"""Objects in an S3 bucket."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from dagster_aws.s3 import S3Resource
from moto.s3.models import s3_backends

from imagepipeline_dagster.storage.bucket import DefaultS3
from imagepipeline_dagster.storage.contract import Storage, StorageUnavailable
from imagepipeline_dagster.storage.opening import open_storage
from tests.api.servers import Received, Reply, answering, serving

pytest_plugins = ["tests.s3"]


def test_content_types_follow_the_extension(s3_bucket: str, tmp_path: Path) -> None:
    """Objects say what they are, so that a browser shows them."""
    storage = open_storage(f"s3://{s3_bucket}/p")
    shard = tmp_path / "shard"
    shard.write_bytes(b"")
    storage.write("a.png", b"")
    storage.write("README.md", b"")
    storage.upload("b.parquet", shard)
    storage.write("unknown", b"")

    client = boto3.client("s3")
    types = {
        path: client.head_object(Bucket=s3_bucket, Key=f"p/{path}")["ContentType"]
        for path in storage.list("")
    }
    assert types == {
        "README.md": "text/markdown; charset=utf-8",
        "a.png": "image/png",
        "b.parquet": "application/vnd.apache.parquet",
        "unknown": "application/octet-stream",
    }


def test_a_listing_has_every_page(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of several pages is complete, and a console's folder marker is no object."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    storage = open_storage(f"s3://{s3_bucket}")
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="many/", Body=b"")
    paths = [f"many/{number:02}" for number in range(33)]
    for path in paths:
        storage.write(path, b"")

    assert list(storage.list("many")) == list(storage.list("")) == paths


class CountingS3(S3Resource):
    """Counts how often a client is made."""

    _made: list[int] = []  # noqa: RUF012 - pydantic copies it for each instance

    def get_client(self) -> Any:  # noqa: ANN401 - the resource's own type
        """Return a new client."""
        self._made.append(1)
        return super().get_client()


def test_one_client_serves_all_threads(s3_bucket: str) -> None:
    """The client is made at the first use, once."""
    s3 = CountingS3()
    storage = open_storage(f"s3://{s3_bucket}", s3=s3)
    assert not s3._made

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: storage.write(str(number), b""), range(16)))
    assert len(s3._made) == 1


def test_many_writers_do_not_overflow_the_connection_pool(
    s3_bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """More threads than connections cause no warning about discarded connections."""
    storage = open_storage(f"s3://{s3_bucket}")

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda number: storage.write(str(number), b"x" * 1000), range(256)))
    assert "pool is full" not in caplog.text


def test_write_options_reach_every_object(s3_bucket: str, tmp_path: Path) -> None:
    """Encryption, access rights and tags are told to S3 with each object, copies among them."""
    options = {"ServerSideEncryption": "AES256", "ACL": "bucket-owner-full-control"}
    storage = open_storage(f"s3://{s3_bucket}", write_options={**options, "Tagging": "team=art"})
    shard = tmp_path / "shard"
    shard.write_bytes(b"")
    storage.write("a.png", b"")
    storage.upload("b.tar", shard)
    storage.copy({"c.png": "a.png"})

    client = boto3.client("s3")
    for key in ("a.png", "b.tar", "c.png"):
        assert client.head_object(Bucket=s3_bucket, Key=key)["ServerSideEncryption"] == "AES256"
        tags = client.get_object_tagging(Bucket=s3_bucket, Key=key)["TagSet"]
        assert tags == [{"Key": "team", "Value": "art"}]


def test_a_deleted_folder_keeps_no_unfinished_upload(s3_bucket: str) -> None:
    """The parts that a killed writer sent, which no listing shows, go with its folder alone."""
    client = boto3.client("s3")
    for key in ("p/r/v1/a.parquet", "p/r/v10/a.tar"):
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    open_storage(f"s3://{s3_bucket}/p").delete_folder("r/v1")
    [left] = client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    assert left["Key"] == "p/r/v10/a.tar"


@pytest.mark.usefixtures("s3_environment")
def test_unfinished_uploads_are_given_up_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began within the day may be a slow writer's."""
    now = dt.datetime.now(dt.UTC)
    uploads = "".join(
        f"<Upload><Key>p/r/{hours}</Key><UploadId>id</UploadId>"
        f"<Initiated>{now - dt.timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}</Initiated></Upload>"
        for hours in (23, 25)
    )
    listing = f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode()
    with serving(Reply(body=listing), Reply(status=204, body=b"")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        open_storage("s3://bucket/p").delete_unfinished("r")
    asked = [(request.method, request.path.partition("?")[0]) for request in server.received]
    assert asked == [("GET", "/bucket"), ("DELETE", "/bucket/p/r/25")]


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey")])
def test_unfinished_uploads_stay_where_nobody_may_look_for_them(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """A bucket that forbids to list uploads, or does not know how, stops nobody."""
    refused = f"<Error><Code>{code}</Code></Error>".encode()
    with serving(Reply(status=status, body=refused)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        open_storage("s3://bucket").delete_unfinished("r")
    assert len(server.received) == 1


@pytest.mark.usefixtures("s3_environment")
def test_uploads_elsewhere_in_a_bucket_are_nobodys_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A storage may be a bucket's root, and other programs may write into other folders of it."""
    with serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        open_storage("s3://bucket").delete_unfinished("")
    assert server.received == []


def test_an_unknown_write_option_is_refused() -> None:
    """The error names it, and those that there are."""
    with pytest.raises(ValueError, match="Encryption is not one of ACL, ServerSideEncryption"):
        open_storage("s3://bucket", write_options={"Encryption": "AES256"})


def test_a_damaged_object_is_not_read(s3_bucket: str) -> None:
    """Bytes that are not those whose checksum was stored with them raise, and say what to do."""
    storage = open_storage(f"s3://{s3_bucket}")
    storage.write("a", b"as it was written")
    [stored] = s3_backends["123456789012"]["aws"].buckets[s3_bucket].keys.values()
    stored.value = b"as it is now, alas"

    with pytest.raises(StorageUnavailable, match="it is not what was written"):
        storage.read("a")


@pytest.mark.usefixtures("s3_environment")
def test_a_body_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad second of a bucket ends no release, and a large object is read on where it ended."""
    data = os.urandom(3 * 2**20)
    broken = 2 * 2**20 + 5

    def script(received: Received) -> Reply:
        first = int(received.headers.get("range", "bytes=0-").strip("bytes=-"))
        body = data[first : broken if server.count("GET") % 2 else None]
        headers = {"ETag": '"e"'}
        if first:
            assert received.headers["if-match"] == '"e"'
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        status = 206 if first else 200
        return Reply(status=status, body=body, declared=len(data) - first, headers=headers)

    with answering(script) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        storage = open_storage("s3://bucket")
        assert storage.read("a") == data
        assert b"".join(storage.chunks("a")) == data
        asked = [request.headers.get("range") for request in server.received]
    assert asked == [None, None, None, f"bytes={broken}-"]


def test_another_endpoint_is_asked_by_paths(s3_bucket: str, s3_endpoint: str) -> None:
    """MinIO and its like have no host name for each bucket."""
    client = DefaultS3().get_client()

    url = client.generate_presigned_url("get_object", {"Bucket": s3_bucket, "Key": "a"})

    assert url.startswith(f"{s3_endpoint}/{s3_bucket}/a?")


def test_temporary_credentials_are_renewed(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that lives longer than its credentials asks for new ones by itself."""
    given = tmp_path / "given"
    giver = tmp_path / "giver.py"
    giver.write_text(
        "import datetime, json, sys\n"
        f"with open({str(given)!r}, 'a') as log: log.write('x')\n"
        "soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'a', 'SecretAccessKey': 'b',\n"
        "                  'SessionToken': 'c', 'Expiration': soon.isoformat()}))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {giver}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = open_storage(f"s3://{s3_bucket}")

    storage.write("a", b"")
    before = len(given.read_text())
    storage.write("b", b"")

    assert len(given.read_text()) > before


def _attempts(storage: Storage, tmp_path: Path) -> Iterator[tuple[str, StorageUnavailable]]:
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: storage.write("a", b""),
        "upload": lambda: storage.upload("a", file),
        "read": lambda: storage.read("a"),
        "list": lambda: list(storage.list("a")),
    }
    for name, attempt in attempts.items():
        with pytest.raises(StorageUnavailable) as raised:
            attempt()
        yield name, raised.value
    assert file.exists()


@pytest.mark.usefixtures("s3_environment")
def test_a_missing_bucket_is_named(tmp_path: Path) -> None:
    """Every error about a bucket that is not there has the URI and what to do."""
    for name, error in _attempts(open_storage("s3://no-such-bucket/p"), tmp_path):
        assert "s3://no-such-bucket/p/a" in str(error), name
        assert "make the bucket, or name another one" in str(error), name


def test_missing_credentials_are_explained(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials the error says how to give them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    for name, error in _attempts(open_storage(f"s3://{s3_bucket}"), tmp_path):
        assert "give AWS credentials" in str(error), name


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(503, "SlowDown", "or run again later"), (507, "XMinioStorageFull", "make room in it")],
)
def test_a_bucket_that_is_busy_or_full_says_so(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str
) -> None:
    """Neither credentials nor network are to blame where S3 asks for patience, or has no room."""
    body = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
    with serving(Reply(status=status, body=body)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        storage = open_storage("s3://bucket", s3=S3Resource(max_attempts=0))
        for ask in (storage.read, lambda path: list(storage.list(path))):
            with pytest.raises(StorageUnavailable, match=words):
                ask("a")


@pytest.mark.usefixtures("s3_environment")
def test_an_unreachable_endpoint_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of a connection error holds neither the endpoint's password nor the keys."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    s3 = S3Resource(max_attempts=0, aws_secret_access_key="hunter3", aws_access_key_id="hunter4")

    for name, error in _attempts(open_storage("s3://bucket", s3=s3), tmp_path):
        assert "check the endpoint and the network" in str(error), name
        assert "hunter" not in str(error), name
