"""How like two pictures are: byte for byte, pixel for pixel, and to the eye."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image, ImageChops, ImageStat

from imagepipeline_dagster.purchase.pictures import decoding, eight_bits

_HASHED = (9, 8)  # pixels: each of eight columns has a right neighbour
# A picture that was only encoded anew differs by less: JPEG of quality 80 by 2 to 4 levels of 255,
# and by 0 to 3 bits. Flat pictures have no stable bits, so a tiny difference alone is enough.
_SAME_LEVELS, _SAME_BITS = 6.0, 5
_TINY_LEVELS = 1.0


class Likeness(StrEnum):
    """How a replayed sample compares with the original, the likest first."""

    IDENTICAL_BYTES = "identical_bytes"
    IDENTICAL_PIXELS = "identical_pixels"
    VISUALLY_SAME = "visually_same"
    DRIFTED = "drifted"
    NOT_COMPARABLE = "not_comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One sample then and now.

    `mean_difference` is the mean absolute difference of the channels, 0 to 255; `hash_distance`
    the differing bits of two 64-bit difference hashes. Both are None where there is no picture on
    one side; the first also where the sizes, in pixels, differ.
    """

    slot: int
    likeness: Likeness
    outcome: str
    image_sha256: str | None = None
    size: tuple[int, int] | None = None
    original_sha256: str | None = None
    original_size: tuple[int, int] | None = None
    mean_difference: float | None = None
    hash_distance: int | None = None


def compare_pictures(
    original: bytes, replayed: bytes, *, slot: int = 0, outcome: str = "generated"
) -> Comparison:
    """Return how like two encoded pictures are."""
    with (
        decoding(),
        Image.open(io.BytesIO(original)) as before,
        Image.open(io.BytesIO(replayed)) as now,
    ):
        transparent = before.has_transparency_data or now.has_transparency_data
        mode = "RGBA" if transparent else "RGB"
        then, today = (eight_bits(image).convert(mode) for image in (before, now))
    difference = None
    if then.size == today.size:
        channels = ImageStat.Stat(ImageChops.difference(then, today)).mean
        difference = sum(channels) / len(channels)
    distance = (difference_hash(then) ^ difference_hash(today)).bit_count()
    if original == replayed:
        likeness = Likeness.IDENTICAL_BYTES
    elif difference is not None and then.tobytes() == today.tobytes():
        likeness = Likeness.IDENTICAL_PIXELS
    elif difference is not None and (
        difference <= _TINY_LEVELS or (difference <= _SAME_LEVELS and distance <= _SAME_BITS)
    ):
        likeness = Likeness.VISUALLY_SAME
    else:
        likeness = Likeness.DRIFTED
    return Comparison(
        slot=slot,
        likeness=likeness,
        outcome=outcome,
        image_sha256=hashlib.sha256(replayed).hexdigest(),
        size=today.size,
        original_sha256=hashlib.sha256(original).hexdigest(),
        original_size=then.size,
        mean_difference=difference,
        hash_distance=distance,
    )


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits: whether each place of an 8 x 8 grid is brighter than its right neighbour."""
    small = image.convert("L").resize(_HASHED, Image.Resampling.LANCZOS, reducing_gap=2)
    grey = np.asarray(small)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")
