from __future__ import annotations

import ctypes
import datetime as dt
import errno
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from dagster_aws.s3 import S3Resource
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from moto.s3.models import s3_backends

from imagepipeline_dagster.storage import folder as folder_module
from imagepipeline_dagster.storage.bucket import DefaultS3, S3Bucket
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    StorageUnavailable,
    image_path,
    thumbnail_path,
)
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from tests.api.servers import Received, Reply, answering, serving

pytest_plugins = ["tests.s3"]

HOSTILE_PATHS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "a/./b",
    "a//b",
    "a/",
    "a\\..\\b",
    "a\x00b",
    "a\nb",
    "\udc80",
    ".tmp-x",
    "a/.tmp-x/b",
]


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Return an empty storage of each kind."""
    if request.param == "folder":
        return open_storage(str(tmp_path / "data"))
    bucket, s3 = map(request.getfixturevalue, ("s3_bucket", "s3"))
    return open_storage(f"s3://{bucket}/some/prefix", s3=s3)


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    """Return an empty local storage."""
    return LocalFolder(tmp_path / "data")


def test_write_then_read_gives_the_bytes_back(storage: Storage) -> None:
    """The latest bytes come back as they went in, also none at all; the URI is the object's."""
    uri = storage.write("a/b c%.bin", b"\x00\xff")

    assert uri == storage.uri_of("a/b c%.bin")
    assert uri.startswith(storage.uri + "/")
    assert storage.read("a/b c%.bin") == b"\x00\xff"
    storage.write("a/b c%.bin", b"")
    assert storage.read("a/b c%.bin") == b""


def test_a_large_object_is_read_in_chunks(storage: Storage) -> None:
    """No chunk is much larger than a megabyte; a missing object is told as by a read."""
    data = os.urandom(2_500_000)
    storage.write("large", data)
    chunks = list(storage.chunks("large"))
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= 1 << 20
    with pytest.raises(ObjectMissing, match="absent"):
        list(storage.chunks("absent"))


def test_many_are_read_in_their_order(storage: Storage) -> None:
    """Each gives its bytes, or says that it is missing; that stops no other."""
    storage.write_all({f"a/{number}": b"%d" % number for number in range(30)})
    storage.delete("a/3")
    read = list(storage.read_each([f"a/{number}" for number in range(30)]))
    assert isinstance(read[3], ObjectMissing)
    assert storage.uri_of("a/3") in str(read[3])
    assert read[:3] + read[4:] == [b"%d" % number for number in range(30) if number != 3]


def test_many_are_written_together(storage: Storage) -> None:
    """Each of them has its bytes, also in place of others, and nothing else is left."""
    storage.write("a/old", b"before")
    storage.write_all({"a/old": b"after", "a/new": memoryview(b"bytes"), "b/new": b""})
    assert {path: storage.read(path) for path in storage.list("")} == {
        "a/new": b"bytes",
        "a/old": b"after",
        "b/new": b"",
    }
    with pytest.raises(ValueError, match="relative path"):
        storage.write_all({"../out": b"bytes"})


@pytest.mark.parametrize("megabytes", [1, 18], ids=["small", "more than one part"])
def test_upload_moves_a_local_file(storage: Storage, tmp_path: Path, megabytes: int) -> None:
    """A finished file arrives whole, in place of what was there, and is gone from where it was."""
    data = os.urandom(1 << 20) * megabytes
    shard = tmp_path / "shard.parquet"
    shard.write_bytes(data)
    storage.write("v1/shard.parquet", b"former")

    assert storage.upload("v1/shard.parquet", shard) == storage.uri_of("v1/shard.parquet")
    arrived = hashlib.sha256(storage.read("v1/shard.parquet"))
    assert arrived.digest() == hashlib.sha256(data).digest()
    assert not shard.exists()


def test_upload_of_no_file_raises(storage: Storage, tmp_path: Path) -> None:
    """A file that is not there is an error, and leaves the former object."""
    storage.write("a", b"former")

    with pytest.raises(FileNotFoundError):
        storage.upload("a", tmp_path / "absent")
    assert storage.read("a") == b"former"


def test_a_copy_has_the_bytes_and_is_no_link_to_what_comes_later(storage: Storage) -> None:
    """A copy replaces what was there, and keeps its bytes when the original is replaced or gone."""
    storage.write("a/b.png", b"first")
    storage.write("c/d.png", b"former")
    storage.copy({"c/d.png": "a/b.png"})
    storage.write("a/b.png", b"second")
    assert storage.read("c/d.png") == b"first"
    storage.delete("a/b.png")
    assert storage.read("c/d.png") == b"first"
    with pytest.raises(ObjectMissing, match=r"a/b\.png"):
        storage.copy({"c/e.png": "a/b.png"})


