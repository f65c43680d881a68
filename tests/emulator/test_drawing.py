from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from imagepipeline_dagster.api.contract import GenerationRequest, request_for
from imagepipeline_dagster.emulator.drawing import badge_box, draw_mask, draw_png, draw_scene

SIZE = (192, 192)


def request(task: str = "text2image", **parameters: object) -> GenerationRequest:
    """Return a request for a small picture of a boat unless told otherwise."""
    links: dict[str, Any] = {}
    if task != "text2image":
        links["init_image"] = "https://pictures.example/boat.png"
    if task == "inpainting":
        links["mask_image"] = "https://pictures.example/mask.png"
    usual = {"model_id": "sdxl", "prompt": "a boat", "width": SIZE[0], "height": SIZE[1], **links}
    return request_for(task, {**usual, **parameters})


def opened(png: bytes) -> Image.Image:
    """Return a PNG's picture."""
    with Image.open(BytesIO(png)) as picture:
        return picture.convert("RGB")


def without_badge(picture: Image.Image) -> Image.Image:
    """Return the picture with the mark's place blackened."""
    picture = picture.copy()
    picture.paste((0, 0, 0), badge_box(picture.size))
    return picture


def mean_colour(picture: Image.Image) -> list[float]:
    """Return the mean of each channel."""
    return ImageStat.Stat(picture).mean


@settings(max_examples=15, deadline=None)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_request_becomes_its_picture(prompt: str, width: int, height: int, seed: int) -> None:
    """Any text, size and seed give an RGB PNG of that size, and the same bytes again."""
    asked = request(prompt=prompt, width=width, height=height)
    png = draw_png(asked, seed=seed, sample_index=0)
    with Image.open(BytesIO(png)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (width, height))
    assert draw_png(asked, seed=seed, sample_index=0) == png


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a red boat"},
        {"negative_prompt": "fog"},
        {"embeddings": "15f002de"},
        {"num_inference_steps": 30},
        {"guidance_scale": 12.0},
        {"model_id": "other"},
        {"scheduler": "euler"},
        {"refiner": True},
        {"samples": 2},
    ],
)
def test_every_field_counts(change: dict[str, Any]) -> None:
    """Whatever a request says, bar the safety checker, changes the pixels."""
    plain = draw_png(request(), seed=1, sample_index=0)
    assert draw_png(request(**change), seed=1, sample_index=0) != plain
    assert draw_png(request(safety_checker=False), seed=1, sample_index=0) == plain


@pytest.mark.parametrize("image_bytes", [None, 50_000])
def test_seeds_and_samples_differ(image_bytes: int | None) -> None:
    """Each seed and each sample of a call has pixels of its own, padded ones of a benchmark too."""
    told = request(samples=4)
    pictures = {
        opened(draw_png(told, seed=seed, sample_index=k, image_bytes=image_bytes)).tobytes()
        for seed in range(3)
        for k in range(4)
    }
    assert len(pictures) == 12


@pytest.mark.parametrize(
    ("prompt", "channel"), [("a red pattern, studio", 0), ("a blue studio backdrop", 2)]
)
def test_words_choose_colours(prompt: str, channel: int) -> None:
    """A colour's name colours the picture."""
    mean = mean_colour(opened(draw_png(request(prompt=prompt), seed=1, sample_index=0)))
    assert max(mean) == mean[channel]


def test_night_is_darker_than_day() -> None:
    """An hour's name sets the light."""
    day, night = (
        sum(mean_colour(draw_scene(f"a lake at {hour}", size=SIZE, seed=1)))
        for hour in ("noon", "night")
    )
    assert night < day / 2


@pytest.mark.parametrize("image_bytes", [None, 100_000])
def test_mark_is_legible(image_bytes: int | None) -> None:
    """The mark is light on dark, and takes a third of the width or more."""
    told = request(prompt="snow", width=768, height=768)
    picture = opened(draw_png(told, seed=1, sample_index=0, image_bytes=image_bytes))
    box = badge_box(picture.size)
    assert box[2] - box[0] > 768 / 3
    tones = picture.crop(box).convert("L").histogram()
    assert sum(tones[:60]) > sum(tones[240:]) > 0


@pytest.mark.parametrize("where", ["sky", "left", "top right", "centre circle", "border"])
def test_inpainting_keeps_what_is_not_masked(where: str) -> None:
    """Where the mask is black the picture stays as it was; where it is white it is painted."""
    init = draw_scene("a boat", size=SIZE, seed="init")
    mask = draw_mask(where, size=SIZE)
    told = request("inpainting", prompt="a city at night")
    picture = opened(draw_png(told, seed=1, sample_index=0, init=init, mask=mask))
    changed = ImageChops.difference(without_badge(picture), without_badge(init)).convert("L")
    kept = ImageChops.invert(mask)
    assert ImageChops.multiply(changed, kept).getextrema() == (0, 0)
    assert ImageStat.Stat(changed, mask).mean[0] > 10


def test_strength_leads_from_the_picture_to_the_words() -> None:
    """At strength 0 the picture stays; the stronger, the farther from it."""
    init = draw_scene("a boat", size=SIZE, seed="init")
    distances = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        told = request("image2image", prompt="a city at night", strength=strength)
        picture = opened(draw_png(told, seed=1, sample_index=0, init=init))
        apart = ImageChops.difference(without_badge(picture), without_badge(init))
        distances.append(sum(mean_colour(apart)))
    assert distances[0] == 0
    assert distances == sorted(set(distances))


@given(
    words=st.lists(
        st.sampled_from(["left", "right", "top", "bottom", "sky", "circle", "border", "mask"])
    )
)
def test_masks_are_black_and_white(words: list[str]) -> None:
    """Any words give a mask of pure black and white that paints something."""
    mask = draw_mask("/".join(words), size=(40, 30))
    black, *_, white = mask.histogram()
    assert (mask.mode, mask.size, black + white) == ("L", (40, 30), 1200)
    assert white > 0


@pytest.mark.parametrize("task", ["text2image", "image2image"])
@pytest.mark.parametrize("image_bytes", [50_000, 1_000_000])
def test_padding_reaches_the_size(task: str, image_bytes: int) -> None:
    """A padded picture has the bytes asked for, decodes, and repeats."""
    init = None if task == "text2image" else draw_scene("a boat", size=SIZE, seed="init")
    asked = request(task)
    png = draw_png(asked, seed=1, sample_index=0, init=init, image_bytes=image_bytes)
    assert len(png) == image_bytes
    assert opened(png).size == SIZE
    assert draw_png(asked, seed=1, sample_index=0, init=init, image_bytes=image_bytes) == png


def test_a_picture_larger_than_its_padding_is_whole() -> None:
    """A picture that has more bytes than asked for is left as it is."""
    told = request(width=768, height=768)
    assert opened(draw_png(told, seed=1, sample_index=0, image_bytes=1024)).size == (768, 768)


def test_a_colour_is_known_each_time() -> None:
    """A colour's name is read again and again, although Pillow keeps what it read."""
    first, again = (draw_scene("a white vase", size=(64, 64), seed=1) for _ in range(2))
    assert first.tobytes() == again.tobytes()
