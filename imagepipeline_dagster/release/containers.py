"""A picture's file without metadata that readers stumble over; its pixels are not touched.

Readers turn a picture as its EXIF says. Where the EXIF is broken some raise instead, and a dataset
with one such picture cannot be read to its end.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image, ImageOps

from imagepipeline_dagster.purchase.beside import without_texts

_EXIF_IN_JPEG = b"Exif\0\0"
_EXIF_IN_PNG_TEXT = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_PACKED_TEXTS = (b"zTXt", b"iTXt", b"iCCP")
_HAS_EXIF = 0x08  # a flag of WebP's VP8X chunk


def readable(data: bytes, picture_format: str) -> bytes:
    """Return the file as it is, or without the metadata that a reader could not make sense of."""
    suspects = (b"Exif", b"eXIf", b"EXIF", b"Raw profile type", *_PACKED_TEXTS)
    beside = b"".join(_png_beside(data)) if picture_format == "PNG" else data
    if picture_format == "AVIF" or not any(word in beside for word in suspects):
        return data
    if _can_be_turned(data):
        return data
    without = without_exif(data, picture_format)
    # Pillow, and whoever reads with it, refuses a PNG whose texts are longer than a megabyte.
    return without_texts(without) if picture_format == "PNG" else without


def _can_be_turned(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            image.getexif()
            ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - broken metadata raises whatever it likes
        return False
    return True


def without_exif(data: bytes, picture_format: str) -> bytes:
    """Return a PNG, JPEG or WebP file without its EXIF, all else byte for byte."""
    match picture_format:
        case "JPEG":
            return b"".join(_jpeg_without_exif(data))
        case "PNG":
            return b"".join(_png_without_exif(data))
        case _:
            body = b"".join(_webp_without_exif(data))
            return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def _png_beside(data: bytes) -> Iterator[bytes]:
    """Yield all that is no pixels, which are most of a file and slow to search."""
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] != b"IDAT":
            yield data[at:end]
        at = end
    yield data[at:]


def _jpeg_without_exif(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] not in (0xDA, 0xD9):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        is_exif = data[at + 1] == 0xE1 and data[at + 4 :].startswith(_EXIF_IN_JPEG)
        if not is_exif:
            yield data[at:end]
        at = end
    yield data[at:]


def _png_without_exif(data: bytes) -> Iterator[bytes]:
    yield data[:8]
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        is_exif = kind == b"eXIf" or (
            kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(_EXIF_IN_PNG_TEXT)
        )
        if not is_exif:
            yield data[at:end]
        at = end
    yield data[at:]


def _webp_without_exif(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        kind = data[at : at + 4]
        if kind == b"VP8X":
            flags = data[at + 8] & ~_HAS_EXIF
            yield data[at : at + 8] + bytes([flags]) + data[at + 9 : end]
        elif kind != b"EXIF":
            yield data[at:end]
        at = end
