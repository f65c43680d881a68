"""A scene drawn from a text's words and a seed: the land it names and the thing it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw

from imagepipeline_dagster.emulator import lands
from imagepipeline_dagster.emulator.brush import Brush
from imagepipeline_dagster.emulator.light import Canvas, gradient, rings, vignette
from imagepipeline_dagster.emulator.palettes import Palette, palette_for
from imagepipeline_dagster.emulator.subjects import INDOORS, subject_of

__all__ = ["Style", "draw_scene", "palette_of"]


class _Setting(NamedTuple):
    land: Callable[[Canvas], float]
    mood: str
    """The palette, where no word names one."""


_SETTINGS: dict[_Setting, str] = {
    _Setting(lands.sea, "ocean"): """
        sea ocean beach lake river harbour harbor coast island wave waves boat rowboat sailboat ship
        yacht ferry trawler tugboat pier quay surf lighthouse underwater fjord""",
    _Setting(lands.city, "sunset"): """
        city street skyline tokyo urban downtown buildings cyberpunk rooftop paris london york taxi
        architecture""",
    _Setting(lands.mountains, "day"): """
        mountain mountains alps peak peaks cliff valley castle himalaya glacier balloon balloons
        canyon""",
    _Setting(lands.hills, "day"): "hill hills tuscany landscape vineyard prairie savanna",
    _Setting(lands.forest, "forest"): """
        forest woods jungle pine pines cabin trees path rainforest fox wolf bear""",
    _Setting(lands.dunes, "desert"): "desert dune dunes sahara mars sand camel pyramid",
    _Setting(lands.meadow, "day"): """
        meadow field fields wildflowers garden farm countryside flowers sunflower sunflowers tulips
        lavender poppies spring grass park""",
    _Setting(lands.studio, "studio"): """
        studio product white table interior room kitchen still packshot portrait headshot bouquet
        vase desk""",
    _Setting(lands.space, "night"): "space galaxy planet nebula cosmos orbit saturn",
    _Setting(lands.abstract, "vintage"): """
        abstract pattern geometric wallpaper texture logo poster shapes kaleidoscope bauhaus""",
}
_SETTING_WORDS = {word: setting for setting, words in _SETTINGS.items() for word in words.split()}

_INDOORS = _Setting(lands.studio, "studio")
_ANYWHERE = (
    _Setting(lands.hills, "day"),
    _Setting(lands.mountains, "dawn"),
    _Setting(lands.hills, "sunset"),
    _Setting(lands.sea, "ocean"),
    _Setting(lands.meadow, "dawn"),
)

_NEARNESS = frozenset({"close", "closeup", "portrait", "macro", "headshot", "face"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a scene departs from what its words alone would give."""

    hue: float = 0.0
    """Turn of every colour, in turns."""
    saturation: float = 1.0
    rings: int = 0
    """Number of fine circles laid over the picture."""


_PLAIN = Style()


def draw_scene(
    text: str, *, size: tuple[int, int], seed: str | int, style: Style = _PLAIN
) -> Image.Image:
    """Return the scene of `text` as RGB of `size` pixels; equal arguments give equal pixels."""
    words = _words(text)
    chance = _chance(words, seed)
    setting = _setting_of(words)
    palette = palette_for(words, fallback=setting.mood, chance=chance)
    palette = palette.turned(style.hue, saturation=style.saturation)
    image = gradient((palette.sky, palette.horizon), size)
    canvas = Canvas(image=image, pen=ImageDraw.Draw(image, "RGBA"), palette=palette, chance=chance)
    ground = setting.land(canvas)
    _draw_subject(canvas, words, ground)
    vignette(canvas)
    rings(canvas, style.rings)
    return image


def palette_of(text: str, *, seed: str | int) -> Palette:
    """Return the palette that a plain scene of `text` is drawn in."""
    words = _words(text)
    return palette_for(words, fallback=_setting_of(words).mood, chance=_chance(words, seed))


def _draw_subject(canvas: Canvas, words: Sequence[str], ground: float) -> None:
    subject = subject_of(words)
    if subject is None:
        return
    near = not _NEARNESS.isdisjoint(words)
    share = 0.74 if near else canvas.chance.uniform(0.4, 0.5)
    foot = (canvas.width * canvas.chance.uniform(0.4, 0.6), min(ground, canvas.height * 0.86))
    brush = Brush(
        canvas.pen,
        foot=foot,
        height=min(canvas.image.size) * share,
        palette=canvas.palette,
        chance=canvas.chance,
    )
    brush.shadow()
    subject(brush)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _chance(words: Sequence[str], seed: str | int) -> Random:
    return Random(f"{' '.join(words)} {seed}")  # noqa: S311 - repeatable, not secret


def _setting_of(words: Sequence[str]) -> _Setting:
    """Return what the text names, or what suits its subject, or a standing choice for its words."""
    named = next((_SETTING_WORDS[word] for word in words if word in _SETTING_WORDS), None)
    if named is not None:
        return named
    if subject_of(words) in INDOORS:
        return _INDOORS
    return _ANYWHERE[sum(map(ord, "".join(words))) % len(_ANYWHERE)]
