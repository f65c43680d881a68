"""The thing a picture is of, drawn in a few flat shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import cos, pi, sin

from imagepipeline_dagster.emulator.brush import Brush
from imagepipeline_dagster.emulator.palettes import Colour, mixed

__all__ = ["INDOORS", "subject_of"]

_WHITE: Colour = (250, 248, 244)
_DARK: Colour = (44, 40, 48)
_SKIN: tuple[Colour, ...] = ((244, 208, 178), (222, 172, 134), (164, 112, 80), (110, 74, 54))


def _boat(brush: Brush) -> None:
    hull = brush.palette.accent
    brush.shape((-0.46, 0.2), (0.46, 0.2), (0.3, 0), (-0.34, 0), fill=hull)
    brush.shape((-0.46, 0.2), (0.46, 0.2), (0.43, 0.15), (-0.43, 0.15), fill=_WHITE)
    brush.block((-0.015, 0.2), (0.015, 0.95), fill=mixed(_DARK, hull, 0.3))
    brush.shape((0.04, 0.27), (0.04, 0.92), (0.4, 0.27), fill=_WHITE)
    brush.shape((-0.04, 0.27), (-0.04, 0.8), (-0.32, 0.27), fill=brush.palette.spark)


def _house(brush: Brush) -> None:
    wall = mixed(_WHITE, brush.palette.glow, 0.5)
    window = brush.palette.spark
    brush.block((-0.38, 0), (0.38, 0.5), fill=wall)
    brush.shape((-0.48, 0.48), (0.48, 0.48), (0, 0.9), fill=brush.palette.accent)
    brush.block((0.16, 0.66), (0.26, 0.94), fill=mixed(brush.palette.accent, _DARK, 0.4))
    brush.block((-0.08, 0), (0.1, 0.32), fill=mixed(brush.palette.near, _DARK, 0.3))
    for x in (-0.3, 0.18):
        brush.block((x, 0.18), (x + 0.14, 0.34), fill=window)


def _tree(brush: Brush) -> None:
    leaf = mixed(brush.palette.accent, brush.palette.near, 0.35)
    brush.shape((-0.06, 0), (0.06, 0), (0.03, 0.55), (-0.03, 0.55), fill=(92, 64, 48))
    for x, y, r in ((0, 0.72, 0.27), (-0.2, 0.56, 0.2), (0.2, 0.58, 0.2), (0.05, 0.5, 0.18)):
        brush.oval((x, y), (r, r), fill=mixed(leaf, brush.palette.spark, y - 0.45))


def _flower(brush: Brush) -> None:
    for lean, tall in ((-0.22, 0.62), (0.24, 0.7), (0, 0.86)):
        stem = mixed((70, 130, 76), brush.palette.near, 0.3)
        brush.line((0, 0), (lean * 0.7, tall * 0.5), (lean, tall), width=0.022, fill=stem)
        petal = mixed(brush.palette.accent, brush.palette.spark, abs(lean) * 2)
        for k in range(7):
            turn = 2 * pi * k / 7
            spot = (lean + 0.1 * cos(turn), tall + 0.1 * sin(turn))
            brush.oval(spot, (0.065, 0.065), fill=petal)
        brush.oval((lean, tall), (0.06, 0.06), fill=mixed(brush.palette.spark, _WHITE, 0.3))


def _bottle(brush: Brush) -> None:
    glass = brush.palette.accent
    brush.block((-0.19, 0), (0.19, 0.64), fill=glass, round_by=0.07)
    brush.block((-0.07, 0.58), (0.07, 0.84), fill=mixed(glass, _WHITE, 0.15), round_by=0.02)
    brush.block((-0.085, 0.8), (0.085, 0.94), fill=_DARK, round_by=0.02)
    brush.block((-0.19, 0.16), (0.19, 0.44), fill=_WHITE)
    brush.block((-0.1, 0.27), (0.1, 0.32), fill=brush.palette.spark)
    brush.block((-0.15, 0.07), (-0.11, 0.58), fill=mixed(glass, _WHITE, 0.45), round_by=0.02)


def _cup(brush: Brush) -> None:
    body = brush.palette.accent
    brush.oval((0.3, 0.33), (0.17, 0.17), fill=body)
    brush.oval((0.3, 0.33), (0.1, 0.1), fill=mixed(brush.palette.horizon, body, 0.12))
    brush.shape((-0.36, 0.58), (0.3, 0.58), (0.22, 0.04), (-0.28, 0.04), fill=body)
    brush.oval((-0.03, 0.05), (0.25, 0.05), fill=body)
    brush.oval((-0.03, 0.58), (0.33, 0.09), fill=mixed(body, _WHITE, 0.35))
    brush.oval((-0.03, 0.57), (0.28, 0.065), fill=(92, 58, 40))
    for x in (-0.16, -0.02, 0.12):
        steam = [(x + 0.03 * sin(k * 1.5), 0.66 + 0.05 * k) for k in range(6)]
        brush.line(*steam, width=0.018, fill=mixed(brush.palette.horizon, _WHITE, 0.7))


def _bowl(brush: Brush) -> None:
    body = brush.palette.accent
    brush.oval((0, 0.22), (0.46, 0.22), fill=mixed(body, _DARK, 0.12))
    brush.oval((0, 0.36), (0.47, 0.17), fill=mixed(body, _WHITE, 0.25))
    brush.oval((0, 0.36), (0.42, 0.135), fill=mixed(brush.palette.spark, (210, 140, 70), 0.5))
    for k in range(16):
        turn, far = brush.chance.uniform(0, 2 * pi), brush.chance.uniform(0.05, 0.85)
        colour = ((240, 226, 180), (92, 150, 74), (206, 72, 54), (250, 210, 110))[k % 4]
        brush.oval(
            (0.37 * far * cos(turn), 0.36 + 0.11 * far * sin(turn)), (0.05, 0.03), fill=colour
        )


def _person(brush: Brush) -> None:
    skin = brush.chance.choice(_SKIN)
    dress = mixed(brush.palette.spark, _WHITE, 0.35)
    hair = mixed(brush.palette.accent, _DARK, brush.chance.uniform(0.05, 0.35))
    brush.oval((0, 0.6), (0.27, 0.31), fill=hair)
    brush.block((-0.27, 0.28), (0.27, 0.6), fill=hair, round_by=0.08)
    brush.oval((0, 0.02), (0.44, 0.32), fill=dress)
    brush.block((-0.085, 0.24), (0.085, 0.48), fill=mixed(skin, _DARK, 0.14), round_by=0.03)
    brush.oval((0, 0.57), (0.19, 0.235), fill=skin)
    brush.oval((-0.06, 0.785), (0.2, 0.1), fill=hair)
    for x in (-0.075, 0.075):
        brush.oval((x, 0.575), (0.022, 0.026), fill=_DARK)
        brush.line((x - 0.035, 0.635), (x + 0.035, 0.64), width=0.012, fill=mixed(hair, _DARK, 0.4))
    brush.oval((0, 0.455), (0.05, 0.018), fill=(190, 84, 82))
    brush.shape((-0.44, 0), (0.44, 0), (0.44, -0.3), (-0.44, -0.3), fill=dress)


def _pet(brush: Brush, *, floppy: bool) -> None:
    coat = mixed(brush.palette.accent, brush.chance.choice(((224, 170, 104), (120, 96, 84))), 0.6)
    pale = mixed(coat, _WHITE, 0.55)
    tail = ((0.22, 0.08), (0.42, 0.16), (0.4, 0.4))
    brush.line(*tail, width=0.075, fill=coat)
    brush.oval((0, 0.24), (0.27, 0.27), fill=coat)
    brush.oval((0, 0.2), (0.14, 0.2), fill=pale)
    if not floppy:
        for side in (-1, 1):
            brush.shape((side * 0.22, 0.98), (side * 0.04, 0.84), (side * 0.23, 0.72), fill=coat)
    brush.oval((0, 0.68), (0.24, 0.21), fill=coat)
    if floppy:
        for side in (-1, 1):
            brush.oval((side * 0.22, 0.65), (0.075, 0.17), fill=mixed(coat, _DARK, 0.3))
    brush.oval((0, 0.6), (0.11, 0.09), fill=pale)
    brush.oval((0, 0.645), (0.035, 0.025), fill=_DARK)
    for side in (-1, 1):
        brush.oval((side * 0.09, 0.73), (0.03, 0.034), fill=_DARK)
        brush.oval((side * 0.09 + 0.01, 0.74), (0.009, 0.01), fill=_WHITE)
        brush.oval((side * 0.12, 0.03), (0.09, 0.045), fill=pale)


def _cat(brush: Brush) -> None:
    _pet(brush, floppy=False)


def _dog(brush: Brush) -> None:
    _pet(brush, floppy=True)


def _car(brush: Brush) -> None:
    paint = brush.palette.accent
    brush.shape((-0.28, 0.3), (-0.16, 0.5), (0.14, 0.5), (0.28, 0.3), fill=paint)
    brush.shape((-0.2, 0.3), (-0.12, 0.45), (0.1, 0.45), (0.2, 0.3), fill=(196, 222, 234))
    brush.block((-0.01, 0.3), (0.015, 0.46), fill=paint)
    brush.block((-0.5, 0.1), (0.5, 0.32), fill=paint, round_by=0.08)
    brush.block((-0.5, 0.1), (0.5, 0.15), fill=mixed(paint, _DARK, 0.35))
    brush.oval((0.46, 0.24), (0.03, 0.03), fill=brush.palette.spark)
    for x in (-0.29, 0.29):
        brush.oval((x, 0.1), (0.11, 0.11), fill=_DARK)
        brush.oval((x, 0.1), (0.05, 0.05), fill=(190, 194, 200))


def _balloon(brush: Brush) -> None:
    brush.lift(0.35)
    for k, width in enumerate((0.36, 0.27, 0.16, 0.06)):
        stripe = brush.palette.accent if k % 2 == 0 else brush.palette.spark
        brush.oval((0, 0.68), (width, 0.32), fill=stripe)
    for x in (-0.1, 0.1):
        brush.line((x * 2, 0.44), (x, 0.2), width=0.012, fill=_DARK)
    brush.block((-0.11, 0.08), (0.11, 0.22), fill=(134, 92, 58), round_by=0.02)


def _shoe(brush: Brush) -> None:
    upper = brush.palette.accent
    brush.shape(
        (-0.46, 0.1), (-0.46, 0.46), (-0.3, 0.5), (-0.16, 0.42), (0.06, 0.32), (0.3, 0.24),
        (0.46, 0.18), (0.48, 0.08), fill=upper,
    )  # fmt: skip
    brush.block((-0.49, 0.02), (0.5, 0.12), fill=_WHITE, round_by=0.04)
    brush.shape((-0.36, 0.12), (-0.1, 0.12), (0.12, 0.28), (0.04, 0.31), fill=brush.palette.spark)
    for k in range(4):
        x, y = -0.12 + 0.075 * k, 0.42 - 0.04 * k
        brush.line((x - 0.035, y - 0.06), (x + 0.035, y + 0.01), width=0.02, fill=_WHITE)


def _chair(brush: Brush) -> None:
    cloth = brush.palette.accent
    for x in (-0.34, 0.28):
        brush.block((x, 0), (x + 0.06, 0.16), fill=(110, 78, 56))
    brush.block((-0.36, 0.3), (0.36, 0.84), fill=mixed(cloth, _DARK, 0.12), round_by=0.1)
    brush.block((-0.34, 0.14), (0.34, 0.42), fill=cloth, round_by=0.06)
    for x in (-0.46, 0.3):
        brush.block((x, 0.12), (x + 0.16, 0.54), fill=mixed(cloth, _WHITE, 0.14), round_by=0.07)
    brush.block((-0.18, 0.4), (0.18, 0.66), fill=brush.palette.spark, round_by=0.04)


def _tower(brush: Brush) -> None:
    rock = mixed(brush.palette.near, (120, 112, 108), 0.4)
    brush.oval((-0.06, 0), (0.4, 0.1), fill=rock)
    brush.oval((0.1, 0.01), (0.26, 0.08), fill=mixed(rock, _WHITE, 0.15))
    corners = [(-0.15 + 0.018 * k, 0.155 * k) for k in range(6)]
    for k, (left, low) in enumerate(corners[:5]):
        stripe = brush.palette.accent if k % 2 else _WHITE
        upper = corners[k + 1]
        brush.shape((left, low), (-left, low), (-upper[0], upper[1]), upper, fill=stripe)
    brush.block((-0.1, 0.76), (0.1, 0.79), fill=_DARK)
    brush.block((-0.06, 0.79), (0.06, 0.9), fill=brush.palette.spark)
    brush.shape((-0.09, 0.9), (0.09, 0.9), (0, 1), fill=brush.palette.accent)


def _castle(brush: Brush) -> None:
    stone = mixed((176, 172, 176), brush.palette.far, 0.45)
    brush.block((-0.34, 0), (0.34, 0.4), fill=stone)
    for x, tall in ((-0.4, 0.62), (0.26, 0.56), (-0.09, 0.74)):
        brush.block((x, 0), (x + 0.16, tall), fill=mixed(stone, _DARK, 0.14 if x < 0 else 0.22))
        brush.shape(
            (x - 0.03, tall), (x + 0.19, tall), (x + 0.08, tall + 0.24), fill=brush.palette.accent
        )
        brush.block((x + 0.055, tall - 0.18), (x + 0.105, tall - 0.07), fill=brush.palette.spark)
    brush.block((-0.07, 0), (0.07, 0.18), fill=_DARK, round_by=0.05)


def _robot(brush: Brush) -> None:
    shell = mixed(brush.palette.accent, (196, 206, 214), 0.5)
    for x in (-0.17, 0.05):
        brush.block((x, 0), (x + 0.12, 0.2), fill=mixed(shell, _DARK, 0.4), round_by=0.02)
    for x in (-0.36, 0.27):
        brush.block((x, 0.2), (x + 0.09, 0.5), fill=mixed(shell, _DARK, 0.25), round_by=0.04)
    brush.block((-0.26, 0.16), (0.26, 0.56), fill=shell, round_by=0.06)
    brush.block((-0.14, 0.28), (0.14, 0.44), fill=brush.palette.spark, round_by=0.03)
    brush.line((0, 0.86), (0, 0.97), width=0.02, fill=_DARK)
    brush.oval((0, 0.97), (0.03, 0.03), fill=brush.palette.accent)
    brush.block((-0.22, 0.6), (0.22, 0.88), fill=mixed(shell, _WHITE, 0.25), round_by=0.07)
    for x in (-0.1, 0.1):
        brush.oval((x, 0.74), (0.055, 0.055), fill=_DARK)
        brush.oval((x + 0.012, 0.75), (0.022, 0.022), fill=brush.palette.spark)


_Drawer = Callable[[Brush], None]

_SUBJECTS: dict[str, _Drawer] = {
    word: drawer
    for drawer, words in {
        _boat: "boat rowboat sailboat ship yacht sailing fishing ferry trawler tugboat",
        _house: "house cabin cottage barn farmhouse hut home",
        _tree: "tree oak maple bonsai blossom",
        _flower: "flower flowers rose tulip tulips bouquet sunflower sunflowers orchid poppies",
        _bottle: "bottle perfume wine cosmetic serum vase shampoo jar",
        _cup: "cup coffee mug tea espresso latte cappuccino teapot",
        _bowl: "bowl ramen soup salad noodles food breakfast pasta curry dish",
        _person: """
            woman man person girl boy portrait face astronaut samurai model child queen king baker
            potter cellist student fisherman gardener astronomer dancer chef nurse teacher""",
        _cat: "cat kitten fox wolf lynx",
        _dog: "dog puppy retriever bear corgi labrador",
        _car: "car automobile taxi truck convertible porsche van",
        _balloon: "balloon balloons airship",
        _shoe: "shoe shoes sneaker sneakers trainers boot boots",
        _chair: "chair armchair sofa couch seat",
        _tower: "lighthouse tower minaret",
        _castle: "castle palace fortress temple cathedral",
        _robot: "robot android cyborg droid mech",
    }.items()
    for word in words.split()
}

INDOORS = frozenset({_bottle, _cup, _bowl, _shoe, _chair})
"""What belongs in a studio unless the text names a landscape."""


def subject_of(words: Sequence[str]) -> _Drawer | None:
    """Return what draws the first thing that a text names: of a car ferry the ferry."""
    for word, after in pairwise([*words, ""]):
        if word in _SUBJECTS:
            compound = _SUBJECTS.get(after, _person)
            return _SUBJECTS[word] if compound is _person else compound
    return None
