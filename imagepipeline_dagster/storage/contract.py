"""Objects in a local folder or an S3 bucket: one contract, two homes.

An object is a path and its bytes. A reader sees a path's former bytes or its new ones, never a
part of them, whatever happens to the writer. A listing has every object whose writer has returned.
Nothing else is asked of a storage: no conditional writes, and hard links only where there are some.

Paths are relative and '/'-separated; one that could leave the storage is refused with a ValueError
before anything is touched.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from imagepipeline_dagster.errors import CorrectableError


class ObjectMissing(FileNotFoundError):
    """There is no object at this path."""


class StorageUnavailable(CorrectableError, OSError):
    """The bucket cannot be used; the message says which one, why, and what to do."""


TEMPORARY_PREFIX = ".tmp-"
_NO_NAMES = frozenset({"", ".", ".."})
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def checked_path(path: str) -> str:
    """Return the path.

    Raises:
        ValueError: when it is not a plain relative path.
    """
    parts = path.split("/")
    if not _NO_NAMES.isdisjoint(parts) or _FORBIDDEN.search(path):
        raise ValueError(f"{path!r} is not a relative path of plain parts between single slashes")
    if TEMPORARY_PREFIX in path and any(part.startswith(TEMPORARY_PREFIX) for part in parts):
        raise ValueError(f"{path!r} has a part that is reserved for unfinished files")
    path.encode()  # a lone surrogate has no UTF-8 form; its UnicodeEncodeError is a ValueError
    return path


class Storage(ABC):
    """A place for objects. Safe to use from many threads and processes at once.

    Every method that takes a path raises ValueError for one with an empty, '.' or '..' part, a
    backslash or a control character. `uri` is the root's, without a trailing slash. `scratch` is a
    local folder from which an upload is quick, None where any is as quick as another.
    `reads_at_once` is how many threads read much in the shortest time: a folder answers at once, so
    that further ones only wait for each other.
    """

    uri: str
    scratch: Path | None = None
    reads_at_once: int = 2

    @abstractmethod
    def uri_of(self, path: str) -> str:
        """Return the URI of the object at `path`, whether it exists or not."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        """Put the bytes at `path`, in place of what is there, and return the URI.

        `derived` bytes can be made again from others: a loss of power may take them away, or leave
        a part of them, so that their readers look whether they are whole.
        """

    @abstractmethod
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        """Put the bytes of each path there; of a new object a part may be seen.

        They last once `settle` has returned.
        """

    @abstractmethod
    def upload(self, path: str, file: Path) -> str:
        """Move a finished local file to `path`, in place of what is there, and return the URI.

        The file is gone afterwards, and still there when this fails. The object lasts once `settle`
        has returned.
        """

    @abstractmethod
    def copy(self, sources: Mapping[str, str]) -> None:
        """Put the bytes of each source at its target too; they do not pass through this process.

        In a folder both are one file with two names: no bytes are written. These names last once
        `settle` has returned.

        Args:
            sources: the path of each source, by that of its target.

        Raises:
            ObjectMissing: when there is no object at a source; others may be copied already.
        """

    def settle(self, prefix: str) -> None:  # noqa: B027 - not every storage has to
        """Make what was put below the folder survive a loss of power."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the object's bytes.

        Raises:
            ObjectMissing: when there is none.
        """

    def read_each(self, paths: Sequence[str]) -> Iterator[bytes | ObjectMissing]:
        """Yield the bytes of each object, or that there is none, in the order of the paths."""
        for path in paths:
            try:
                yield self.read(path)
            except ObjectMissing as missing:
                yield missing

    @abstractmethod
    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the object's bytes, about a megabyte at a time.

        Raises:
            ObjectMissing: when there is none.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Tell whether there is an object at `path`."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield the paths below the folder `prefix` ('' for all), sorted by code point."""

    @abstractmethod
    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly in the folder `prefix`, sorted.

        Nothing below them is listed, however much that is.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; nothing happens where there is none."""

    @abstractmethod
    def delete_folder(self, prefix: str) -> None:
        """Remove every object below the folder, and what killed writers left unfinished there."""

    def delete_unfinished(self, prefix: str) -> None:  # noqa: B027 - not every storage shows any
        """Remove what killed writers left in the folder and those in it, once it is old.

        A local file is waited for an hour; local files deeper below stay. An upload to S3 in parts
        is waited for a day. The folder '' is the root, of which S3 keeps all: it may be others'.
        """


_SHA256 = re.compile(r"[0-9a-f]{64}")


def image_path(sha256: str, format: str) -> str:  # noqa: A002 - Pillow's own word
    """Return the path of an image's bytes, named after their content.

    Args:
        sha256: of the bytes, 64 lower-case hexadecimal digits.
        format: Pillow's name of the picture's format, as 'PNG' or 'JPEG'.
    """
    extension = "jpg" if format == "JPEG" else format.lower()
    return f"images/{_shard(sha256)}.{extension}"


def thumbnail_path(sha256: str) -> str:
    """Return the path of the thumbnail of the image with these bytes."""
    return f"thumbnails/{_shard(sha256)}.webp"


def tombstone_path(sha256: str) -> str:
    """Return the path of the word that the image with these bytes was taken back."""
    _shard(sha256)
    return f"withdrawn/{sha256}.json"


def _shard(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
    return f"{sha256[:2]}/{sha256}"
