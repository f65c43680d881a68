"""What a picture's file holds beside the picture: a page, an archive, or more than is plausible.

Nothing is decoded but the beginnings of compressed texts.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from imagepipeline_dagster.purchase.pieces import TEXTS_OF_PNG, pieces_of

_MARKUP = (b"<!doctype", b"<html", b"<script", b"<svg", b"<body", b"<iframe")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"%PDF-")
_PADDING = b"\0\r\n\t "
_LARGEST_STRANGER = 64 * 2**10  # bytes of a part that no reader knows
_MOST_BESIDE = 8 * 2**20  # bytes: a profile, a text and credentials together take less
_TEXT_LOOKED_AT = 64 * 2**10  # bytes
_PROFILE_HEADER = 128  # bytes
_COMMENT = b"\xfe"  # a JPEG's

_OF_THE_PICTURE = {
    "PNG": {
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD"),
        *(b"pHYs", b"tIME", b"hIST", b"sPLT", b"cICP", b"mDCV", b"cLLI"),
    },
    "JPEG": {bytes([marker]) for marker in range(256)} - {_COMMENT},
    "WEBP": {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"},
    "AVIF": {b"ftyp", b"meta", b"mdat"},
}
_KNOWN = {
    *(b"iCCP", b"eXIf", b"caBX", b"ICCP", b"EXIF", b"XMP ", b"C2PA", _COMMENT),
    *(b"APP%d" % number for number in range(16)),
    *TEXTS_OF_PNG,
}


def carries_more(data: bytes, picture_format: str, profile: object = None) -> str | None:
    """Return what a decodable picture's file holds beside it, None where that is nothing odd.

    Args:
        data: the file.
        picture_format: PNG, JPEG, WEBP or AVIF.
        profile: its colour profile as it was read, None where it has none.
    """
    *pieces, end = pieces_of(data, picture_format)
    if behind := data[end.start :].strip(_PADDING):
        return f"{len(behind):,} bytes follow the picture"
    beside = 0
    for piece in pieces:
        if piece.kind in _OF_THE_PICTURE[picture_format]:
            continue
        content = data[piece.content]
        if what := _oddity(piece.kind, content):
            kind = "COM" if piece.kind == _COMMENT else piece.kind.decode("latin-1").strip()
            return f"its {kind} part holds {what}"
        beside += len(content)
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


def _oddity(kind: bytes, content: bytes) -> str | None:
    if any(magic in content for magic in _ARCHIVES):
        return "an archive or a document"
    text = _text_of(kind, content)
    if len(text) > _MOST_BESIDE:
        return f"more than {_MOST_BESIDE:,} bytes, packed"
    if kind == b"iCCP" and not _is_profile(text):
        return "no colour profile"
    text = text[:_TEXT_LOOKED_AT].lower()
    # A text may tell of markup, as the prompt did that it repeats. A page begins with it.
    begins = text.lstrip(_PADDING).startswith(_MARKUP)
    if begins or (kind not in _KNOWN and any(word in text for word in _MARKUP)):
        return "a web page"
    if kind not in _KNOWN and len(content) > _LARGEST_STRANGER:
        return f"{len(content):,} bytes that no reader knows"
    return None


def _text_of(kind: bytes, content: bytes) -> bytes:
    if kind not in TEXTS_OF_PNG | {b"iCCP"}:
        return content
    text = content.partition(b"\0")[2]
    if kind == b"tEXt":
        return text
    compressed = text[1:]
    if kind == b"iTXt":
        # Flag, method, language, translated keyword, text.
        body = text[2:].split(b"\0", 2)[-1]
        if text[:1] == b"\0":
            return body
        compressed = body
    try:
        return zlib.decompressobj().decompress(compressed, _MOST_BESIDE + 1)
    except zlib.error:
        return b""


def _is_profile(profile: object) -> bool:
    return (
        isinstance(profile, bytes) and len(profile) >= _PROFILE_HEADER and profile[36:40] == b"acsp"
    )