def test_a_copy_in_a_folder_takes_no_space(folder: LocalFolder, tmp_path: Path) -> None:
    """Both names are one file."""
    folder.write("a", b"bytes")
    folder.copy({"b/c": "a"})
    assert (tmp_path / "data/a").samefile(tmp_path / "data/b/c")


def test_folders_are_listed_without_what_is_in_them(storage: Storage) -> None:
    """The folders directly below are named, sorted, and files beside them are not."""
    for path in ("r/v2/a/b", "r/v1/a", "r/file", "s/v3/a"):
        storage.write(path, b"")
    assert storage.folders("r") == ["v1", "v2"]
    assert storage.folders("") == ["r", "s"]
    assert storage.folders("none") == []


def test_a_folder_is_deleted_with_all_that_is_in_it(storage: Storage) -> None:
    """Nothing below it stays, and nothing beside it goes."""
    for path in ("r/v1/a", "r/v1/b/c", "r/v10/a"):
        storage.write(path, b"")
    storage.delete_folder("r/v1")
    storage.delete_folder("r/none")
    assert list(storage.list("r")) == ["r/v10/a"]


def test_a_missing_object_is_named(storage: Storage) -> None:
    """Reading what is not there raises an error with the object's URI; a folder is no object."""
    storage.write("a/b", b"")

    for path in ("absent", "a", "a/b/c"):
        with pytest.raises(ObjectMissing) as raised:
            storage.read(path)
        assert storage.uri_of(path) in str(raised.value)
        assert not storage.exists(path)
    assert storage.exists("a/b")


def test_delete_is_content_with_nothing(storage: Storage) -> None:
    """Deleting removes the object, and is no error where there is none."""
    storage.write("a/b", b"1")

    for path in ("a/b", "a/b", "a", "absent"):
        storage.delete(path)
    assert not storage.exists("a/b")


def test_list_is_sorted_and_stays_below_the_folder(storage: Storage) -> None:
    """A folder's listing holds all paths below it and nothing of its namesakes."""
    paths = ["a/b/c", "a/b.txt", "a/b/a", "a0", "a/é", "a/b0/x", "ab/c", "a/B"]
    for path in paths:
        storage.write(path, b"")

    assert list(storage.list("a")) == sorted(path for path in paths if path.startswith("a/"))
    assert list(storage.list("")) == sorted(paths)
    assert list(storage.list("a/b")) == ["a/b/a", "a/b/c"]
    assert list(storage.list("absent")) == []
    assert list(storage.list("a0")) == []


def test_a_path_that_could_leave_is_refused(storage: Storage, tmp_path: Path) -> None:
    """Every method refuses a path that is not plain, before anything is touched."""
    file = tmp_path / "file"
    file.write_bytes(b"")

    for path in HOSTILE_PATHS:
        attempts: list[Callable[[], object]] = [
            partial(storage.write, path, b""),
            partial(storage.upload, path, file),
            partial(storage.read, path),
            partial(storage.exists, path),
            partial(storage.delete, path),
            partial(storage.uri_of, path),
            partial(storage.list, path or "/"),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match=r"relative path|reserved|surrogates"):
                attempt()
    assert list(storage.list("")) == []
    assert file.exists()


def test_many_writers_of_one_object_leave_it_whole(storage: Storage) -> None:
    """Sixteen threads that store the same content at once leave one object, intact."""
    data = os.urandom(300_000)
    together = threading.Barrier(16)

    def store() -> str:
        together.wait()
        return storage.write("images/ab/abc.png", data)

    with ThreadPoolExecutor(16) as threads:
        uris = {future.result() for future in [threads.submit(store) for _ in range(16)]}

    assert uris == {storage.uri_of("images/ab/abc.png")}
    assert list(storage.list("")) == ["images/ab/abc.png"]
    assert storage.read("images/ab/abc.png") == data


def test_a_listing_shows_what_was_written_before(storage: Storage) -> None:
    """Of sixteen threads that write and then look, at most one sees its own object alone."""
    together = threading.Barrier(16)

    def sees(writer: int) -> int:
        together.wait()
        storage.write(f"claims/{writer}", b"")
        return len(list(storage.list("claims")))

    with ThreadPoolExecutor(16) as threads:
        seen = list(threads.map(sees, range(16)))

    assert max(seen) == 16
    assert seen.count(1) <= 1


