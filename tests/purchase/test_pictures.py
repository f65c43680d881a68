"""What counts as a picture."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from imagepipeline_dagster.purchase import pictures
from imagepipeline_dagster.purchase.likeness import Likeness, compare_pictures
from imagepipeline_dagster.purchase.pictures import Undecodable, read_picture


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Return an image's bytes."""
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_measured(image_format: str, mode: str) -> None:
    """Size in pixels, format, hash of the bytes as delivered, and a small thumbnail."""
    data = encoded(Image.linear_gradient("L").resize((200, 100)).convert(mode), image_format)

    picture = read_picture(data)

    assert (picture.width, picture.height, picture.format) == (200, 100, image_format)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
    assert picture.value_range > 200
    with Image.open(io.BytesIO(picture.thumbnail)) as thumbnail:
        assert thumbnail.format == "WEBP"
        assert max(thumbnail.size) == 128


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_one_flat_colour_has_no_range(mode: str) -> None:
    """A black picture is seen as such in whatever mode it is stored."""
    assert read_picture(encoded(Image.new(mode, (16, 16)))).value_range == 0


def test_grey_values_of_16_bits_are_seen_as_they_are() -> None:
    """A grey picture of 16 bits is measured and shown as the same one of 8 bits would be."""
    fine = Image.new("I;16", (64, 1))
    for x in range(64):
        fine.putpixel((x, 0), 20_000 + 700 * x)

    picture = read_picture(encoded(fine))

    assert picture.value_range == pytest.approx(700 * 63 / 257, abs=1)
    with Image.open(io.BytesIO(picture.thumbnail)) as thumbnail:
        assert int(thumbnail.convert("L").getextrema()[0]) < 100  # type: ignore[arg-type] # one band


def test_the_widest_channel_counts() -> None:
    """A picture that varies in one colour alone is not flat."""
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (9, 9, 49))
    assert read_picture(encoded(image)).value_range == 40


def test_bytes_that_are_no_picture_are_refused() -> None:
    """Cut, garbled, empty and foreign bytes, animations and bombs all say what they are."""
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"))
    half = len(whole) // 2
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99)]
    animation = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    spoiled = {
        "truncated": whole[:half],
        "corrupt": whole[:half] + bytes(reversed(whole[half:])),
        "empty": b"",
        "page": b"<html>We will be right back</html>",
        "gif": encoded(Image.new("P", (8, 8)), "GIF"),
        "animation": animation,
    }
    for name, data in spoiled.items():
        with pytest.raises(Undecodable):
            pytest.fail(f"{name} was read as {read_picture(data).format}")


def test_a_jpeg_that_was_cut_off_is_said_to_be_incomplete() -> None:
    """Without its last marker nothing follows the picture: its pixels do not decode."""
    whole = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")
    with pytest.raises(Undecodable, match="do not decode as a picture"):
        read_picture(whole[: len(whole) // 2])


def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that promises too many pixels is refused before a pixel is read."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 99)
    assert read_picture(encoded(Image.new("L", (9, 11)))).width == 9
    with pytest.raises(Undecodable, match="10 x 10 pixels are too many"):
        read_picture(encoded(Image.new("L", (10, 10))))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_what_other_code_told_pillow_says_nothing_of_a_picture(
    image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team may let Pillow pad half a picture, or open small ones alone: ours are read as ever."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    whole = encoded(Image.effect_noise((200, 200), 80), image_format)
    half = whole[: len(whole) // 2]

    def read(number: int) -> str:
        try:
            return read_picture(half if number % 2 else whole).format
        except Undecodable:
            return "half"

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read, range(40))) == [image_format, "half"] * 20
    assert compare_pictures(whole, whole).likeness is Likeness.IDENTICAL_BYTES
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 100)


def test_reading_a_picture_again_gives_the_same() -> None:
    """Evidence depends on the bytes alone."""
    data = encoded(Image.radial_gradient("L"))
    assert read_picture(data) == read_picture(data)


def test_a_picture_is_measured_as_it_is_shown() -> None:
    """Size and thumbnail are of the turned picture, and what is transparent is white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    turned = read_picture(encoded(lying, "JPEG", exif=exif))
    assert (turned.width, turned.height) == (24, 40)
    with Image.open(io.BytesIO(turned.thumbnail)) as thumbnail:
        assert thumbnail.size == (24, 40)


def test_what_alpha_hides_is_not_there_and_what_it_paints_is() -> None:
    """A picture under full transparency is blank, and one that alpha alone paints is not."""
    gradient = Image.linear_gradient("L").resize((32, 32))
    hidden = Image.merge("RGBA", [gradient] * 3 + [Image.new("L", (32, 32), 0)])
    painted = Image.merge("RGBA", [Image.new("L", (32, 32), 0)] * 3 + [gradient])
    assert read_picture(encoded(hidden)).value_range == 0
    assert read_picture(encoded(painted)).value_range > 200


@pytest.mark.parametrize("compressed", [False, True])
def test_long_texts_cost_no_picture(compressed: bool) -> None:  # noqa: FBT001 - a test's parameter
    """A workflow of two megabytes in a PNG, and markup in a prompt, are no harm."""
    texts = PngInfo()
    texts.add_text("workflow", "a <html> boat " * 150_000, zip=compressed)
    texts.add_itxt("prompt", "<svg>, ein Boot " * 130_000, zip=compressed)
    picture = read_picture(encoded(Image.radial_gradient("L"), pnginfo=texts))
    assert (picture.width, picture.height) == (256, 256)


@pytest.mark.skipif("AVIF" not in pictures.FORMATS, reason="Pillow was built without AVIF")
def test_avif_is_read() -> None:
    """A picture in AVIF is as good as any, and carries nothing more."""
    picture = read_picture(encoded(Image.radial_gradient("L").convert("RGB"), "AVIF"))
    assert (picture.format, picture.carries_more) == ("AVIF", None)
    zipped = encoded(Image.radial_gradient("L").convert("RGB"), "AVIF") + b"PK\x03\x04 and more"
    assert read_picture(zipped).carries_more is not None


def test_a_format_that_is_not_accepted_is_named() -> None:
    """The error says what came in place of a picture."""
    files = {"GIF": encoded(Image.new("L", (8, 8)), "GIF"), "HTML": b"<html>", "JSON": b'{"a": 1}'}
    for name, data in files.items():
        with pytest.raises(Undecodable, match=name):
            read_picture(data)


def test_a_lack_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be decoded for want of memory is fetched again, and never final."""

    def exhausted(_: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(pictures, "as_shown", exhausted)
    with pytest.raises(OSError, match="no memory"):
        read_picture(encoded(Image.new("L", (8, 8))))
