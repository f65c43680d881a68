"""The lands that scenes play in.

Each function draws one over a sky and returns where its ground is, in pixels from the top, for a
subject to stand on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sin

from imagepipeline_dagster.emulator.light import Canvas, disc, glow, gradient, sky
from imagepipeline_dagster.emulator.palettes import Colour, mixed

__all__ = [
    "abstract",
    "city",
    "dunes",
    "forest",
    "hills",
    "meadow",
    "mountains",
    "sea",
    "space",
    "studio",
]

_Box = tuple[float, float, float, float]


def _waves(canvas: Canvas, *, roughness: int) -> list[float]:
    """Return the heights of a ridge, -1 to 1, one for each of 65 places across the picture."""
    chance = canvas.chance
    parts = [
        (chance.uniform(0.6, 1.4) * (k + 1), chance.uniform(0, 2 * pi), 1 / (k + 1))
        for k in range(roughness)
    ]
    total = sum(weight for _, _, weight in parts)
    return [
        sum(weight * sin(2 * pi * pitch * x / 64 + phase) for pitch, phase, weight in parts) / total
        for x in range(65)
    ]


def _ridge(
    canvas: Canvas, level: float, swing: float, fill: Colour, *, roughness: int
) -> list[float]:
    heights = [level + swing * wave for wave in _waves(canvas, roughness=roughness)]
    step = canvas.width / 64
    line = [(k * step, height) for k, height in enumerate(heights)]
    canvas.pen.polygon([*line, (canvas.width, canvas.height), (0, canvas.height)], fill=fill)
    return heights


def _layers(canvas: Canvas, *, top: float, count: int) -> list[tuple[float, Colour]]:
    """Return levels (pixels) and colours from the haze at `top` down to the dark foreground."""
    bottom, palette = 0.9, canvas.palette
    shares = [k / (count - 1) for k in range(count)]
    return [
        (
            canvas.height * (top + (bottom - top) * share**1.15),
            mixed(mixed(palette.horizon, palette.far, 0.75), palette.near, share),
        )
        for share in shares
    ]


def hills(canvas: Canvas) -> float:
    """Rolling hills, paler the farther."""
    sky(canvas)
    for level, colour in _layers(canvas, top=0.52, count=5):
        _ridge(canvas, level, canvas.height * 0.06, colour, roughness=3)
    return canvas.height * 0.84


def mountains(canvas: Canvas) -> float:
    """Mountains with snow on the farthest."""
    sky(canvas, lowest=0.35)
    chance, height, step = canvas.chance, canvas.height, canvas.width / 64
    for layer, (level, colour) in enumerate(_layers(canvas, top=0.42, count=4)):
        if layer == 3:
            _ridge(canvas, level, height * 0.03, colour, roughness=3)
            break
        peaks = [(chance.uniform(-4, 68), chance.uniform(0.5, 1)) for _ in range(4 + layer)]
        line = [
            max(tall * (1 - abs(x - place) / 22) for place, tall in peaks)
            + chance.uniform(-0.02, 0.02)
            for x in range(65)
        ]
        heights = [level - max(0.0, rise) * height * (0.3 - 0.06 * layer) for rise in line]
        land = [(k * step, y) for k, y in enumerate(heights)]
        canvas.pen.polygon([*land, (canvas.width, height), (0, height)], fill=colour)
        if layer == 0:
            _snow(canvas, land, level - height * 0.16)
    return height * 0.88


def _snow(canvas: Canvas, land: Sequence[tuple[float, float]], line: float) -> None:
    white = mixed((255, 255, 255), canvas.palette.horizon, 0.3)
    for (x, y), (next_x, next_y) in pairwise(land):
        lower, next_lower = (at + max(0.0, (line - at)) * 0.6 for at in (y, next_y))
        if y < line or next_y < line:
            canvas.pen.polygon(
                [(x, y), (next_x, next_y), (next_x, next_lower), (x, lower)], fill=white
            )


def forest(canvas: Canvas) -> float:
    """Pines in the haze."""
    sky(canvas, lowest=0.3)
    chance = canvas.chance
    for layer, (level, colour) in enumerate(_layers(canvas, top=0.5, count=5)):
        heights = _ridge(canvas, level, canvas.height * 0.03, colour, roughness=2)
        for _ in range(26 - 4 * layer):
            place = chance.uniform(0, 64)
            tall = canvas.height * (0.1 + 0.055 * layer) * chance.uniform(0.7, 1.25)
            _pine(canvas, place * canvas.width / 64, heights[round(place)] + 4, tall, colour)
    return canvas.height * 0.93


def _pine(canvas: Canvas, x: float, foot: float, tall: float, colour: Colour) -> None:
    for k in range(3):
        top, wide = foot - tall * (0.4 + 0.3 * k), tall * (0.2 - 0.045 * k)
        low = foot - tall * 0.27 * k
        canvas.pen.polygon([(x, top), (x + wide, low), (x - wide, low)], fill=colour)


def sea(canvas: Canvas) -> float:
    """Water to the horizon, a coast far off."""
    palette, chance, width, height = canvas.palette, canvas.chance, canvas.width, canvas.height
    sky(canvas, lowest=0.42)
    level = round(height * chance.uniform(0.5, 0.6))
    coast = mixed(palette.horizon, palette.far, 0.7)
    _ridge(canvas, level, height * 0.035, coast, roughness=3)
    near = mixed(palette.near, palette.sky, 0.35)
    water = gradient((mixed(palette.horizon, near, 0.35), near), (width, height - level))
    canvas.image.paste(water, (0, level))
    for _ in range(110):
        depth = chance.random() ** 1.6
        x, y = chance.uniform(0, width), level + 3 + depth * (height - level)
        long, thick = width * (0.01 + 0.06 * depth), height * (0.0015 + 0.004 * depth)
        shade = palette.glow if chance.random() < 0.6 else palette.near
        canvas.pen.ellipse((x - long, y - thick, x + long, y + thick), fill=(*shade, 74))
    return height * 0.78


def city(canvas: Canvas) -> float:
    """Rows of houses with lit windows, and a street."""
    sky(canvas, lowest=0.4)
    chance, width, height = canvas.chance, canvas.width, canvas.height
    for layer, (level, colour) in enumerate(_layers(canvas, top=0.55, count=4)):
        x = -width * 0.05 * chance.random()
        while x < width:
            wide = width * chance.uniform(0.05, 0.11)
            top = level - height * chance.uniform(0.02, 0.34 - 0.05 * layer)
            canvas.pen.rectangle((x, top, x + wide, height), fill=colour)
            if layer > 0:
                _windows(canvas, (x, top, x + wide, height))
            x += wide + width * 0.006
    street = mixed(canvas.palette.near, (0, 0, 0), 0.25)
    canvas.pen.rectangle((0, height * 0.9, width, height), fill=street)
    return height * 0.95


def _windows(canvas: Canvas, box: _Box) -> None:
    left, top, right, bottom = box
    pitch = canvas.width * 0.02
    lit = 0.5 if canvas.palette.dark else 0.22
    colours = ((*canvas.palette.spark, 220), (*canvas.palette.accent, 200))
    y = top + pitch * 0.6
    while y < bottom:
        x = left + pitch * 0.4
        while x < right - pitch * 0.5:
            if canvas.chance.random() < lit:
                fill = colours[canvas.chance.random() < 0.25]
                canvas.pen.rectangle((x, y, x + pitch * 0.45, y + pitch * 0.6), fill=fill)
            x += pitch
        y += pitch * 1.3


def dunes(canvas: Canvas) -> float:
    """Dunes with lit crests."""
    sky(canvas)
    for level, colour in _layers(canvas, top=0.55, count=4):
        heights = _ridge(canvas, level, canvas.height * 0.075, colour, roughness=2)
        lit = mixed(colour, canvas.palette.glow, 0.28)
        step = canvas.width / 64
        crest = [(k * step, y) for k, y in enumerate(heights)]
        lee = [(x + canvas.width * 0.04, y + canvas.height * 0.05) for x, y in reversed(crest)]
        canvas.pen.polygon([*crest, *lee], fill=(*lit, 110))
    return canvas.height * 0.86


def meadow(canvas: Canvas) -> float:
    """Hills, and flowers in front of them."""
    ground = hills(canvas)
    chance, width, height = canvas.chance, canvas.width, canvas.height
    colours = (canvas.palette.accent, canvas.palette.spark, (250, 246, 240))
    for k in range(240):
        depth = (k / 240) ** 1.3
        x, y = chance.uniform(0, width), height * (0.7 + 0.32 * depth)
        disc(canvas, (x, y), height * (0.003 + 0.011 * depth), colours[chance.randrange(3)])
    return ground


def studio(canvas: Canvas) -> float:
    """A backdrop in soft light, and a floor."""
    palette, width, height = canvas.palette, canvas.width, canvas.height
    edge = round(height * canvas.chance.uniform(0.64, 0.7))
    glow(
        canvas,
        (width * canvas.chance.uniform(0.35, 0.65), edge * 0.6),
        radius=width * 0.6,
        strength=0.8,
    )
    floor = gradient(
        (mixed(palette.far, palette.horizon, 0.4), palette.near), (width, height - edge)
    )
    canvas.image.paste(floor, (0, edge))
    canvas.pen.rectangle((0, edge - 1, width, edge + 1), fill=(*palette.near, 90))
    return height * 0.8


def abstract(canvas: Canvas) -> float:
    """Tiles of plain shapes, as on a Bauhaus poster."""
    palette, chance = canvas.palette, canvas.chance
    colours = (palette.accent, palette.spark, palette.far, palette.near, palette.glow)
    tiles = chance.choice((3, 4, 5))
    wide, tall = canvas.width / tiles, canvas.height / tiles
    for place in range(tiles * tiles):
        ground, shape, detail = chance.sample(colours, 3)
        x, y = (place % tiles) * wide, (place // tiles) * tall
        canvas.pen.rectangle((x, y, x + wide, y + tall), fill=ground)
        _tile(canvas, (x, y, x + wide, y + tall), shape=shape, detail=detail)
    return canvas.height * 0.84


def _tile(canvas: Canvas, box: _Box, *, shape: Colour, detail: Colour) -> None:
    left, top, right, bottom = box
    wide, tall = right - left, bottom - top
    turn = canvas.chance.randrange(4)
    match canvas.chance.randrange(5):
        case 0:
            # A quarter of a disc around one of the tile's corners.
            x, y = ((left, top), (right, top), (right, bottom), (left, bottom))[turn]
            round_it = (x - wide, y - tall, x + wide, y + tall)
            canvas.pen.pieslice(round_it, 90 * turn, 90 * turn + 90, fill=shape)
        case 1:
            canvas.pen.ellipse(box, fill=shape)
            inner = (left + wide / 4, top + tall / 4, right - wide / 4, bottom - tall / 4)
            canvas.pen.ellipse(inner, fill=detail)
        case 2:
            canvas.pen.pieslice(box, 90 * turn, 90 * turn + 180, fill=shape)
        case 3:
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            canvas.pen.polygon(corners[:turn] + corners[turn + 1 :], fill=shape)
        case _:
            for k in range(0, 6, 2):
                stripe = (left, top + k * tall / 6, right, top + (k + 1) * tall / 6)
                canvas.pen.rectangle(stripe, fill=shape if k else detail)


def space(canvas: Canvas) -> float:
    """Stars and a planet with a ring."""
    chance, width, height, palette = canvas.chance, canvas.width, canvas.height, canvas.palette
    for _ in range(3):
        glow(
            canvas,
            (width * chance.random(), height * chance.random()),
            radius=width * 0.45,
            strength=0.3,
        )
    for _ in range(220):
        star = (chance.uniform(0, width), chance.uniform(0, height))
        disc(canvas, star, chance.random() ** 3 * 3 * height / 400 + 0.3, (255, 255, 255, 200))
    x, y, reach = (
        width * chance.uniform(0.25, 0.75),
        height * chance.uniform(0.3, 0.5),
        width * 0.17,
    )
    disc(canvas, (x, y), reach, palette.accent)
    for k in range(5):
        band = reach * (0.7 - 0.3 * k)
        half = (max(0.0, reach**2 - band**2)) ** 0.5
        canvas.pen.ellipse(
            (x - half, y + band - 5, x + half, y + band + 5), fill=(*palette.spark, 110)
        )
    ring = (x - reach * 1.7, y - reach * 0.35, x + reach * 1.7, y + reach * 0.35)
    canvas.pen.arc(ring, -15, 195, fill=(*palette.glow, 210), width=max(2, round(reach * 0.06)))
    return height * 0.95
