"""What came as a picture, verified: decoded once, and measured from that."""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageFile, ImageOps, features

from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.purchase.beside import carries_more
from imagepipeline_dagster.purchase.pieces import PNG, without_texts

FORMATS = ("PNG", "JPEG", "WEBP", *(("AVIF",) if features.check("avif") else ()))
"""The formats that are accepted, as Pillow names them; AVIF where it was built with it."""

MAX_PIXELS = 8192 * 8192
"""The largest picture that is decoded; a header that promises more is a decompression bomb."""


_OTHER_FORMATS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


class Undecodable(ValueError):
    """The bytes are no picture that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture's evidence. Sizes in pixels; `thumbnail` is WebP of at most 128 pixels.

    All of it is of the picture as it is shown: turned as its EXIF says, and on white.

    `value_range` is the largest difference between two values of a channel, 0 to 255. `has_alpha`
    is whether a pixel is not fully opaque, `carries_more` what the file holds beside the picture.
    """

    sha256: str
    format: str
    width: int
    height: int
    value_range: int
    has_alpha: bool
    carries_more: str | None
    thumbnail: bytes


_telling_pillow = threading.Lock()
_told_by_others: list[tuple[bool, int | None]] = []


@contextmanager
def decoding() -> Iterator[None]:
    """Decode with Pillow as it comes, whatever other code in this process told it.

    Many set LOAD_TRUNCATED_IMAGES for all of it, and half a picture would pass for one; or a limit
    of pixels, where that of this package counts. What they told it holds again afterwards; other
    threads see Pillow as it comes meanwhile.
    """
    with _telling_pillow:
        # The last of several that decode at once tells it again.
        others = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        _told_by_others.append(_told_by_others[0] if _told_by_others else others)
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        yield
    finally:
        with _telling_pillow:
            others = _told_by_others.pop()
            if not _told_by_others:
                # What they told it meanwhile stays.
                ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES or others[0]
                if Image.MAX_IMAGE_PIXELS is None:
                    Image.MAX_IMAGE_PIXELS = others[1]


def read_picture(data: bytes) -> Picture:
    """Decode a picture and measure it.

    Raises:
        Undecodable: it is of no accepted format, animated, truncated, corrupt or far too large.
        OSError: this machine lacks the memory to decode it now.
    """
    try:
        # Pillow refuses a PNG for the length of its texts, which are no part of the picture.
        pixels = without_texts(data) if data.startswith(PNG) else data
        with decoding(), Image.open(io.BytesIO(pixels), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Undecodable(f"{image.width} x {image.height} pixels are too many")
            if getattr(image, "n_frames", 1) > 1:
                raise Undecodable("it is animated")
            picture_format = str(image.format)
            profile = image.info.get("icc_profile")
            flat = as_shown(image)
            has_alpha = _has_alpha(image)
    except Undecodable:
        raise
    except MemoryError as error:
        # The picture is not at fault: it is fetched again once there is memory.
        what = f"no memory to decode a picture of {len(data):,} bytes"
        raise OSError(errno.ENOMEM, what) from error
    except Exception as error:
        raise Undecodable(
            f"{len(data):,} bytes{_named_format(data)} do not decode as a picture: "
            f"{type(error).__name__}"
        ) from error
    extrema = flat.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return Picture(
        sha256=hashlib.sha256(data).hexdigest(),
        format=picture_format,
        width=flat.width,
        height=flat.height,
        value_range=max(int(high) - int(low) for low, high in bands),
        has_alpha=has_alpha,
        carries_more=carries_more(data, picture_format, profile),
        thumbnail=thumbnail(flat),
    )


def _named_format(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return f" of {data[8:12].decode('ascii', 'replace').strip().upper()}"
    start = data[:64].lstrip()
    return next((f" of {name}" for sign, name in _OTHER_FORMATS if start.startswith(sign)), "")


def _has_alpha(image: Image.Image) -> bool:
    """Tell whether any pixel of a decoded picture is not fully opaque."""
    if not image.has_transparency_data:
        return False
    return image.convert("RGBA").getchannel("A").histogram()[255] < image.width * image.height


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
