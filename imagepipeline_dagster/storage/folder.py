"""Objects as files below a folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from imagepipeline_dagster.storage.contract import (
    TEMPORARY_PREFIX,
    ObjectExists,
    ObjectMissing,
    Storage,
    checked_path,
)

if TYPE_CHECKING:
    pass

__all__ = ["LocalFolder"]


class LocalFolder(Storage):
    """Objects as files below a folder, made with the first object.

    New bytes are written under a temporary name in their folder, synced to the disk and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.expanduser().resolve()
        self.uri = self._root.as_uri().rstrip("/")

    def uri_of(self, path: str) -> str:  # noqa: D102 - inherited
        return (self._root / checked_path(path)).as_uri()

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
        location = self._root / checked_path(path)
        # A link that somebody put into the folder must not lead writes and reads out of it.
        if not location.resolve().is_relative_to(self._root):
            raise ValueError(f"{path!r} leads out of {self.uri} by a symbolic link")
        return location


@contextmanager
def _temporary_beside(location: Path) -> Iterator[Path]:
    """Yield an unused name in the folder of `location`; what is left of it is removed."""
    _make_folder(location.parent)
    temporary = location.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
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
        elif entry.is_file(follow_symlinks=False) and not name.startswith(TEMPORARY_PREFIX):
            yield prefix + name
