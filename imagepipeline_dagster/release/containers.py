"""A picture's file without metadata that readers stumble over; its pixels are not touched.

Readers turn a picture as its EXIF says. Where the EXIF is broken some raise instead, and a dataset
with one such picture cannot be read to its end.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image, ImageOps

from imagepipeline_dagster.purchase.pictures import decoding
from imagepipeline_dagster.purchase.pieces import (
    TEXTS_OF_PNG,
    Piece,
    pieces_of,
    without,
    without_texts,
)

_BEGINNINGS: Mapping[bytes, tuple[bytes, ...]] = {
    b"EXIF": (b"",),
    b"eXIf": (b"",),
    b"APP1": (b"Exif\0\0",),
    **dict.fromkeys(TEXTS_OF_PNG, (b"Raw profile type exif\0", b"Raw profile type APP1\0")),
}
"""What the content of a piece with EXIF begins with, by its kind."""
_PACKED = frozenset({b"zTXt", b"iTXt", b"iCCP"})
"""Pieces of a PNG that a reader unpacks, to whatever size."""
_HAS_EXIF = 0x08  # a flag of WebP's VP8X chunk


def readable(data: bytes, picture_format: str) -> bytes:
    """Return the file as it is, or without the metadata that a reader could not make sense of."""
    if not _is_suspect(data, picture_format) or _can_be_turned(data):
        return data
    without = without_exif(data, picture_format)
    # Pillow, and whoever reads with it, refuses a PNG whose texts are longer than a megabyte.
    return without_texts(without) if picture_format == "PNG" else without


def _is_suspect(data: bytes, picture_format: str) -> bool:
    """Tell whether a file may have metadata that stops a reader; to decode each takes long."""
    match picture_format:
        case "PNG":
            pieces = pieces_of(data, "PNG")
            return any(piece.kind in _PACKED or _is_exif(data, piece) for piece in pieces)
        case "AVIF":
            return False
        case _:
            return b"Exif" in data or b"EXIF" in data


def _can_be_turned(data: bytes) -> bool:
    try:
        with decoding(), Image.open(io.BytesIO(data)) as image:
            image.load()
            image.getexif()
            ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - broken metadata raises whatever it likes
        return False
    return True


def without_exif(data: bytes, picture_format: str) -> bytes:
    """Return a PNG, JPEG or WebP file without its EXIF, all else byte for byte."""
    exif = (piece for piece in pieces_of(data, picture_format) if _is_exif(data, piece))
    shorter = bytearray(without(data, exif))
    if picture_format == "WEBP":
        size = int.from_bytes(data[4:8], "little") - (len(data) - len(shorter))
        shorter[4:8] = max(0, size).to_bytes(4, "little")
        if shorter[12:16] == b"VP8X":
            shorter[20] &= ~_HAS_EXIF
    return bytes(shorter)


def _is_exif(data: bytes, piece: Piece) -> bool:
    beginnings = _BEGINNINGS.get(piece.kind)
    return beginnings is not None and data.startswith(beginnings, piece.content.start)
