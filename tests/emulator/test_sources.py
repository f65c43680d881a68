from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pytest
from PIL import Image

from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator import sources
from imagepipeline_dagster.emulator.sources import SourceProblem, Sources
from tests.api import servers
from tests.emulator.conftest import Caller, Started


@contextmanager
def serving(content: bytes, status: int = 200) -> Iterator[str]:
    """Serve these bytes under one link."""
    with servers.serving(servers.Reply(status=status, body=content)) as server:
        yield f"{server.url}/picture.png"


def png(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a picture of one colour."""
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def opened(link: str) -> Image.Image:
    """Return the picture behind a link."""
    return asyncio.run(Sources().open(link))


def test_reserved_hosts_are_drawn() -> None:
    """A link under .example needs no network, and always shows the same."""
    link = "https://pictures.example/rowboat.png"
    assert opened(link).tobytes() == opened(link).tobytes()
    assert opened(link).tobytes() != opened("https://pictures.example/cat.png").tobytes()


def test_mask_links_are_drawn_as_masks() -> None:
    """A path that speaks of a mask gives one."""
    mask = opened("https://pictures.example/masks/sky.png").convert("L")
    assert mask.getpixel((300, 10)) == 255
    assert mask.getpixel((300, 700)) == 0


def test_links_are_fetched() -> None:
    """Any other link is fetched, and large pictures are made smaller."""
    with serving(png((9, 8, 7))) as link:
        assert opened(link).getpixel((0, 0)) == (9, 8, 7)
    with serving(png((9, 8, 7), (3000, 10))) as link:
        assert max(opened(link).size) == 2048


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"missing", 404, "answered 404"),
        (b"<html>", 200, "not a picture"),
        (png((1, 2, 3))[:60], 200, "not a picture"),
    ],
)
def test_useless_links_are_told(content: bytes, status: int, told: str) -> None:
    """The problem names the link and what came of it."""
    with serving(content, status) as link, pytest.raises(SourceProblem, match=told) as problem:
        opened(link)
    assert link in str(problem.value)


def test_unreachable_link_is_told() -> None:
    """A host that does not answer is a problem of the link, as is one that cannot be."""
    for link in ("http://127.0.0.1:1/picture.png", "http://[::bad/picture.png"):
        with pytest.raises(SourceProblem, match="could not be fetched"):
            opened(link)


def test_large_download_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link with more than the limit of bytes is given up."""
    monkeypatch.setattr(sources, "_MAX_BYTES", 2**20)
    with serving(b"x" * 2**21) as link, pytest.raises(SourceProblem, match="larger than 1 MB"):
        opened(link)


def test_few_pictures_are_kept() -> None:
    """The memory of pictures has an end."""

    async def kept() -> int:
        source = Sources()
        for k in range(10):
            await source.open(f"https://pictures.example/masks/{k}.png")
        return len(source._kept)

    assert asyncio.run(kept()) == 4


def test_useless_link_fails_the_job(caller: Caller) -> None:
    """A job whose picture cannot be had ends in FAILURE that says which and why."""
    with serving(b"<html>") as link:
        job = caller.make("image2image", init_image=link)
    assert job.status is JobStatus.FAILURE
    assert "init_image" in (job.error or "")
    assert "not a picture" in (job.error or "")


def test_own_picture_can_be_started_from(caller: Caller) -> None:
    """An emulated picture's link serves as the next request's `init_image`."""
    (link,) = caller.make().download_urls
    assert len(caller.images("image2image", init_image=link)) == 1


def test_picture_that_is_gone_later(start: Started) -> None:
    """A picture that is gone when its job is downloaded gives 502, not other pixels."""
    caller = start()
    with serving(png((9, 8, 7))) as link:
        job = caller.make("image2image", init_image=link)
    caller.server._sources = Sources()
    assert caller.http.get(job.download_urls[0]).status_code == 502