# The local folder


def _tree(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_former_content(
    folder: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A write that fails at any step leaves the former object, the source file and no litter."""
    folder.write("a/b", b"former")
    source = tmp_path / "source"
    source.write_bytes(b"new")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            folder.write("a/b", b"new")
        if failing == "replace":
            with pytest.raises(OSError, match="No space left"):
                folder.upload("a/b", source)

    assert folder.read("a/b") == b"former"
    assert _tree(tmp_path) == {"data/a/b", "source"}


def test_bytes_and_names_are_synced(
    folder: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and each folder that got a name are synced to the disk."""
    synced: list[str] = []
    real_fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    folder.write("a/b", b"bytes")

    root = folder.uri.removeprefix("file://")
    assert synced[:2] == [str(Path(root).parent), root]
    assert synced[2].startswith(f"{root}/a/.tmp-")
    assert synced[3:] == [f"{root}/a"]
    synced.clear()
    folder.write("a/thumbnail", b"bytes", derived=True)
    assert not synced
    folder.write_all({"a/c/d": b"bytes"})
    folder.copy({"a/c/e": "a/b"})
    (tmp_path / "file").write_bytes(b"bytes")
    folder.upload("a/c/f", tmp_path / "file")
    assert synced == []
    monkeypatch.setattr(folder_module, "_sync_file_system", lambda _: False)
    folder.settle("a/c")
    files = {f"{root}/a/c/{name}" for name in "def"}
    assert {*synced} == {*files, f"{root}/a/c", f"{root}/a", root, str(Path(root).parent)}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_syncs_nothing_is_used(
    folder: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where there is no such call, for files, folders or the whole disk, objects are written."""
    source = tmp_path / "source"
    source.write_bytes(b"uploaded")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    def refuse_all(_: int) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syncfs=refuse_all))
    folder.write("a/b", b"written")
    folder.upload("a/c", source)
    folder.settle("a")

    assert (folder.read("a/b"), folder.read("a/c")) == (b"written", b"uploaded")


def test_a_disk_that_keeps_nothing_is_told_of(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk while all is synced ends the writer: what it wrote may not last."""

    def fail(_: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syncfs=fail))
    folder.write("a/b", b"written")

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        folder.settle("a")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_upload_copies_where_linking_is_impossible(
    folder: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file on another file system, or on one without hard links, is copied, then removed."""
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    folder.upload("a", source)

    assert folder.read("a") == b"bytes"
    assert not source.exists()


def test_a_reader_never_sees_a_part(folder: LocalFolder) -> None:
    """While an object is replaced over and over, every read gives one whole version."""
    versions = [bytes([number]) * 200_000 for number in range(4)]
    folder.write("a", versions[0])
    done = threading.Event()

    def replace() -> None:
        for number in range(40):
            folder.write("a", versions[number % 4])
        done.set()

    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(replace)
        while not done.is_set() and not writer.done():
            assert folder.read("a") in versions
        writer.result()


def test_temporary_files_are_never_listed(folder: LocalFolder, tmp_path: Path) -> None:
    """What a killed writer left behind is not an object."""
    folder.write("a/b", b"")
    (tmp_path / "data/a/.tmp-0123456789abcdef").write_bytes(b"half")

    assert list(folder.list("")) == ["a/b"]


def test_what_killed_writers_left_is_deleted_when_it_is_old(
    folder: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour is waited: whose writer is merely suspended stays, and so does every object."""
    folder.write("a/b/object", b"whole")
    left = [tmp_path / "data/a/.tmp-1", tmp_path / "data/a/b/.tmp-2"]
    for file in left:
        file.write_bytes(b"half")
    folder.delete_unfinished("a")
    assert all(file.exists() for file in left)
    monkeypatch.setattr(folder_module, "_SUSPENDED", 0)
    folder.delete_unfinished("a")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["object"]


def test_symbolic_links_do_not_lead_out(folder: LocalFolder, tmp_path: Path) -> None:
    """A link inside the folder that points out of it is neither followed nor listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    folder.write("a/b", b"")
    (tmp_path / "data/a/way-out").symlink_to(outside)
    (tmp_path / "data/a/secret").symlink_to(outside / "secret")

    for path in ("a/way-out/secret", "a/way-out/new", "a/secret"):
        with pytest.raises(ValueError, match="symbolic link"):
            folder.read(path)
        with pytest.raises(ValueError, match="symbolic link"):
            list(folder.read_each(["a/b", path]))
        with pytest.raises(ValueError, match="symbolic link"):
            folder.write(path, b"overwritten")
    assert list(folder.list("")) == ["a/b"]
    assert _tree(outside) == {"secret"}
    assert (outside / "secret").read_bytes() == b"secret"


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.text(max_size=40)
    | st.lists(st.sampled_from(["..", ".", "", "a", "~", "%2e%2e", "\\", " "]), max_size=6).map(
        "/".join
    )
)
@example(path="~/x")
@example(path="%2e%2e/x")
@example(path="C:/x")
def test_no_path_makes_a_file_outside(folder: LocalFolder, tmp_path: Path, path: str) -> None:
    """Whatever the path, a file is made inside the folder or a ValueError raised."""
    try:
        folder.write(path, b"x")
    except ValueError:
        pass
    except OSError as error:  # a name too long, or a folder where a file would go
        assert error.errno in {20, 21, 36}  # noqa: PT017
    else:
        assert folder.read(path) == b"x"
        assert path in set(folder.list(""))
        folder.delete(path)
    assert all(name.startswith("data/") for name in _tree(tmp_path))


# The bucket


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
def test_a_bucket_that_is_asked_for_too_much_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the bucket nor the credentials are to blame where S3 asks for patience."""
    slow_down = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
    with serving(Reply(status=503, body=slow_down)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        storage = open_storage("s3://bucket", s3=S3Resource(max_attempts=0))
        for ask in (storage.read, lambda path: list(storage.list(path))):
            with pytest.raises(StorageUnavailable, match="or run again later"):
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


# Opening


def test_open_storage_knows_folders_and_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative or absolute folder, a file URI and a bucket open as what they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")

    assert open_storage("data").uri == f"file://{tmp_path}/data"
    assert open_storage(f"{tmp_path}/data/").uri == f"file://{tmp_path}/data"
    assert open_storage("file:///srv/a%20b").uri == "file:///srv/a%20b"
    assert open_storage("~/data").uri == "file:///home/somebody/data"
    assert open_storage("s3://bucket").uri == "s3://bucket"
    assert open_storage("s3://bucket/a/b#c/").uri == "s3://bucket/a/b#c"
    assert isinstance(open_storage("s3://bucket/a", s3=S3Resource()), S3Bucket)
    assert not list(tmp_path.iterdir())


def test_a_file_uri_opens_the_folder_it_came_from(tmp_path: Path) -> None:
    """The URI of a folder with unusual characters opens the same folder."""
    storage = open_storage(str(tmp_path / "a b%20é"))
    storage.write("x", b"1")

    assert open_storage(storage.uri).read("x") == b"1"


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket/x", "s3://", "s3:///x", "file://host/x", "s3://b/../x"]
)
def test_open_storage_refuses_what_it_does_not_know(uri: str) -> None:
    """Another scheme, or a URI without a folder or bucket, is refused."""
    with pytest.raises(ValueError, match=r"storage is neither|relative path"):
        open_storage(uri)


def test_a_refused_uri_keeps_its_password() -> None:
    """The message of a refused URI does not repeat what may stand in it."""
    with pytest.raises(ValueError, match="starts with https://") as raised:
        open_storage("https://user:hunter2@host/x")
    assert "hunter2" not in str(raised.value)


# Names


def test_images_are_named_after_their_content() -> None:
    """An image's path is its hash in a folder of the first two digits, with a usual extension."""
    sha256 = "ab" + "0" * 62

    assert image_path(sha256, "PNG") == f"images/ab/{sha256}.png"
    assert image_path(sha256, "JPEG") == f"images/ab/{sha256}.jpg"
    assert image_path(sha256, "WEBP") == f"images/ab/{sha256}.webp"
    assert thumbnail_path(sha256) == f"thumbnails/ab/{sha256}.webp"


@pytest.mark.parametrize("sha256", ["", "ab", "../" + "0" * 61, "AB" + "0" * 62, "a" * 64 + "\n"])
def test_what_is_no_hash_names_nothing(sha256: str) -> None:
    """Only a full SHA-256 becomes a path."""
    with pytest.raises(ValueError, match="not a SHA-256"):
        image_path(sha256, "PNG")
    with pytest.raises(ValueError, match="not a SHA-256"):
        thumbnail_path(sha256)
