"""The files of a release as they are put, or taken over from the former release."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Lock

from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_FINISHERS = 4  # threads: one has its file on the disk soon, and the others theirs as soon
_NO_MARKS: Mapping[str, int] = {}


class PackedFiles:
    """The files put so far, below a release's folder.

    A disk or a bucket takes its time for each: that is waited for while others are made.

    Attributes:
        files: what is in its place.
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
        self._finishing: deque[Future[Sequence[ReleaseFile]]] = deque()
        self._lock = Lock()
        self._finishers: ThreadPoolExecutor | None = None

    @contextmanager
    def all_finished(self) -> Iterator[None]:
        """Have every file in its place at the end."""
        with ThreadPoolExecutor(_FINISHERS) as self._finishers:
            yield
            self._wait(0)

    def new_path(self) -> Path:
        """Return where a new local file or folder can be."""
        return self._scratch / f"{next(self._numbers)}"

    def put(self, files: Sequence[tuple[ReleaseFile, bytes | memoryview]]) -> None:
        """Write small files, all together."""

        def put() -> Sequence[ReleaseFile]:
            self._storage.write_all({f"{self._path}/{file.path}": data for file, data in files})
            return [file for file, _ in files]

        self._finish(put)

    def move(
        self,
        name: str,
        local: Path,
        *,
        part: str,
        rows: int | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> None:
        """Put a local file that is written and closed."""

        def move() -> Sequence[ReleaseFile]:
            size = local.stat().st_size
            # From memory, where it still is; the thread that wrote it goes on with the next file.
            with local.open("rb") as written:
                sha256 = hashlib.file_digest(written, "sha256").hexdigest()
            self._storage.upload(f"{self._path}/{name}", local)
            return [
                ReleaseFile(path=name, sha256=sha256, size=size, rows=rows, part=part, marks=marks)
            ]

        self._finish(move)

    def former_files(self, format: str, part: str) -> list[ReleaseFile]:  # noqa: A002 - its name
        """Return what the former release has in a format of a part."""
        return [file for file in self._of_part.get(part, ()) if file.path.startswith(f"{format}/")]

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

    def parts_taken_over(
        self,
        format: str,  # noqa: A002 - its name
        parts: Sequence[Part],
        name_of: Callable[[Part], str],
    ) -> dict[Part, ReleaseFile]:
        """Put the former release's file of each part that is the same, and return those files."""
        same = {
            part: former[0] for part in parts if (former := self.former_files(format, part.key))
        }
        # All at once: the names in one folder are synced once.
        taken_over = self.take_over({name_of(part): file for part, file in same.items()})
        return same if taken_over else {}

    def _finish(self, task: Callable[[], Sequence[ReleaseFile]]) -> None:
        assert self._finishers is not None  # noqa: S101 - files are put while all are finished
        with self._lock:  # the formats put their files at the same time
            self._wait(_FINISHERS - 1)  # each may hold a batch of pictures
            self._finishing.append(self._finishers.submit(task))

    def _wait(self, most: int) -> None:
        while len(self._finishing) > most:
            self.files += self._finishing.popleft().result()
