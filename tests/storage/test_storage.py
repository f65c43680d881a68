"""Folders and buckets alike: what both keep, how they are opened, what objects are called."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from dagster_aws.s3 import S3Resource

from imagepipeline_dagster.storage.bucket import S3Bucket
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    image_path,
    thumbnail_path,
)
from imagepipeline_dagster.storage.opening import open_storage

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
