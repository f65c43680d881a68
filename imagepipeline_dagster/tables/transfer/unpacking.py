"""The bytes of a file, unpacked where it is gzip or Zstandard, whatever its name says."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

UNPACKING_ERRORS = (EOFError, zlib.error, OSError, pa.ArrowException)
"""The errors of reading a damaged file."""

_GZIP, _ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def is_packed(path: Path) -> bool:
    """Tell whether the file begins as gzip or Zstandard does."""
    with path.open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZSTANDARD))


def unpacked(path: Path) -> IO[bytes]:
    """Open the file's bytes, which are read once from the beginning; close them."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_GZIP):
        return cast("IO[bytes]", gzip.open(path))
    if start == _ZSTANDARD:
        stream: Any = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
        return cast("IO[bytes]", stream)
    return path.open("rb")


def first_bytes(path: Path, size: int) -> bytes:
    """Return what the unpacked file begins with."""
    with closing(unpacked(path)) as file:
        return file.read(size)


@contextmanager
def seekable(path: Path) -> Iterator[IO[bytes]]:
    """Give the unpacked bytes as a file in which one can go to and fro."""
    with closing(unpacked(path)) as file:
        if not is_packed(path):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield copy
