"""A picture's file in pieces: chunks of a PNG or WebP file, segments of a JPEG, boxes of an AVIF.

The containers are walked to their true end, which a forged end marker in a comment is not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
"""What a PNG begins with."""

TEXTS_OF_PNG = frozenset({b"tEXt", b"zTXt", b"iTXt"})
"""The kinds of a PNG's texts."""


class Piece(NamedTuple):
    """A piece of a file: its kind, where it begins and ends, and where its content does."""

    kind: bytes
    start: int
    content: slice
    end: int


def pieces_of(data: bytes, picture_format: str) -> Iterator[Piece]:
    """Yield a file's pieces; the last has no kind and no content, and stands where the file ends.

    Where a file breaks off, so do its pieces.
    """
    end = yield from _WALKS[picture_format](data)
    yield Piece(b"", end, slice(end, end), end)


def without(data: bytes, pieces: Iterable[Piece]) -> bytes:
    """Return a file without these pieces, all else byte for byte."""
    kept, at = [], 0
    for piece in pieces:
        kept.append(data[at : piece.start])
        at = piece.end
    return b"".join([*kept, data[at:]])


def without_texts(png: bytes) -> bytes:
    """Return a PNG without its texts and its colour profile, all else byte for byte."""
    dropped = TEXTS_OF_PNG | {b"iCCP"}
    return without(png, (piece for piece in pieces_of(png, "PNG") if piece.kind in dropped))


_Walk = Generator[Piece, None, int]
"""Yields the pieces of a file, and returns where it ends."""


def _chunks_of_png(data: bytes) -> _Walk:
    at, kind = len(PNG), b""
    while kind != b"IEND" and at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield Piece(kind, at, slice(at + 8, end - 4), end)
        at = end
    return at


def _segments_of_jpeg(data: bytes) -> _Walk:
    at, marker = 2, 0
    while marker != 0xD9 and at + 2 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD8 or marker == 0xFF:
            # Pixels, or what stands between them: on to the next marker.
            following = data.find(b"\xff", at + 1)
            at = len(data) if following < 0 else following
            continue
        size = 0 if marker == 0xD9 else int.from_bytes(data[at + 2 : at + 4], "big")
        kind = b"APP%d" % (marker - 0xE0) if 0xE0 <= marker <= 0xEF else bytes([marker])
        yield Piece(kind, at, slice(at + 4, at + 2 + size), at + 2 + size)
        at += 2 + size
    return at if marker == 0xD9 else len(data)


def _chunks_of_webp(data: bytes) -> _Walk:
    at, whole = 12, 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= min(whole, len(data)):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield Piece(data[at : at + 4], at, slice(at + 8, at + 8 + size), end)
        at = end
    return whole


def _boxes_of_avif(data: bytes) -> _Walk:
    at = 0
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # a longer number follows
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:  # to the end of the file
            size = len(data) - at
        if size < 8 or not kind.isalnum():
            break
        yield Piece(kind, at, slice(at + 8, at + size), at + size)
        at += size
    return at


_WALKS: Mapping[str, Callable[[bytes], _Walk]] = {
    "PNG": _chunks_of_png,
    "JPEG": _segments_of_jpeg,
    "WEBP": _chunks_of_webp,
    "AVIF": _boxes_of_avif,
}
