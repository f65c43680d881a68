from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageStat

from imagepipeline_dagster.moderation.verdicts import BLANK_VALUE_RANGE


def value_range(picture: Image.Image) -> int:
    """Return the largest difference within a channel, as the purchase measures it."""
    return max(high - low for low, high in ImageStat.Stat(picture).extrema)


def delivered(picture: Image.Image, *, format: str, quality: int) -> Image.Image:  # noqa: A002
    """Return the picture as it comes out of a lossy format."""
    encoded = BytesIO()
    picture.save(encoded, format, quality=quality)
    return Image.open(encoded)


@pytest.mark.parametrize("colour", ["black", "white", "gray", "#ee6980", "#115021"])
@pytest.mark.parametrize("quality", [75, 85, 95])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_flat_picture_is_blank_after_a_lossy_format(
    format: str,  # noqa: A002
    quality: int,
    colour: str,
) -> None:
    """One flat colour is blank however a lossy format bends it."""
    flat = Image.new("RGB", (96, 96), colour)
    assert value_range(delivered(flat, format=format, quality=quality)) <= BLANK_VALUE_RANGE


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_noise_does_not_hide_a_black_picture(quality: int) -> None:
    """A black picture with faint noise is blank after JPEG."""
    noise = Image.effect_noise((96, 96), 1).point(lambda value: max(0, min(2, value - 128)))
    noisy = ImageChops.add(Image.new("RGB", (96, 96)), noise.convert("RGB"))
    assert value_range(delivered(noisy, format="JPEG", quality=quality)) <= BLANK_VALUE_RANGE


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_night_sky_with_few_stars_is_not_blank(quality: int) -> None:
    """Darkness alone is not blank: three small stars are enough to be a picture."""
    sky = Image.new("RGB", (256, 256), (2, 2, 6))
    for place in ((30, 40), (120, 200), (222, 90)):
        sky.putpixel(place, (150, 150, 140))
    assert value_range(delivered(sky, format="JPEG", quality=quality)) > BLANK_VALUE_RANGE
