"""Objects as files below a folder."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.storage import folder as folder_module
from imagepipeline_dagster.storage.folder import LocalFolder


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    """Return an empty local storage."""
    return LocalFolder(tmp_path / "data")


def test_a_copy_in_a_folder_takes_no_space(folder: LocalFolder, tmp_path: Path) -> None:
    """Both names are one file."""
    folder.write("a", b"bytes")
    folder.copy({"b/c": "a"})
    assert (tmp_path / "data/a").samefile(tmp_path / "data/b/c")


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
