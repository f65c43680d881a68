"""Masks drawn from words: white where a picture is to be painted anew, black elsewhere."""

from __future__ import annotations

import re

from PIL import Image, ImageChops, ImageDraw

__all__ = ["draw_mask"]

_Box = tuple[float, float, float, float]

_HALVES: dict[str, _Box] = {
    "left": (0, 0, 0.5, 1),
    "right": (0.5, 0, 1, 1),
    "top": (0, 0, 1, 0.5),
    "upper": (0, 0, 1, 0.5),
    "sky": (0, 0, 1, 0.45),
    "bottom": (0, 0.5, 1, 1),
    "lower": (0, 0.5, 1, 1),
    "ground": (0, 0.55, 1, 1),
}
_CENTRE: _Box = (0.25, 0.25, 0.75, 0.75)
_ROUND = {"circle", "round", "face", "oval"}
_RIM = {"border", "edge", "edges", "frame", "background"}


def draw_mask(text: str, *, size: tuple[int, int]) -> Image.Image:
    """Return the mask (mode L, pixels of 0 or 255) that a text names.

    Words for sides meet: `top left` is a quarter. Without such a word, or where they contradict
    each other, it is the centre; `circle` rounds it, `border` is what lies around it.
    """
    words = set(re.findall(r"[a-z]+", text.lower()))
    sides = [box for word, box in _HALVES.items() if word in words]
    box = _common(sides) if sides else _CENTRE
    mask = Image.new("L", size, 0)
    corners = (
        round(box[0] * size[0]),
        round(box[1] * size[1]),
        round(box[2] * size[0]) - 1,
        round(box[3] * size[1]) - 1,
    )
    pen = ImageDraw.Draw(mask)
    if words & _ROUND:
        pen.ellipse(corners, fill=255)
    else:
        pen.rectangle(corners, fill=255)
    return ImageChops.invert(mask) if words & _RIM else mask


def _common(boxes: list[_Box]) -> _Box:
    left, top = max(box[0] for box in boxes), max(box[1] for box in boxes)
    right, bottom = min(box[2] for box in boxes), min(box[3] for box in boxes)
    # Words that contradict each other ("left right") have nothing in common.
    return (left, top, right, bottom) if left < right and top < bottom else _CENTRE
