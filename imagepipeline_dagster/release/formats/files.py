"""The files of a release as they are put, one by one or taken over from the former release."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Protocol

from typing_extensions import Buffer, override

from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_FINISHERS = 4  # threads
_UNFINISHED = 8  # files that wait for the disk or the network
_BUFFER = 2**16  # bytes: a page of pictures is larger, and passes by
_NO_MARKS: Mapping[str, int] = {}


class LocalFile(Protocol):
    """A new local file, of whatever writer."""

    path: Path

    def finish(self) -> tuple[str, int]:
        """Close the file, and return its SHA-256 and its size."""


class _Summed(io.FileIO):
    """A new local file that knows the SHA-256 of what was written to it, from begin to end."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "w")
        self.digest = hashlib.sha256()

    @override
    def write(self, data: Buffer, /) -> int:
        written = super().write(data)
        self.digest.update(memoryview(data)[:written])
        return written


class NewFile(io.BufferedWriter):
    """A new local file that is written from begin to end."""

    def __init__(self, file: Path) -> None:
        self._summed = _Summed(file)
        self.path = file
        super().__init__(self._summed, _BUFFER)

    def finish(self) -> tuple[str, int]:
        """Close the file, and return its SHA-256 and its size."""
        self.flush()
        size = self.tell()
        self.close()
        return self._summed.digest.hexdigest(), size


class PackedFiles:
    """The files put so far, below a release's folder.

    A disk or a bucket takes its time for each: that is waited for while others are made.

    Attributes:
        files: what was put.
        extension: of all pictures in tars, without its dot.
    """

    def __init__(
        self, storage: Storage, path: str, scratch: Path, former: Release | None, extension: str
    ) -> None:
        self.files: list[ReleaseFile] = []
        self.extension = extension
        self._storage = storage
        self._path = path
        self._scratch = scratch
        self._former = former
        self._of_part: dict[str, list[ReleaseFile]] = defaultdict(list)
        for file in former.files if former else ():
            if file.part is not None:
                self._of_part[file.part].append(file)
        self._numbers = count()
        self._finishing: deque[Future[object]] = deque()
        self._lock = Lock()
        self._finishers: ThreadPoolExecutor | None = None

    @contextmanager
    def all_finished(self) -> Iterator[None]:
        """Have every file in its place at the end."""
        with ThreadPoolExecutor(_FINISHERS) as self._finishers:
            yield
            self._wait(0)

    def open(self) -> NewFile:
        """Return a new local file."""
        return NewFile(self.new_path())

    def new_path(self) -> Path:
        """Return where a new local file or folder can be."""
        return self._scratch / f"{next(self._numbers)}"

    def put(
        self,
        name: str,
        data: bytes,
        *,
        part: str | None = None,
        sha256: str | None = None,
        rows: int | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> None:
        """Write a small file; its SHA-256 is given where it is known."""
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        file = ReleaseFile(
            path=name, sha256=sha256, size=len(data), rows=rows, part=part, marks=dict(marks)
        )
        self._finish(partial(self._storage.write, f"{self._path}/{name}", data), file)

    def move(
        self,
        name: str,
        local: LocalFile,
        *,
        part: str | None = None,
        rows: int | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> int:
        """Put a local file that is written, and return its size."""
        sha256, size = local.finish()
        file = ReleaseFile(
            path=name, sha256=sha256, size=size, rows=rows, part=part, marks=dict(marks)
        )
        self._finish(partial(self._storage.upload, f"{self._path}/{name}", local.path), file)
        return size

    def former_files(self, format: str, part: str) -> list[ReleaseFile]:  # noqa: A002 - its name
        """Return what the former release has in a format of a part."""
        return [file for file in self._of_part[part] if file.path.startswith(f"{format}/")]

    def take_over(self, files: Mapping[str, ReleaseFile]) -> bool:
        """Put files of the former release under these names; False where one of them is gone."""
        if self._former is None:
            return False
        former = self._former.path
        sources = {f"{self._path}/{name}": f"{former}/{file.path}" for name, file in files.items()}
        try:
            self._storage.copy(sources)
        except ObjectMissing:
            return False
        self.files += [file.model_copy(update={"path": name}) for name, file in files.items()]
        return True

    def _finish(self, task: Callable[[], object], file: ReleaseFile) -> None:
        assert self._finishers is not None  # noqa: S101 - files are put while all are finished
        with self._lock:  # the formats put their files at the same time
            self._wait(_UNFINISHED)
            self._finishing.append(self._finishers.submit(task))
            self.files.append(file)

    def _wait(self, most: int) -> None:
        while len(self._finishing) > most:
            self._finishing.popleft().result()
