"""What a file carries beside its picture: pages, archives, and junk for a colour profile.

Bytes are kept and released as they were delivered, so whatever stands in them would travel along.
"""

from __future__ import annotations

from PIL import Image

__all__ = ["smuggled"]

_SNIFFED = 1024  # bytes: where browsers look when they guess what a file is
_MARKUP = (b"<!doctype", b"<html", b"<script", b"<svg", b"<body", b"<iframe")
_PADDING = b"\0\r\n\t "
_PNG_SIGNATURE = 8  # bytes
_LARGEST_PROFILE = 4 * 2**20  # bytes
_PROFILE_HEADER = 128  # bytes


def smuggled(data: bytes, image: Image.Image) -> str | None:
    """Return what is wrong with an opened picture's file beside its pixels, None if nothing is.

    Nothing is decoded for it.
    """
    start = data[:_SNIFFED].lower()
    if any(word in start for word in _MARKUP):
        return "it is a web page too"
    behind = data[_end_of_picture(data, str(image.format)) :].strip(_PADDING)
    if behind:
        return f"{len(behind):,} bytes follow the picture"
    if "icc_profile" in image.info and not _is_profile(image.info["icc_profile"]):
        return "its colour profile is none"
    return None


def _end_of_picture(data: bytes, picture_format: str) -> int:
    match picture_format:
        case "PNG":
            at = _PNG_SIGNATURE
            while at + 12 <= len(data):
                length = int.from_bytes(data[at : at + 4], "big")
                kind = data[at + 4 : at + 8]
                at += 12 + length
                if kind == b"IEND":
                    break
            return at
        case "WEBP":
            return 8 + int.from_bytes(data[4:8], "little")
        case _:
            # A JPEG ends in a marker; behind the last one there is nothing but padding. One that
            # was cut off has none: that shows when it is decoded.
            last = data.rfind(b"\xff\xd9")
            return len(data) if last < 0 else last + 2


def _is_profile(profile: object) -> bool:
    return (
        isinstance(profile, bytes)
        and _PROFILE_HEADER <= len(profile) <= _LARGEST_PROFILE
        and profile[36:40] == b"acsp"
    )
