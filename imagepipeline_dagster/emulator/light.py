"""What every scene shares: the canvas, sky and light, and the finish over all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

from imagepipeline_dagster.emulator.palettes import Colour, Palette, mixed

__all__ = ["Canvas", "disc", "glow", "gradient", "rings", "sky", "vignette"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A scene while it is drawn; the pen blends colours that have an alpha value."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    palette: Palette
    chance: Random

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.image.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.image.height


def gradient(stops: tuple[Colour, Colour], size: tuple[int, int]) -> Image.Image:
    """Return an RGB picture that goes from the first colour at its top to the second below."""
    column = Image.new("RGB", (1, 32))
    for y in range(32):
        column.putpixel((0, y), mixed(stops[0], stops[1], y / 31))
    smooth = column.resize((1, size[1]), Image.Resampling.BILINEAR)
    return smooth.resize(size, Image.Resampling.NEAREST)


@lru_cache(maxsize=1)
def _radiance() -> Image.Image:
    """Return a disc of light: 255 in the middle, falling to 0 at the rim."""
    return Image.radial_gradient("L").point(lambda far: max(0, 255 - round(far * 1.45)))


def glow(canvas: Canvas, centre: tuple[float, float], *, radius: float, strength: float) -> None:
    """Lay light around a point, of `strength` (0 to 1) there and none at `radius` pixels."""
    side = max(2, round(radius * 2))
    light = _radiance().resize((side, side)).point(lambda near: round(near * strength))
    spot = (round(centre[0] - radius), round(centre[1] - radius))
    canvas.image.paste(canvas.palette.glow, (*spot, spot[0] + side, spot[1] + side), light)


def _sun(canvas: Canvas, *, lowest: float) -> None:
    chance, width, height = canvas.chance, canvas.width, canvas.height
    x, y = width * chance.uniform(0.18, 0.82), height * chance.uniform(0.16, lowest)
    radius = min(width, height) * chance.uniform(0.055, 0.1)
    glow(canvas, (x, y), radius=radius * 6, strength=0.75)
    disc(canvas, (x, y), radius, canvas.palette.glow)
    if canvas.palette.dark:
        crater = mixed(canvas.palette.glow, canvas.palette.far, 0.25)
        for across, down, share in ((-0.3, -0.25, 0.26), (0.35, 0.1, 0.2), (-0.1, 0.45, 0.15)):
            disc(canvas, (x + across * radius, y + down * radius), radius * share, crater)


def disc(
    canvas: Canvas, centre: tuple[float, float], radius: float, fill: Colour | tuple[int, ...]
) -> None:
    """Fill a circle; the radius is in pixels."""
    x, y = centre
    canvas.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def sky(canvas: Canvas, *, lowest: float = 0.5) -> None:
    """Draw stars or clouds, and the sun or moon above the share `lowest` of the height."""
    chance, width, height = canvas.chance, canvas.width, canvas.height
    if canvas.palette.dark:
        for _ in range(90):
            star = (chance.uniform(0, width), chance.uniform(0, height * 0.6))
            disc(canvas, star, chance.uniform(0.3, 1.4) * height / 400, (255, 255, 255, 190))
    _sun(canvas, lowest=lowest)
    if not canvas.palette.dark:
        for _ in range(chance.randint(1, 4)):
            _cloud(canvas, width * chance.random(), height * chance.uniform(0.08, 0.38))


def _cloud(canvas: Canvas, x: float, y: float) -> None:
    size = canvas.width * canvas.chance.uniform(0.05, 0.1)
    for _ in range(7):
        left = x + size * canvas.chance.uniform(-1.8, 1.8)
        tall = size * canvas.chance.uniform(0.2, 0.42)
        wide = size * canvas.chance.uniform(0.7, 1.2)
        canvas.pen.ellipse((left - wide, y - tall, left + wide, y + tall), fill=(255, 255, 255, 58))


def vignette(canvas: Canvas) -> None:
    """Darken the corners."""
    shade = _vignette_mask(canvas.image.size)
    canvas.image.paste(mixed(canvas.palette.near, (0, 0, 0), 0.6), (0, 0), shade)


@lru_cache(maxsize=8)
def _vignette_mask(size: tuple[int, int]) -> Image.Image:
    return Image.radial_gradient("L").point(lambda far: max(0, far - 150) * 2 // 3).resize(size)


def rings(canvas: Canvas, number: int) -> None:
    """Draw fine circles around a point anywhere."""
    x, y = canvas.width * canvas.chance.random(), canvas.height * canvas.chance.random()
    for k in range(1, number + 1):
        reach = canvas.width * 0.11 * k
        box = (x - reach, y - reach, x + reach, y + reach)
        canvas.pen.ellipse(box, outline=(*canvas.palette.spark, 90), width=2)
