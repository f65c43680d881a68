"""What came as a picture, verified: decoded once, and measured from that."""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import suppress
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps

from imagepipeline_dagster.previews import thumbnail

__all__ = [
    "FORMATS",
    "Picture",
    "Undecodable",
    "as_shown",
    "eight_bits",
    "read_picture",
    "smuggled",
]

FORMATS = ("PNG", "JPEG", "WEBP")
"""The formats that are accepted, as Pillow names them."""

MAX_PIXELS = 8192 * 8192
"""The largest picture that is decoded; a header that promises more is a decompression bomb."""


class Undecodable(ValueError):
    """The bytes are no picture that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture's evidence. Sizes in pixels; `thumbnail` is WebP of at most 128 pixels.

    All of it is of the picture as it is shown: turned as its EXIF says, and on white.

    `value_range` is the largest difference between two values of a channel, 0 to 255.
    """

    sha256: str
    format: str
    width: int
    height: int
    value_range: int
    thumbnail: bytes


def read_picture(data: bytes) -> Picture:
    """Decode a picture and measure it.

    Raises:
        Undecodable: it is of no accepted format, animated, truncated, corrupt or far too large, or
            it carries what no picture needs.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limit is a warning; ours is below, in pixels, and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Undecodable(f"{image.width} x {image.height} pixels are too many")
                if getattr(image, "n_frames", 1) > 1:
                    raise Undecodable("it is animated")
                if found := smuggled(data, image):
                    raise Undecodable(found)
                image.load()
                picture_format = str(image.format)
                flat = as_shown(image)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(
            f"{len(data):,} bytes do not decode as a picture: {type(error).__name__}"
        ) from error
    extrema = flat.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return Picture(
        sha256=hashlib.sha256(data).hexdigest(),
        format=picture_format,
        width=flat.width,
        height=flat.height,
        value_range=max(int(high) - int(low) for low, high in bands),
        thumbnail=thumbnail(flat),
    )


def as_shown(image: Image.Image) -> Image.Image:
    """Return an opened picture as a browser shows it: turned as its EXIF says, on white.

    The mode is RGB, or L for a grey picture. Where the EXIF is broken the picture stays unturned.
    """
    image.load()
    turned = image
    with suppress(Exception):  # whatever a broken EXIF raises
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            turned = ImageOps.exif_transpose(image)
    flat = eight_bits(turned)
    if flat.has_transparency_data:
        painted = flat.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", painted.size, "white"), painted)
    return flat if flat.mode in ("L", "RGB") else flat.convert("RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a decoded picture with values of 0 to 255; only grey ones of 16 bits have larger ones.

    Pillow's own conversion cuts such values off at 255: the picture would look white all over, to
    whoever measures it and to a classifier.
    """
    if not image.mode.startswith("I"):
        return image
    return image.point(lambda value: value * (1 / 257) + 0.5).convert("L")


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
