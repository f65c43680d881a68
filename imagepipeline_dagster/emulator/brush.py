"""A pen that draws in a subject's own frame, wherever and however large it stands."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from imagepipeline_dagster.emulator.palettes import Colour, Palette

__all__ = ["Brush", "Point"]

Point = tuple[float, float]


class Brush:
    """Draws in a subject's own frame: x from -0.5 to 0.5, y from 0 (the ground) up to 1."""

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        *,
        foot: Point,
        height: float,
        palette: Palette,
        chance: Random,
    ) -> None:
        self._pen = pen
        self._foot = foot
        self._height = height
        self.palette = palette
        self.chance = chance

    def lift(self, height: float) -> None:
        """Raise what is drawn from here on, its shadow left on the ground."""
        x, y = self._foot
        self._foot = (x, y - height * self._height)

    def shape(self, *corners: Point, fill: Colour) -> None:
        """Fill a polygon."""
        self._pen.polygon([self._at(corner) for corner in corners], fill=fill)

    def oval(self, centre: Point, radius: Point, *, fill: Colour) -> None:
        """Fill an ellipse."""
        left, top = self._at((centre[0] - radius[0], centre[1] + radius[1]))
        right, bottom = self._at((centre[0] + radius[0], centre[1] - radius[1]))
        self._pen.ellipse((left, top, right, bottom), fill=fill)

    def block(self, low: Point, high: Point, *, fill: Colour, round_by: float = 0) -> None:
        """Fill a rectangle between two corners, its own corners rounded."""
        left, top = self._at((low[0], high[1]))
        right, bottom = self._at((high[0], low[1]))
        radius = round_by * self._height
        self._pen.rounded_rectangle((left, top, right, bottom), radius, fill=fill)

    def line(self, *points: Point, width: float, fill: Colour) -> None:
        """Draw a line of `width` in the subject's frame."""
        thick = max(1, round(width * self._height))
        self._pen.line([self._at(point) for point in points], fill=fill, width=thick, joint="curve")

    def shadow(self) -> None:
        """Lay a soft shadow on the ground."""
        for step in range(4):
            reach = 0.5 - 0.07 * step
            left, top = self._at((-reach, 0.035))
            right, bottom = self._at((reach, -0.055))
            self._pen.ellipse((left, top, right, bottom), fill=(20, 20, 30, 26))

    def _at(self, point: Point) -> Point:
        x, y = self._foot
        return x + point[0] * self._height, y - point[1] * self._height
