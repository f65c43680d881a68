"""Two small charts of verdicts, as lossless WebP: a few hundred bytes that an event can hold."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["bar_chart", "histogram"]

_INK, _PAPER, _GRID = "#2b3440", "#ffffff", "#d5dae1"
_COLOURS = {"kept": "#1f7a4d", "rejected": "#b3261e", "quarantined": "#9a5b00"}
_MOST_BARS = 14
_BAR, _GAP = 16, 6  # pixels
_LABELS, _WIDTH, _NUMBERS = 190, 300, 60
_BINS, _BIN_WIDTH, _HEIGHT, _FOOT = 20, 22, 110, 20


def bar_chart(counts: Mapping[tuple[str, str], int]) -> bytes:
    """Return a bar for each (verdict, reason), the longest first; a bar's colour is its verdict."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ranked[:_MOST_BARS]
    most = max((number for _, number in shown), default=1)
    height = _GAP + max(1, len(shown)) * (_BAR + _GAP)
    chart, pencil = _sheet(_LABELS + _WIDTH + _NUMBERS, height)
    for place, ((verdict, reason), number) in enumerate(shown):
        top = _GAP + place * (_BAR + _GAP)
        middle = top + _BAR / 2
        length = max(1, round(_WIDTH * number / most))
        colour = _COLOURS.get(verdict, _INK)
        pencil.rectangle((_LABELS, top, _LABELS + length, top + _BAR), fill=colour)
        label = f"{verdict}: {reason}"[:30]
        pencil.text((_LABELS - 6, middle), label, _INK, _font(), anchor="rm")
        pencil.text((_LABELS + length + 6, middle), f"{number:,}", _INK, _font(), anchor="lm")
    return _encoded(chart)


def histogram(scores: Sequence[float], *, marks: Sequence[float]) -> bytes:
    """Return how many scores lie in each twentieth from 0 to 1, with lines at `marks`."""
    bins = Counter(min(_BINS - 1, int(score * _BINS)) for score in scores)
    most = max(bins.values(), default=1)
    width = _BINS * _BIN_WIDTH
    chart, pencil = _sheet(width + 2 * _GAP, _HEIGHT + _FOOT + 2 * _GAP)
    floor = _GAP + _HEIGHT
    for place, number in bins.items():
        left = _GAP + place * _BIN_WIDTH
        top = floor - max(1, round(_HEIGHT * number / most))
        pencil.rectangle((left, top, left + _BIN_WIDTH - 3, floor), fill=_COLOURS["kept"])
    pencil.line((_GAP, floor, _GAP + width, floor), fill=_GRID)
    for mark in marks:
        x = _GAP + round(mark * width)
        pencil.line((x, _GAP, x, floor), fill=_COLOURS["rejected"])
        pencil.text((x, floor + 4), f"{mark:g}", _INK, _font(), anchor="ma")
    told = f"{len(scores):,} scores, at most {most:,} a bar"
    pencil.text((_GAP + width, _GAP), told, _INK, _font(), anchor="ra")
    return _encoded(chart)


def _sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    chart = Image.new("RGB", (width, height), _PAPER)
    return chart, ImageDraw.Draw(chart)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _encoded(chart: Image.Image) -> bytes:
    encoded = io.BytesIO()
    # Few colours take a third of the bytes of smooth edges.
    chart.quantize(32).convert("RGB").save(encoded, "WEBP", lossless=True, method=4)
    return encoded.getvalue()
