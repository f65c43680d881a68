from __future__ import annotations

import base64
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageStat

from imagepipeline_dagster.previews import Tile, contact_sheet, markdown_picture, thumbnail

EVENT_METADATA_BYTES = 48_000


def _picture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Return a picture with as much detail as a photograph."""
    source = random.Random(seed)  # noqa: S311 - test data
    grain = Image.frombytes("RGB", (80, 60), source.randbytes(80 * 60 * 3))
    return grain.resize(size, Image.Resampling.BICUBIC)


def _tiles(count: int) -> list[Tile]:
    thumbnails = [thumbnail(_picture(seed)) for seed in range(8)]
    return [
        Tile(thumbnail=thumbnails[number % 8], caption=f"p-{number:04}") for number in range(count)
    ]


def _opened(encoded: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(encoded))
    assert opened.format == "WEBP"
    return opened.convert("RGB")


def _detail(image: Image.Image) -> float:
    """Return how much neighbouring pixels differ, on average."""
    shifted = image.convert("L").transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
    pairs = zip(image.convert("L").tobytes(), shifted.tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / (image.width * image.height)


# Thumbnails


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 768), (128, 96)),
        ((768, 1152), (85, 128)),
        ((40, 30), (40, 30)),
        ((9000, 1), (128, 1)),
    ],
)
def test_a_thumbnail_keeps_the_proportions(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    """The longest side is at most 128 pixels, and a small picture is not enlarged."""
    image = Image.new("RGB", size, "navy")

    assert _opened(thumbnail(image)).size == expected
    assert image.size == size


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "I;16", "F"]
)
def test_every_mode_has_a_thumbnail(mode: str) -> None:
    """Pictures of any colour mode that Pillow decodes become RGB thumbnails."""
    assert _opened(thumbnail(Image.new(mode, (200, 100)))).size == (128, 64)


def test_transparency_becomes_white() -> None:
    """What is transparent shows white, whatever colour hides beneath, also with a palette."""
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    palette = Image.new("P", (64, 64), 0)
    palette.info["transparency"] = 0

    for image in (clear, palette):
        darkest = min(low for low, _ in ImageStat.Stat(_opened(thumbnail(image))).extrema)
        assert darkest >= 250


# Contact sheets


@pytest.mark.parametrize("count", [1, 3, 8, 9, 24, 64, 65, 2000])
def test_a_sheet_fits_an_event(count: int) -> None:
    """A sheet of any number of pictures stays within its budget, and so does its Markdown."""
    sheet = contact_sheet(_tiles(count))

    assert len(sheet) <= 33_000
    assert len(markdown_picture(sheet, "x" * 500)) < EVENT_METADATA_BYTES - 3000


def test_a_sheet_gives_up_quality_before_tiles() -> None:
    """A smaller budget first makes the same sheet coarser, and only then smaller."""
    tiles = _tiles(16)
    ample = contact_sheet(tiles, byte_budget=200_000)
    tight = contact_sheet(tiles, byte_budget=len(ample) * 2 // 3)
    tiny = contact_sheet(tiles, byte_budget=len(ample) // 8)

    assert len(tight) <= len(ample) * 2 // 3
    assert _opened(tight).size == _opened(ample).size
    assert len(tiny) <= len(ample) // 8
    assert _opened(tiny).width < _opened(ample).width


def test_plain_pictures_fill_the_sheet() -> None:
    """Sixty-four pictures that compress well are all shown, in eight rows of eight."""
    plain = thumbnail(Image.new("RGB", (512, 512), "teal"))
    sheet = _opened(contact_sheet([Tile(thumbnail=plain, caption=str(n)) for n in range(64)]))

    assert sheet.width > 8 * 112
    assert sheet.height > 8 * 112


def test_the_order_is_kept_and_the_rest_counted() -> None:
    """Tiles are laid out row by row; with too many, the last place counts those left out."""
    colours = ["red", "lime", *["white"] * 6, "blue"]
    tiles = [
        Tile(thumbnail=thumbnail(Image.new("RGB", (64, 64), colour)), caption="")
        for colour in colours
    ]
    sheet = _opened(contact_sheet(tiles))
    many = _opened(contact_sheet(tiles * 40))

    def strongest(image: Image.Image, x: int, y: int) -> int:
        mean = ImageStat.Stat(image.crop((x, y, x + 40, y + 40))).mean
        return mean.index(max(mean)) if max(mean) - min(mean) > 100 else -1

    assert [strongest(sheet, x, y) for x, y in ((40, 40), (160, 40), (40, 170))] == [0, 1, 2]
    assert strongest(many, 40, 40) == 0
    assert strongest(many, many.width - 80, many.height - 90) == -1


def test_the_same_tiles_give_the_same_sheet() -> None:
    """A sheet depends on its tiles alone."""
    assert contact_sheet(_tiles(30)) == contact_sheet(_tiles(30))


def test_a_tile_without_picture_is_a_grey_box_with_its_reason() -> None:
    """A missing picture leaves a box that differs by its reason, and never an error."""
    boxes = {
        contact_sheet([Tile(thumbnail=None, caption="p", mark=mark)])
        for mark in (
            None,
            "vendor_filtered",
            "failed: " + "a very long explanation " * 30,
            "x" * 300,
        )
    }

    assert len(boxes) == 4
    assert contact_sheet([]) != b""


def test_marks_have_the_colour_of_their_verdict() -> None:
    """A rejected picture has a red bar, a kept one a green bar, and one without mark none."""

    def foot(mark: str | None) -> list[float]:
        tile = Tile(thumbnail=thumbnail(Image.new("RGB", (64, 64), "white")), caption="", mark=mark)
        sheet = _opened(contact_sheet([tile]))
        return ImageStat.Stat(sheet.crop((8, 6 + 100, 14, 6 + 110))).mean

    red, green = foot("rejected: blank"), foot("kept")
    assert red[0] > 2 * max(red[1:])
    assert green[1] > 1.4 * max(green[0], green[2])
    assert min(foot(None)) > 245
    assert max(foot("something else")) < 150


def test_a_blurred_tile_shows_no_detail() -> None:
    """Blurring removes nearly all difference between neighbouring pixels."""
    picture = thumbnail(_picture(1, (128, 128)))
    sharp, blurred = (
        _opened(contact_sheet([Tile(thumbnail=picture, caption="", blurred=blurred)])).crop(
            (10, 10, 110, 110)
        )
        for blurred in (False, True)
    )

    assert _detail(blurred) < _detail(sharp) / 10


@settings(deadline=None, max_examples=60)
@given(caption=st.text(max_size=300), mark=st.none() | st.text(max_size=300))
def test_any_text_can_stand_on_a_tile(caption: str, mark: str | None) -> None:
    """No caption or mark, in whatever script, breaks a sheet or changes its size."""
    tiles = [
        Tile(thumbnail=None, caption=caption, mark=mark),
        Tile(thumbnail=_SMALL, caption=caption, mark=mark),
    ]

    assert _opened(contact_sheet(tiles)).size == _opened(contact_sheet([tiles[0]] * 2)).size


_SMALL = thumbnail(Image.new("RGB", (16, 16), "olive"))


def test_long_and_multiline_captions_are_one_cut_line() -> None:
    """What lies beyond the tile's width, and line breaks, do not change the tile."""
    long = [
        contact_sheet([Tile(thumbnail=None, caption=caption)])
        for caption in ("word " * 30, "word " * 500, "word\n\t\x00\u200b" * 30)
    ]

    assert len(set(long)) == 1


def test_an_impossible_budget_is_refused() -> None:
    """A budget that no tile fits into raises an error instead of being exceeded."""
    with pytest.raises(ValueError, match="does not fit into 100 bytes"):
        contact_sheet(_tiles(3), byte_budget=100)


# Markdown


def test_markdown_holds_the_picture() -> None:
    """The Markdown is one picture whose data are the bytes given."""
    markdown = markdown_picture(b"RIFF", "64 pictures of spring")

    assert markdown == (
        f"![64 pictures of spring](data:image/webp;base64,{base64.b64encode(b'RIFF').decode()})"
    )


@given(alt=st.text(max_size=60) | st.text(alphabet="[]()<>!`\\&\"'\n*_x", max_size=20))
def test_alternative_text_cannot_break_out(alt: str) -> None:
    """Alternative text brings neither HTML nor an end of the picture, whatever it holds."""
    markdown = markdown_picture(b"", alt)
    text = markdown.removeprefix("![").removesuffix("](data:image/webp;base64,)")

    assert not set(text) & set("<>\"'\n\r")
    assert not set(text) & set("[]()`*!\\")
