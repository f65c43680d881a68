"""The files of a release as they are put, or taken over from the former release."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from io import BufferedWriter, FileIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NO_MARKS: Mapping[str, int] = {}
_BUFFER = 2**20  # bytes that are hashed and written at once


class NewFile(BufferedWriter):
    """A new local file, hashed as it is written: it is not read again for that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _HashedFile(path, "xb")
        super().__init__(self._file, _BUFFER)

    @property
    def sha256(self) -> str:
        """Of what was written, once the file is closed."""
        return self._file.sha256.hexdigest()


class _HashedFile(FileIO):
    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.sha256 = hashlib.sha256()

    @override
    def write(self, data: Buffer, /) -> int:
        written = super().write(data)
        self.sha256.update(memoryview(data)[:written])
        return written


class PackedFiles:
    """The files put so far, below a release's folder. Several threads may put theirs at once.

    Attributes:
        files: what is in its place.
        storage: where they go, and where the pictures are.
        extension: of all pictures in tars, without its dot.
        sources: the kinds of pictures that rows start from, which an image folder has a column for.
        left_out: a sentence for each of those that cannot be put.
    """

    def __init__(
        self,
        storage: Storage,
        path: str,
        scratch: Path,
        former: Release | None,
        *,
        extension: str,
        sources: Sequence[str],
    ) -> None:
        self.files: list[ReleaseFile] = []
        self.storage = storage
        self.extension = extension
        self.sources = sources
        self.left_out: list[str] = []
        self._path = path
        self._scratch = scratch
        self._former = former
        self._of_part: dict[str, list[ReleaseFile]] = defaultdict(list)
        for file in former.files if former else ():
            if file.part is not None:
                self._of_part[file.part].append(file)
        self._numbers = count()

    def new_path(self) -> Path:
        """Return where a new local file or folder can be."""
        return self._scratch / f"{next(self._numbers)}"

    def new_file(self) -> NewFile:
        """Return a new local file."""
        return NewFile(self.new_path())

    def put(self, files: Sequence[tuple[ReleaseFile, bytes | memoryview]]) -> None:
        """Write small files, all together."""
        self.storage.write_all({f"{self._path}/{file.path}": data for file, data in files})
        self.files.extend(file for file, _ in files)

    def move(
        self,
        name: str,
        local: Path,
        *,
        sha256: str,
        part: str,
        rows: int | None = None,
        marks: Mapping[str, int] = _NO_MARKS,
    ) -> None:
        """Put a local file that is written and closed."""
        size = local.stat().st_size
        self.storage.upload(f"{self._path}/{name}", local)
        self.files.append(
            ReleaseFile(path=name, sha256=sha256, size=size, rows=rows, part=part, marks=marks)
        )

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
            self.storage.copy(sources)
        except ObjectMissing:
            # What is copied already would be in the release, and in no list of its files.
            for name in sources.keys() - sources.values():
                self.storage.delete(name)
            return False
        self.files.extend(
            file if file.path == name else file.model_copy(update={"path": name})
            for name, file in files.items()
        )
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
        # All at once: each folder is looked at once.
        taken_over = self.take_over({name_of(part): file for part, file in same.items()})
        return same if taken_over else {}
