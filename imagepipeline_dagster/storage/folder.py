"""Objects as files below a folder."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

from typing_extensions import override

from imagepipeline_dagster.storage.contract import (
    TEMPORARY_PREFIX,
    ObjectMissing,
    Storage,
    checked_path,
)

_CHUNK = 2**20
_SUSPENDED = 3600  # seconds that a writer may sleep between two steps and still go on
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class LocalFolder(Storage):
    """Objects as files below a folder, made with the first object.

    New bytes are written under a temporary name in their folder, synced to the disk and renamed.
    Where a folder is settled at the end, the disk is synced when all is there.
    """

    def __init__(self, folder: Path) -> None:
        self._root = self.scratch = folder.resolve()
        self.uri = self._root.as_uri().rstrip("/")

    @override
    def uri_of(self, path: str) -> str:
        return (self._root / checked_path(path)).as_uri()

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        _write_over(self._location(path), data, synced=not derived)
        return self.uri_of(path)

    @override
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        for location, data in zip(self._locations(objects), objects.values(), strict=True):
            try:
                _in_its_folder(location, partial(_write_new, location, data))
            except FileExistsError:
                _write_over(Path(location), data, synced=True)

    @override
    def upload(self, path: str, file: Path) -> str:
        location = self._location(path)
        source = file.resolve(strict=True)
        with _temporary_beside(location) as temporary:
            _link_or_copy(source, temporary)
            _begin_to_sync(temporary)
            temporary.replace(location)
        file.unlink()
        return self.uri_of(path)

    @override
    def copy(self, sources: Mapping[str, str]) -> None:
        locations, originals = self._locations(sources), self._locations(sources.values())
        for location, original, source in zip(locations, originals, sources.values(), strict=True):
            if os.path.islink(original):  # noqa: PTH114 - there may be many
                self._location(source)  # which it must not lead out of
            try:
                # Whole at once, and most names are free.
                _in_its_folder(location, partial(os.link, original, location))
            except OSError:
                self._copy_over(source, Path(original), Path(location))

    @override
    def settle(self, prefix: str) -> None:
        folder = self._folder(prefix)
        if not folder.is_dir() or _sync_file_system(folder):
            return
        for path in (*folder.rglob("*"), folder, *folder.parents):
            _sync_path(path)
            if path == self._root.parent:
                break

    @override
    def read(self, path: str) -> bytes:
        try:
            return _bytes_of(self._location(path))
        except _ABSENT:
            raise self._missing(path) from None

    @override
    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | ObjectMissing]:
        for path, location in zip(paths, self._locations(paths), strict=True):
            try:
                yield _bytes_of(location, os.O_NOFOLLOW)
            except OSError:  # there is none, or it is a link, which must not lead out
                yield from super().read_each([path])

    @override
    def chunks(self, path: str) -> Iterator[bytes]:
        try:
            with self._location(path).open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    yield chunk
        except _ABSENT:
            raise self._missing(path) from None

    @override
    def exists(self, path: str) -> bool:
        return self._location(path).is_file()

    @override
    def list(self, prefix: str) -> Iterator[str]:
        return _files_below(self._folder(prefix), f"{prefix}/" if prefix else "")

    @override
    def delete(self, path: str) -> None:
        location = self._location(path)
        if location.is_file():
            location.unlink(missing_ok=True)

    @override
    def folders(self, prefix: str) -> Sequence[str]:
        try:
            with os.scandir(self._folder(prefix)) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith(TEMPORARY_PREFIX))

    @override
    def delete_folder(self, prefix: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._location(prefix))

    @override
    def delete_unfinished(self, prefix: str) -> None:
        for pattern in (f"{TEMPORARY_PREFIX}*", f"*/{TEMPORARY_PREFIX}*"):
            for file in self._folder(prefix).glob(pattern):
                with suppress(FileNotFoundError):  # its writer is alive, and was quicker
                    # The time of its content may be that of a file that it is linked to.
                    if file.is_file() and time.time() - file.stat().st_ctime > _SUSPENDED:
                        file.unlink()

    def _location(self, path: str) -> Path:
        location = self._root / checked_path(path)
        # A link that somebody put into the folder must not lead writes and reads out of it.
        if self._has_a_link(path) and not location.resolve().is_relative_to(self._root):
            raise ValueError(f"{path!r} leads out of {self.uri} by a symbolic link")
        return location

    def _locations(self, paths: Collection[str]) -> Iterator[str]:
        """Return where many objects are; each folder is looked at once, and no object itself.

        An object itself may be a link: what is put takes its place.
        """
        names = {path.rpartition("/")[0] for path in map(checked_path, paths)}
        folders = {name: self._folder(name) for name in names}
        return (f"{folders[name]}/{own}" for name, _, own in (p.rpartition("/") for p in paths))

    def _folder(self, prefix: str) -> Path:
        return self._location(prefix) if prefix else self._root

    def _has_a_link(self, path: str) -> bool:
        """Tell whether a part of the path is a link; to resolve the root each time is slow."""
        parts = accumulate(path.split("/"), "{}/{}".format, initial=str(self._root))
        return any(map(os.path.islink, islice(parts, 1, None)))

    def _copy_over(self, path: str, original: Path, location: Path) -> None:
        with _temporary_beside(location) as temporary:
            try:
                _link_or_copy(original, temporary)
            except _ABSENT:
                raise self._missing(path) from None
            temporary.replace(location)

    def _missing(self, path: str) -> ObjectMissing:
        return ObjectMissing(f"there is no object at {self.uri_of(path)}")


@contextmanager
def _temporary_beside(location: Path) -> Iterator[Path]:
    """Yield an unused name in the folder of `location`; what is left of it is removed."""
    _make_folder(location.parent)
    temporary = location.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


# Threads wait for each other after each call of the system, and Path's own methods make more.


def _bytes_of(location: Path | str, flags: int = 0) -> bytes:
    """Return a file's bytes; the flags are those of its opening."""
    descriptor = os.open(location, os.O_RDONLY | flags)
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size)
        while len(data) < size and (more := os.read(descriptor, _CHUNK)):
            data += more
        return data
    finally:
        os.close(descriptor)


