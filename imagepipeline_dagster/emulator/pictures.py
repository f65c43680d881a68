"""The picture of one sample: drawn from the request's words and seed, marked EMULATED, as PNG."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from itertools import chain
from random import Random

from PIL import Image, ImageDraw, ImageFont, ImageOps

from imagepipeline_dagster.api.contract import GenerationRequest, Task, canonical_json
from imagepipeline_dagster.emulator.palettes import mixed
from imagepipeline_dagster.emulator.scenery import Style, draw_scene, palette_of

__all__ = ["badge_box", "black_png", "draw_png"]

Size = tuple[int, int]

_DEFAULT_SIDE = 768
_DRAWN_SIDES = (64, 768)
"""Scenes are drawn within these sides, in pixels, and scaled to what lies outside of them."""
_USUAL_STRENGTH = {Task.IMAGE2IMAGE: 0.6, Task.INPAINTING: 1.0}
_BADGE_GROUND, _BADGE_TEXT = 0, 255
"""The places in a cheap picture's palette that belong to the mark alone."""
_NOISE_CHUNK = b"ipNo"
"""An ancillary, private chunk: every reader of PNG passes over it."""


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
        image_bytes: About how many bytes to return. A picture of words alone is then a cheap one of
            a palette (mode P), so that thousands can be had in a benchmark.
    """
    key = _identity(request, seed=seed, sample_index=sample_index)
    if image_bytes is not None and init is None:
        return _padded(_cheap_png(_size(request), key), image_bytes, key)
    picture = _picture(request, key, init=init, mask=mask)
    _stamp(picture)
    png = _png(picture)
    return png if image_bytes is None else _padded(png, image_bytes, key)


def black_png(request: GenerationRequest) -> bytes:
    """Return what a safety checker leaves of a picture: black all over, and unmarked."""
    return _png(Image.new("RGB", _size(request)))


def badge_box(size: Size) -> tuple[int, int, int, int]:
    """Return where the EMULATED mark lies in a picture of `size`: left, top, right, bottom."""
    badge = _badge(min(size))
    margin = round(min(size) * 0.02)
    top = size[1] - margin - badge.height
    return margin, top, margin + badge.width, top + badge.height


def _identity(request: GenerationRequest, *, seed: int, sample_index: int) -> str:
    """Return what the picture depends on, hashed; whether it was checked is not part of it."""
    told = {
        **request.model_dump(exclude={"safety_checker"}, exclude_none=True),
        "task": request.task,
        "seed": seed,
        "sample_index": sample_index,
    }
    return blake2b(canonical_json(told).encode(), digest_size=16).hexdigest()


def _size(request: GenerationRequest) -> Size:
    return request.width or _DEFAULT_SIDE, request.height or _DEFAULT_SIDE


def _picture(
    request: GenerationRequest, key: str, *, init: Image.Image | None, mask: Image.Image | None
) -> Image.Image:
    size = _size(request)
    scene = _scene(request, key, size)
    if init is None:
        return scene
    start = ImageOps.fit(init, size)
    usual = _USUAL_STRENGTH[request.task]
    strength = usual if request.strength is None else request.strength
    painted = _reimagined(start, scene, request.prompt, key=key, strength=strength)
    if mask is None:
        return painted
    return Image.composite(painted, start, ImageOps.fit(mask.convert("L"), size))


def _scene(request: GenerationRequest, key: str, size: Size) -> Image.Image:
    least, most = _DRAWN_SIDES
    scale = min(1.0, most / max(size))
    drawn = (max(least, round(size[0] * scale)), max(least, round(size[1] * scale)))
    scene = draw_scene(request.prompt, size=drawn, seed=key, style=_style(request))
    return scene if drawn == size else scene.resize(size, Image.Resampling.BICUBIC)


def _style(request: GenerationRequest) -> Style:
    """Return how the fields other than the prompt change its picture, each in a way of its own."""
    negative = _chance(f"negative {request.negative_prompt}") if request.negative_prompt else None
    learned = _chance(f"embedding {request.embeddings}") if request.embeddings else None
    guidance = 7.5 if request.guidance_scale is None else request.guidance_scale
    return Style(
        hue=(negative.uniform(-0.02, 0.02) if negative else 0.0)
        + (learned.uniform(-0.07, 0.07) if learned else 0.0),
        saturation=0.85 + 0.02 * min(guidance, 15.0),
        rings=learned.randint(2, 6) if learned else 0,
    )


def _reimagined(
    start: Image.Image, scene: Image.Image, prompt: str, *, key: str, strength: float
) -> Image.Image:
    """Return `start` (at strength 0) on its way to `scene` (at 1), first taking on its colours."""
    palette = palette_of(prompt, seed=key)
    toned = ImageOps.colorize(
        start.convert("L"), black=palette.near, mid=palette.far, white=palette.glow
    )
    recoloured = Image.blend(start, toned, min(1.0, strength * 1.2))
    return Image.blend(recoloured, scene, strength**2)


def _stamp(picture: Image.Image) -> None:
    badge = _badge(min(picture.size))
    picture.paste(badge, badge_box(picture.size)[:2], badge)


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


def _png(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


# Benchmark mode: thousands of distinct files at next to no cost


def _cheap_png(size: Size, key: str) -> bytes:
    """Return a picture whose pixels are shared by all and whose palette belongs to `key`."""
    before, after = _template(size)
    chance = _chance(key)
    dark = (chance.randrange(90), chance.randrange(90), chance.randrange(90))
    light = (chance.randrange(150, 256), chance.randrange(150, 256), chance.randrange(150, 256))
    tones = [mixed(dark, light, tone / 255) for tone in range(256)]
    tones[_BADGE_GROUND], tones[_BADGE_TEXT] = (16, 18, 26), (255, 255, 255)
    return before + _chunk(b"PLTE", bytes(chain.from_iterable(tones))) + after


@lru_cache(maxsize=4)
def _template(size: Size) -> tuple[bytes, bytes]:
    """Return a PNG of mode P without its palette: what stands before and after it."""
    scene = draw_scene("hills at sunset", size=size, seed="template")
    tones = ImageOps.autocontrast(scene.convert("L"))
    tones = tones.point(lambda tone: min(max(tone, _BADGE_GROUND + 1), _BADGE_TEXT - 1))
    badge = _badge(min(size))
    mark = badge.convert("L").point(lambda tone: _BADGE_TEXT if tone > 128 else _BADGE_GROUND)
    tones.paste(mark, badge_box(size)[:2])
    picture = Image.frombytes("P", size, tones.tobytes())
    picture.putpalette(bytes(range(256)) * 3)
    png = _png(picture)
    start = png.index(b"PLTE") - 4
    return png[:start], png[start + 12 + 768 :]


def _padded(png: bytes, image_bytes: int, key: str) -> bytes:
    """Return the PNG with noise before its pixels, so that a cut always costs pixels."""
    missing = image_bytes - len(png) - 12
    if missing <= 0:
        return png
    offset = int(key[:8], 16) % missing
    noise = _noise(missing)
    at = png.index(b"IDAT") - 4
    return png[:at] + _chunk(_NOISE_CHUNK, noise[offset:] + noise[:offset]) + png[at:]


@lru_cache(maxsize=2)
def _noise(length: int) -> bytes:
    return _chance("noise").randbytes(length)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _chance(purpose: str) -> Random:
    return Random(purpose)  # noqa: S311 - repeatable, not secret
