"""The emulator's pictures: a scene of the request's words and seed, marked EMULATED, as PNG."""

from __future__ import annotations

import re
import struct
import zlib
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from math import pi, sin
from random import Random
from typing import NamedTuple, TypeVar

from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from imagepipeline_dagster.api.contract import GenerationRequest, Task, canonical_json

Colour = tuple[int, ...]
Size = tuple[int, int]
ValueT = TypeVar("ValueT")

_USUAL_STRENGTH = {Task.IMAGE2IMAGE: 0.6, Task.INPAINTING: 1.0}


def draw_png(
    request: GenerationRequest,
    *,
    seed: int,
    sample_index: int,
    init: Image.Image | None = None,
    mask: Image.Image | None = None,
    image_bytes: int | None = None,
) -> bytes:
    """Return one sample as PNG, RGB, of the size asked for; equal arguments give equal bytes.

    Args:
        request: What was asked; its fields, bar the safety checker, all leave their mark.
        seed: The seed of the call, the request's own or a random one.
        sample_index: Which sample of the call, from 0.
        init: The picture to start from, for image2image and inpainting.
        mask: What to paint anew of it (white), for inpainting.
        image_bytes: About how many bytes to return. A picture of words alone then differs from all
            others in its palette alone: a benchmark can have thousands.
    """
    # Whether the picture was checked is no part of it.
    content = request.model_dump(exclude={"safety_checker"}, exclude_none=True)
    content |= {"task": request.task, "seed": seed, "sample_index": sample_index}
    key = blake2b(canonical_json(content).encode(), digest_size=16).hexdigest()
    if image_bytes is not None and init is None:
        return _padded(_cheap_png(_size(request), key), image_bytes, key)
    picture = draw_scene(request.prompt, size=_size(request), seed=key)
    if init is not None:
        start = ImageOps.fit(init, picture.size)
        strength = request.strength
        usual = _USUAL_STRENGTH[request.task]
        picture = Image.blend(start, picture, usual if strength is None else strength)
        if mask is not None:
            where = ImageOps.fit(mask.convert("L"), picture.size)
            picture = Image.composite(picture, start, where)
    _stamp(picture)
    return _png(picture) if image_bytes is None else _padded(_png(picture), image_bytes, key)


def black_png(request: GenerationRequest) -> bytes:
    """Return what a safety checker leaves of a picture: black all over, and unmarked."""
    return _png(Image.new("RGB", _size(request)))


def badge_box(size: Size) -> tuple[int, int, int, int]:
    """Return where the EMULATED mark lies in a picture of `size`: left, top, right, bottom."""
    badge = _badge(min(size))
    margin = round(min(size) * 0.02)
    top = size[1] - margin - badge.height
    return margin, top, margin + badge.width, top + badge.height


def _size(request: GenerationRequest) -> Size:
    return request.width or 768, request.height or 768


class _Mood(NamedTuple):
    """The colours of a scene, from the top of the sky down to the ground at one's feet."""

    sky: Colour
    horizon: Colour
    far: Colour
    near: Colour
    lamp: Colour


_DAY = _Mood((92, 160, 226), (214, 230, 236), (140, 176, 150), (46, 88, 56), (255, 240, 190))
_DUSK = _Mood((62, 50, 112), (250, 160, 100), (150, 88, 104), (44, 26, 46), (255, 226, 160))
_NIGHT = _Mood((8, 12, 34), (36, 48, 88), (22, 30, 56), (8, 10, 22), (236, 232, 206))
_ROOM = _Mood((226, 218, 206), (242, 238, 230), (206, 192, 176), (164, 142, 120), (255, 255, 250))

_Shapes = tuple[tuple[str, str, tuple[float, ...]], ...]
"""What is drawn, in which colour, and where: x from -0.5 to 0.5, y from 0, the ground, up to 1."""

