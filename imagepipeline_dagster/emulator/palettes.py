"""Colours from words: the mood of a scene, and the shades of it that seeds and styles bring."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

__all__ = ["Colour", "Palette", "mixed", "palette_for"]

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one scene, from the sky's top down to what is nearest."""

    sky: Colour
    horizon: Colour
    glow: Colour
    far: Colour
    near: Colour
    accent: Colour
    spark: Colour
    dark: bool = False
    """Whether stars and lit windows belong in it."""

    def turned(self, hue: float, *, saturation: float = 1.0) -> Palette:
        """Return this palette, its hues turned by `hue` (in turns) and its saturation scaled."""
        return Palette(
            sky=_turned(self.sky, hue, saturation),
            horizon=_turned(self.horizon, hue, saturation),
            glow=_turned(self.glow, hue, saturation),
            far=_turned(self.far, hue, saturation),
            near=_turned(self.near, hue, saturation),
            accent=_turned(self.accent, hue, saturation),
            spark=_turned(self.spark, hue, saturation),
            dark=self.dark,
        )


_MOODS: dict[str, Palette] = {
    "day": Palette(
        (84, 152, 214), (226, 240, 246), (255, 246, 218), (142, 178, 186),
        (52, 104, 82), (224, 92, 66), (250, 204, 96),
    ),
    "sunset": Palette(
        (74, 54, 124), (255, 160, 98), (255, 230, 166), (182, 96, 112),
        (48, 28, 64), (255, 118, 88), (255, 208, 124),
    ),
    "dawn": Palette(
        (146, 168, 220), (255, 216, 202), (255, 244, 226), (190, 172, 202),
        (92, 92, 138), (236, 122, 132), (255, 222, 168),
    ),
    "night": Palette(
        (10, 16, 44), (52, 72, 130), (238, 242, 255), (44, 60, 108),
        (9, 14, 32), (255, 196, 110), (128, 204, 255), dark=True,
    ),
    "storm": Palette(
        (78, 92, 108), (198, 206, 210), (236, 240, 240), (142, 154, 162),
        (50, 62, 70), (214, 170, 92), (232, 236, 238),
    ),
    "winter": Palette(
        (138, 182, 222), (242, 247, 252), (255, 255, 250), (198, 214, 232),
        (104, 138, 172), (206, 62, 66), (255, 255, 255),
    ),
    "autumn": Palette(
        (118, 166, 196), (252, 230, 190), (255, 240, 190), (216, 154, 94),
        (122, 56, 34), (210, 68, 36), (242, 182, 66),
    ),
    "forest": Palette(
        (126, 178, 168), (230, 242, 214), (252, 252, 216), (118, 164, 130),
        (18, 60, 46), (232, 122, 74), (244, 220, 120),
    ),
    "desert": Palette(
        (82, 154, 198), (254, 230, 188), (255, 246, 214), (230, 174, 116),
        (160, 84, 48), (204, 72, 52), (252, 214, 130),
    ),
    "ocean": Palette(
        (62, 142, 206), (218, 240, 246), (255, 250, 226), (70, 150, 184),
        (10, 68, 112), (230, 84, 70), (255, 236, 180),
    ),
    "neon": Palette(
        (18, 8, 50), (188, 44, 146), (255, 120, 208), (78, 32, 126),
        (14, 8, 38), (0, 228, 240), (255, 64, 172), dark=True,
    ),
    "studio": Palette(
        (204, 200, 194), (240, 238, 234), (255, 255, 255), (222, 216, 208),
        (176, 168, 160), (206, 84, 64), (240, 196, 110),
    ),
    "vintage": Palette(
        (150, 158, 140), (244, 226, 186), (255, 242, 210), (188, 164, 124),
        (94, 74, 58), (176, 74, 54), (226, 180, 98),
    ),
}  # fmt: skip

# An hour beats a place: a harbour at sunset is red.
_HOURS: dict[str, str] = {
    "sunset": "sunset dusk evening twilight hour candlelight",
    "dawn": "dawn sunrise morning pastel dreamy soft cherry blossom lavender",
    "night": "night midnight moon moonlit moonlight stars starry dark space galaxy aurora",
    "storm": "storm stormy fog foggy mist misty rain rainy noir moody",
    "winter": "winter snow snowy ice icy arctic frozen glacier",
    "autumn": "autumn fall october harvest",
    "neon": "neon cyberpunk synthwave futuristic hologram vaporwave",
}
_PLACES: dict[str, str] = {
    "forest": "forest woods jungle moss rainforest garden",
    "desert": "desert dune dunes sahara canyon mars sand",
    "ocean": "ocean sea beach lake underwater coast tropical harbour harbor",
    "studio": "studio product minimal minimalist packshot isolated",
    "vintage": "vintage retro film watercolor watercolour antique kitchen cozy cosy living",
    "day": "day sunny spring summer noon meadow field",
}
_MOOD_OF_HOUR = {word: mood for mood, words in _HOURS.items() for word in words.split()}
_MOOD_OF_PLACE = {word: mood for mood, words in _PLACES.items() for word in words.split()}

_NAMED: dict[str, Colour] = {
    "red": (206, 50, 48), "crimson": (172, 26, 52), "orange": (240, 130, 44),
    "yellow": (250, 208, 70), "gold": (220, 170, 60), "green": (70, 152, 86),
    "emerald": (20, 140, 104), "teal": (28, 144, 146), "turquoise": (56, 190, 186),
    "blue": (54, 108, 200), "navy": (26, 44, 96), "purple": (122, 70, 170),
    "violet": (140, 86, 196), "pink": (240, 140, 176), "brown": (128, 84, 56),
    "beige": (222, 204, 176), "white": (246, 246, 242), "black": (40, 40, 46),
    "silver": (188, 194, 202), "lavender": (176, 152, 216), "coral": (250, 122, 98),
}  # fmt: skip


def palette_for(words: Sequence[str], *, fallback: str, chance: Random) -> Palette:
    """Return the palette of a text, a little different for each state of `chance`.

    The first word for an hour or the weather decides the mood, or else for a place, or else
    `fallback`; the first word for a colour becomes the accent and tints the air.
    """
    moods = [
        table[word] for table in (_MOOD_OF_HOUR, _MOOD_OF_PLACE) for word in words if word in table
    ]
    mood = moods[0] if moods else fallback
    palette = _MOODS[mood].turned(
        chance.uniform(-0.025, 0.025), saturation=chance.uniform(0.9, 1.12)
    )
    named = [_NAMED[word] for word in words if word in _NAMED]
    if not named:
        return palette
    tint = 0.4 if mood == "studio" else 0.16
    return replace(
        palette,
        sky=mixed(palette.sky, named[0], tint),
        horizon=mixed(palette.horizon, named[0], tint / 2),
        far=mixed(palette.far, named[0], tint),
        accent=named[0],
        spark=named[1] if len(named) > 1 else palette.spark,
    )


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """Return the colour that lies `share` (0 to 1) of the way from `one` to `other`."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


def _turned(colour: Colour, hue: float, saturation: float) -> Colour:
    h, s, v = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    red, green, blue = colorsys.hsv_to_rgb((h + hue) % 1, min(1.0, s * saturation), v)
    return round(red * 255), round(green * 255), round(blue * 255)