def _in_its_folder(location: str, put: Callable[[], None]) -> None:
    """Put a file, once more where its folder was not made yet: most folders are there."""
    try:
        put()
    except FileNotFoundError:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        put()


def _write_new(location: str, data: bytes | memoryview) -> None:
    """Write a file that is not there yet."""
    descriptor = os.open(location, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _write_over(location: Path, data: bytes | memoryview, *, synced: bool) -> None:
    """Write a file that is whole whenever it is seen, in place of what is there."""
    with _temporary_beside(location) as temporary:
        temporary.write_bytes(data)
        if synced:
            _sync_path(temporary)
        temporary.replace(location)
    if synced:
        _sync_path(location.parent)


def _link_or_copy(source: Path, temporary: Path) -> None:
    """Give a file another name; copy it, synced, where the file system links no files."""
    try:
        temporary.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, temporary)
        _sync_path(temporary)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_path(folder.parent)


def _sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems know no such call, mostly for folders. They keep what
        # they keep; there is no other way to ask.
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _begin_to_sync(path: Path) -> None:
    """Let the disk begin with a file's bytes: who syncs them later waits for few of them."""
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a sandbox may forbid the hint
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _sync_file_system(folder: Path) -> bool:
    """Make all that was written to the folder's disk survive; False where there is no such call.

    For thousands of files it takes a part of the time that a call for each would.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            if number in (*_NO_SYNC, errno.EPERM):  # a sandbox may forbid the call
                return False
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
    return True


def _files_below(folder: Path, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # With its slash a folder sorts among the files just as the paths below it do.
            named = sorted(
                (f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in named:
        if name.endswith("/"):
            yield from _files_below(folder / entry.name, prefix + name)
        elif entry.is_file(follow_symlinks=False) and not name.startswith(TEMPORARY_PREFIX):
            yield prefix + name