_BOAT: _Shapes = (
    ("polygon", "accent", (-0.5, 0.24, 0.5, 0.24, 0.34, 0, -0.36, 0)),
    ("rectangle", "dark", (-0.02, 0.24, 0.02, 1)),
    ("polygon", "lamp", (0.05, 0.3, 0.4, 0.3, 0.05, 0.95)),
    ("polygon", "lamp", (-0.05, 0.3, -0.3, 0.3, -0.05, 0.8)),
)
_TOWER: _Shapes = (
    ("polygon", "accent", (-0.14, 0, 0.14, 0, 0.09, 0.8, -0.09, 0.8)),
    ("rectangle", "lamp", (-0.07, 0.8, 0.07, 0.9)),
    ("polygon", "dark", (-0.11, 0.9, 0.11, 0.9, 0, 1)),
)
_TREE: _Shapes = (
    ("rectangle", "dark", (-0.05, 0, 0.05, 0.5)),
    ("ellipse", "accent", (-0.34, 0.3, 0.34, 1)),
)
_PERSON: _Shapes = (
    ("ellipse", "dark", (-0.17, 0.54, 0.17, 1)),
    ("polygon", "accent", (-0.36, 0, 0.36, 0, 0.28, 0.46, 0, 0.56, -0.28, 0.46)),
    ("ellipse", "skin", (-0.13, 0.5, 0.13, 0.94)),
)
_ANIMAL: _Shapes = (
    ("ellipse", "accent", (-0.32, 0, 0.26, 0.6)),
    ("polygon", "accent", (0.04, 0.7, 0.1, 1, 0.21, 0.8, 0.36, 1, 0.38, 0.7)),
    ("ellipse", "accent", (0.02, 0.48, 0.4, 0.86)),
)
_VESSEL: _Shapes = (
    ("ellipse", "dark", (0.2, 0.24, 0.48, 0.6)),
    ("ellipse", "accent", (-0.36, 0, 0.36, 0.74)),
    ("rectangle", "accent", (-0.14, 0.66, 0.14, 0.82)),
)


def _by_word(*table: tuple[ValueT, str]) -> dict[str, ValueT]:
    return {word: value for value, words in table for word in words.split()}


_MOODS = _by_word(
    (_NIGHT, "night midnight moon moonlight stars aurora space dark"),
    (_DUSK, "dusk dawn sunset sunrise evening autumn"),
    (_ROOM, "studio product backdrop table interior kitchen desk wall shelf portrait headshot"),
)
_SUBJECTS = _by_word(
    (_BOAT, "boat boats rowboat sailboat ship yacht ferry trawler raft"),
    (_TOWER, "lighthouse tower castle cranes telescope rocket house church"),
    (_TREE, "tree trees forest oak flower flowers bouquet plant seedlings"),
    (_PERSON, "woman man baker potter cellist fisherman student gardener astronomer portrait face"),
    (_ANIMAL, "cat dog fox bear wolf rabbit horse kitten puppy"),
    (_VESSEL, "teapot pot bowl bowls vase cup jug lamp basket lantern apple"),
)
_LANDS = _by_word(
    ("sea", "sea ocean lake river harbour harbor coast bay quay pier beach water"),
    ("city", "city street skyline town downtown london paris tokyo"),
    ("peaks", "mountain mountains alps peak cliff canyon"),
    ("hills", "hill hills meadow field desert dunes garden park"),
)


def draw_scene(text: str, *, size: Size, seed: str | int) -> Image.Image:
    """Return the scene of `text` as RGB of `size` pixels; equal arguments give equal pixels."""
    words = re.findall(r"[^\W_]+", text.lower())
    chance = chance_of(f"{' '.join(words)} {seed}")
    subject = _first(words, _SUBJECTS)
    mood = _first(words, _MOODS) or (_ROOM if subject is _VESSEL else _DAY)
    land = _first(words, _LANDS) or chance.choice(("hills", "peaks"))
    land = {_BOAT: "sea"}.get(subject or (), "floor" if mood is _ROOM else land)
    named = next((word for word in words if word in ImageColor.colormap), None)
    hue = f"hsl({chance.randrange(360)}, {chance.randrange(40, 70)}%, 46%)"
    accent = ImageColor.getrgb(named or hue)
    mood = _Mood(*(_mixed(colour, accent, 0.3 if named else 0.12) for colour in mood))
    sky = Image.new("RGB", (1, 3), mood.horizon)
    sky.putpixel((0, 0), mood.sky)
    picture = sky.resize((1, size[1]), Image.Resampling.BILINEAR).resize(size)
    pen = ImageDraw.Draw(picture)
    lamp = size[0] * chance.uniform(0.12, 0.88), size[1] * chance.uniform(0.1, 0.34)
    for reach, share in ((0.1, 0.4), (0.07, 1.0)):
        pen.circle(lamp, min(size) * reach, fill=_mixed(mood.horizon, mood.lamp, share))
    ground = _draw_land(pen, size, mood, land=land, chance=chance)
    colours = mood._asdict() | {"accent": accent, "skin": (226, 178, 148), "dark": (36, 30, 38)}
    scale = min(size) * chance.uniform(0.46, 0.6)
    left, turned = size[0] * chance.uniform(0.36, 0.64), scale * chance.choice((1, -1))
    for shape, colour, places in subject or ():
        xs = [left + turned * x for x in places[::2]]
        ys = [ground - scale * y for y in places[1::2]]
        if shape != "polygon":
            xs, ys = sorted(xs), sorted(ys)
        getattr(pen, shape)(list(zip(xs, ys, strict=True)), fill=colours[colour])
    return picture


