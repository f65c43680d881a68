"""The pictures that a request links to: `init_image` and `mask_image`.

Hosts under the reserved top-level domain `.example` do not exist, so that the emulator draws what
their paths name, and samples work without a network. Every other link is fetched.
"""

from __future__ import annotations

from io import BytesIO
from urllib.parse import unquote, urlsplit

import httpx
from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool

from imagepipeline_dagster.emulator.drawing import draw_mask, draw_scene

_MAX_BYTES = 16 * 2**20
_MAX_PIXELS = 64_000_000
_MAX_SIDE = 2048
_TIMEOUT_SECONDS = 10.0
_KEPT = 4
_DRAWN_SIDE = 768


class SourceProblem(Exception):
    """A linked picture that cannot be had; the text says which and why."""


class Sources:
    """Opens linked pictures, keeping the last few in memory (48 MB at most)."""

    def __init__(self) -> None:
        self._kept: dict[str, Image.Image] = {}

    async def open(self, link: str) -> Image.Image:
        """Return the linked picture as RGB, its longer side at most 2048 pixels.

        Raises:
            SourceProblem: when it cannot be fetched within 10 s and 16 MB, or is no picture.
        """
        if link not in self._kept:
            if _is_imaginary(link):
                picture = await run_in_threadpool(_drawn, link)
            else:
                picture = await run_in_threadpool(_decoded, await _fetched(link), link)
        else:
            picture = self._kept.pop(link)
        self._kept[link] = picture
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return picture


def _is_imaginary(link: str) -> bool:
    try:
        host = (urlsplit(link).hostname or "").rstrip(".")
    except ValueError:
        return False
    return host == "example" or host.endswith(".example")


def _drawn(link: str) -> Image.Image:
    path = unquote(urlsplit(link).path)
    size = (_DRAWN_SIDE, _DRAWN_SIDE)
    if "mask" in path.lower():
        return draw_mask(path, size=size).convert("RGB")
    return draw_scene(path, size=size, seed=link)


async def _fetched(link: str) -> bytes:
    received = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as client,
            client.stream("GET", link) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                received += chunk
                if len(received) > _MAX_BYTES:
                    raise SourceProblem(f"{link} is larger than {_MAX_BYTES >> 20} MB")
    except httpx.HTTPStatusError as error:
        raise SourceProblem(f"{link} answered {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceProblem(f"{link} could not be fetched: {type(error).__name__}") from error
    return bytes(received)


def _decoded(content: bytes, link: str) -> Image.Image:
    try:
        with Image.open(BytesIO(content)) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise SourceProblem(f"{link} has more than {_MAX_PIXELS // 1_000_000} megapixels")
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SourceProblem(f"{link} is not a picture that can be decoded") from error
    upright.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return upright
