"""What a picture's file holds beside the picture: a page, an archive, or more than is plausible.

The containers are walked to their true end, which a forged end marker in a comment is not. Nothing
is decoded but the beginnings of compressed texts.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MARKUP = (b"<!doctype", b"<html", b"<script", b"<svg", b"<body", b"<iframe")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"%PDF-")
_PADDING = b"\0\r\n\t "
_LARGEST_STRANGER = 64 * 2**10  # bytes of a part that no reader knows
_MOST_BESIDE = 8 * 2**20  # bytes: a profile, a text and credentials together take less
_TEXT_LOOKED_AT = 64 * 2**10  # bytes
_PROFILE_HEADER = 128  # bytes

_PNG_SIGNATURE = 8  # bytes
_OF_A_PNG = frozenset(
    {
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD"),
        *(b"pHYs", b"tIME", b"hIST", b"sPLT", b"cICP", b"mDCV", b"cLLI"),
    }
)
_OF_A_WEBP = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH"})
_OF_AN_AVIF = frozenset({b"ftyp", b"meta", b"mdat"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"COM"})
_KNOWN = frozenset({b"iCCP", b"eXIf", b"caBX", b"ICCP", b"EXIF", b"XMP ", b"C2PA", b"APP"}) | _TEXTS


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a file that is not of the picture."""

    kind: bytes
    content: bytes


def carries_more(data: bytes, picture_format: str, profile: object = None) -> str | None:
    """Return what a decodable picture's file holds beside it, None where that is nothing odd.

    Args:
        data: the file.
        picture_format: PNG, JPEG, WEBP or AVIF.
        profile: its colour profile as it was read, None where it has none.
    """
    parts, end = _walked(data, picture_format)
    if behind := data[end:].strip(_PADDING):
        return f"{len(behind):,} bytes follow the picture"
    for part in parts:
        if what := _oddity(part):
            return f"its {part.kind.decode('latin-1').strip()} part holds {what}"
    beside = sum(len(part.content) for part in parts)
    if beside > _MOST_BESIDE:
        return f"{beside:,} bytes stand beside the picture"
    if _is_archive(data):
        return "an archive hides between its pixels"
    if profile is not None and not _is_profile(profile):
        return "its colour profile is none"
    return None


def _is_archive(data: bytes) -> bool:
    """Tell whether a file is a zip too: its directory is read from the end, wherever it begins."""
    return b"PK\x01\x02" in data and zipfile.is_zipfile(io.BytesIO(data))


def _oddity(part: _Part) -> str | None:
    if any(magic in part.content for magic in _ARCHIVES):
        return "an archive or a document"
    text = _text_of(part)
    if len(text) > _MOST_BESIDE:
        return f"more than {_MOST_BESIDE:,} bytes, packed"
    if part.kind == b"iCCP" and not _is_profile(text):
        return "no colour profile"
    text = text[:_TEXT_LOOKED_AT].lower()
    # A text may tell of markup, as the prompt did that it repeats. A page begins with it.
    begins = text.lstrip(_PADDING).startswith(_MARKUP)
    if begins or (part.kind not in _KNOWN and any(word in text for word in _MARKUP)):
        return "a web page"
    if part.kind not in _KNOWN and len(part.content) > _LARGEST_STRANGER:
        return f"{len(part.content):,} bytes that no reader knows"
    return None


def _text_of(part: _Part) -> bytes:
    if part.kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
        return part.content
    text = part.content.partition(b"\0")[2]
    if part.kind == b"tEXt":
        return text
    compressed = text[1:]
    if part.kind == b"iTXt":
        # Flag, method, language, translated keyword, text.
        body = text[2:].split(b"\0", 2)[-1]
        if text[:1] == b"\0":
            return body
        compressed = body
    try:
        return zlib.decompressobj().decompress(compressed, _MOST_BESIDE + 1)
    except zlib.error:
        return b""


def _walked(data: bytes, picture_format: str) -> tuple[list[_Part], int]:
    """Return the parts that are not of the picture, and where the file's picture truly ends."""
    walks = {"PNG": _chunks_of_png, "WEBP": _chunks_of_webp, "AVIF": _boxes_of_avif}
    steps = list(walks.get(picture_format, _segments_of_jpeg)(data))
    return [part for part, _ in steps if part is not None], steps[-1][1] if steps else 0


_Step = tuple[_Part | None, int]


def _chunks_of_png(data: bytes) -> Iterator[_Step]:
    at = _PNG_SIGNATURE
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield None if kind in _OF_A_PNG else _Part(kind, data[at + 8 : end - 4]), end
        if kind == b"IEND":
            return
        at = end


def _chunks_of_webp(data: bytes) -> Iterator[_Step]:
    whole = 8 + int.from_bytes(data[4:8], "little")
    at = 12
    while at + 8 <= min(whole, len(data)):
        kind = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield None if kind in _OF_A_WEBP else _Part(kind, data[at + 8 : at + 8 + size]), end
        at = end
    yield None, whole


def _boxes_of_avif(data: bytes) -> Iterator[_Step]:
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
        end = at + size
        yield None if kind in _OF_AN_AVIF else _Part(kind, data[at + 8 : end]), end
        at = end
    yield None, at


def without_texts(png: bytes) -> bytes:
    """Return a PNG without its texts and its colour profile, all else byte for byte."""
    dropped = _TEXTS | {b"iCCP"}
    pieces, at = [png[:_PNG_SIGNATURE]], _PNG_SIGNATURE
    for part, end in _chunks_of_png(png):
        if part is None or part.kind not in dropped:
            pieces.append(png[at:end])
        at = end
    return b"".join([*pieces, png[at:]])


def _segments_of_jpeg(data: bytes) -> Iterator[_Step]:
    at = 2
    while at + 2 <= len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            yield None, at + 2
            return
        if data[at] != 0xFF or marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD7:
            # Pixels, or what stands between them: on to the next marker.
            following = data.find(b"\xff", at + 1)
            at = len(data) if following < 0 else following
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kind = {0xFE: b"COM"}.get(marker, b"APP" if 0xE0 <= marker <= 0xEF else b"")
        yield (_Part(kind, data[at + 4 : end]) if kind else None), end
        at = end
    yield None, len(data)


def _is_profile(profile: object) -> bool:
    return (
        isinstance(profile, bytes) and len(profile) >= _PROFILE_HEADER and profile[36:40] == b"acsp"
    )