def _first(words: list[str], table: dict[str, ValueT]) -> ValueT | None:
    return next((table[word] for word in words if word in table), None)


def _draw_land(
    pen: ImageDraw.ImageDraw, size: Size, mood: _Mood, *, land: str, chance: Random
) -> float:
    """Draw ridges from the haze to the foreground; return where the ground is, from the top."""
    width, height = size
    levels = (0.62,) if land in ("sea", "floor") else (0.56, 0.7, 0.84)
    for level in levels:
        pitch, phase = chance.uniform(0.8, 2.2), chance.uniform(0, 2 * pi)
        rises = [0.0] * 33
        if land == "hills":
            rises = [sin(2 * pi * pitch * x / 32 + phase) for x in range(33)]
        elif land == "peaks":
            rises = [chance.uniform(0.3, 2.4) if x % 4 == 2 else x % 2 / 3 for x in range(33)]
        elif land == "city":
            rises = [chance.uniform(0, 2.4) for _ in range(33)]
        ridge = [(width * x / 32, height * (level - 0.09 * rises[x])) for x in range(33)]
        if land == "city":
            ridge = [(x + aside, y) for x, y in ridge for aside in (0, width / 32)]
        shade = _mixed(mood.far, mood.near, (level - 0.5) * 2.5)
        pen.polygon([*ridge, (width, height), (0, height)], fill=shade)
    for _ in range(40 if land == "sea" else 0):
        x, y = chance.uniform(0, width), chance.uniform(height * 0.66, height)
        pen.line((x, y, x + width * 0.08, y), fill=mood.horizon, width=max(1, height // 200))
    return height * 0.82


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _stamp(picture: Image.Image) -> None:
    picture.paste(badge := _badge(min(picture.size)), badge_box(picture.size)[:2], badge)


@lru_cache(maxsize=8)
def _badge(side: int) -> Image.Image:
    """Return the mark for a picture with this shorter side: legible in a 128 px tile of it."""
    font = ImageFont.load_default(max(6.0, side * 0.075))
    left, top, right, bottom = font.getbbox("EMULATED")
    pad = round(side * 0.018)
    size = (round(right - left) + 2 * pad, round(bottom - top) + 2 * pad)
    badge = Image.new("RGBA", size)
    pen = ImageDraw.Draw(badge)
    pen.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), pad, fill=(16, 18, 26, 205))
    pen.text((pad - left, pad - top), "EMULATED", font=font, fill=(255, 255, 255, 255))
    return badge


_SIDES = _by_word(
    ((0.0, 0.0, 0.5, 1.0), "left"),
    ((0.5, 0.0, 1.0, 1.0), "right"),
    ((0.0, 0.0, 1.0, 0.5), "top sky"),
    ((0.0, 0.5, 1.0, 1.0), "bottom ground"),
)


def draw_mask(text: str, *, size: Size) -> Image.Image:
    """Return the mask (mode L; white is painted anew) of a side, or the centre, as a text says.

    `circle` rounds it; `border` is what lies around it.
    """
    words = re.findall(r"[a-z]+", text.lower())
    box = _first(words, _SIDES) or (0.25, 0.25, 0.75, 0.75)
    left, top, right, bottom = (round(a * b) for a, b in zip(box, size * 2, strict=True))
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    shape = pen.ellipse if "circle" in words else pen.rectangle
    shape((left, top, right - 1, bottom - 1), fill=255)
    return ImageOps.invert(mask) if "border" in words else mask


def _png(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _cheap_png(size: Size, key: str) -> bytes:
    png, tint = _template(size), bytes.fromhex(key)
    at = png.index(b"PLTE") + 4
    end = at + int.from_bytes(png[at - 8 : at - 4], "big")
    # Brighter by a little: the mark stays legible.
    palette = bytes(min(255, v + tint[n % 3] % 48) for n, v in enumerate(png[at:end]))
    return png[: at - 8] + _chunk(b"PLTE", palette) + png[end + 4 :]


@lru_cache(maxsize=4)
def _template(size: Size) -> bytes:
    _stamp(picture := draw_scene("hills at dusk", size=size, seed=0))
    return _png(picture.quantize(64))


def _padded(png: bytes, image_bytes: int, key: str) -> bytes:
    """Return the PNG with a private chunk before its pixels, so that a cut always costs pixels."""
    at = png.index(b"IDAT") - 4
    padding = key.encode() + bytes(max(0, image_bytes - len(png) - 12 - len(key)))
    return png[:at] + _chunk(b"ipNo", padding) + png[at:]


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def chance_of(purpose: str) -> Random:
    """Return a source of chance that is the same for the same purpose."""
    return Random(purpose)  # noqa: S311 - repeatable, not secret
