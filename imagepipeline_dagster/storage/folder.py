"""Objects as files below a folder."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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
_SYNCS = 4  # at once, of one call
_SUSPENDED = 3600  # seconds that a writer may sleep between two steps and still go on
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class LocalFolder(Storage):
    """Objects as files below a folder, made with the first object.

    New bytes are written under a temporary name in their folder, synced to the disk and renamed.
    """

    def __init__(self, folder: Path) -> None:
        self._root = self.scratch = folder.resolve()
        self.uri = self._root.as_uri().rstrip("/")

    @override
    def uri_of(self, path: str) -> str:
        return (self._root / checked_path(path)).as_uri()

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        location = self._location(path)
        with _temporary_beside(location) as temporary:
            temporary.write_bytes(data)
            if not derived:
                _sync_path(temporary)
            temporary.replace(location)
        if not derived:
            _sync_path(location.parent)
        return self.uri_of(path)

    @override
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        with ExitStack() as temporaries, ThreadPoolExecutor(_SYNCS) as syncs:
            written: dict[Path, Path] = {}
            for location, data in zip(self._locations(objects), objects.values(), strict=True):
                temporary = temporaries.enter_context(_temporary_beside(location))
                temporary.write_bytes(data)
                written[temporary] = location
            # All are written before the first is synced: a disk takes many together.
            _sync_together(written, syncs)
            for temporary, location in written.items():
                temporary.replace(location)
            _sync_together({location.parent for location in written.values()}, syncs)

    @override
    def upload(self, path: str, file: Path) -> str:
        location = self._location(path)
        source = file.resolve(strict=True)
        with _temporary_beside(location) as temporary:
            _link_or_copy(source, temporary)  # what is linked was perhaps never synced
            _sync_path(temporary)
            temporary.replace(location)
        _sync_path(location.parent)
        file.unlink()
        return self.uri_of(path)

    @override
    def copy(self, sources: Mapping[str, str]) -> None:
        folders: set[Path] = set()
        for location, source in zip(self._locations(sources), sources.values(), strict=True):
            original = self._location(source)
            try:
                location.hardlink_to(original)  # whole at once, and most names are free
            except OSError:
                self._copy_over(source, original, location)
            folders.add(location.parent)
        with ThreadPoolExecutor(_SYNCS) as syncs:
            _sync_together(folders, syncs)

    @override
    def read(self, path: str) -> bytes:
        try:
            return self._location(path).read_bytes()
        except _ABSENT:
            raise self._missing(path) from None

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
            for file in self._location(prefix).glob(pattern):
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

    def _locations(self, targets: Iterable[str]) -> Iterator[Path]:
        """Yield where objects are put; each folder is looked at once.

        An object itself may be a link: what is put takes its place.
        """
        folders: dict[str, Path] = {}
        for path in targets:
            folder, _, name = checked_path(path).rpartition("/")
            if folder not in folders:
                folders[folder] = self._folder(folder)
            yield folders[folder] / name

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


def _sync_together(paths: Iterable[Path], syncs: Executor) -> None:
    """Sync them side by side, a share of them a thread."""
    listed = list(paths)
    deque(syncs.map(_sync_each, (listed[at::_SYNCS] for at in range(_SYNCS))), maxlen=0)


def _sync_each(paths: Iterable[Path]) -> None:
    for path in paths:
        _sync_path(path)


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
