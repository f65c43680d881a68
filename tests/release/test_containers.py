from __future__ import annotations

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagepipeline_dagster.release.containers import readable, without_exif
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import FORMATS, kept_row, publish_rows

# It asks for a turn, and has a tag whose value does not fit its type: to write it anew fails.
BROKEN = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02"
    b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    b"\x01\0\0\x08\0\0\0\x01\xff\xfe\0\0"
    b"\0\0\0\0"
)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def with_exif(format: str, exif: bytes | Image.Exif) -> bytes:  # noqa: A002
    """Return a small picture with this EXIF, or bytes in its place."""
    encoded = io.BytesIO()
    picture = Image.linear_gradient("L").resize((32, 24)).convert("RGB")
    picture.save(encoded, format, exif=exif)
    return encoded.getvalue()


def pixels(data: bytes) -> bytes:
    """Return the decoded picture, not turned."""
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_exif_that_reads_stays(format: str) -> None:  # noqa: A002
    """A file whose EXIF can be read, or that has none, is released byte for byte."""
    for exif in (TURNED, b""):
        data = with_exif(format, exif)
        assert readable(data, format) == data


@pytest.mark.parametrize("format", FORMATS)
def test_broken_exif_is_dropped_and_pixels_stay(format: str) -> None:  # noqa: A002
    """A file whose EXIF makes readers raise loses it alone."""
    data = with_exif(format, BROKEN)
    mended = readable(data, format)
    assert pixels(mended) == pixels(data)
    with Image.open(io.BytesIO(mended)) as image:
        assert not image.getexif()
    assert len(mended) < len(data)


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_else_is_dropped(format: str) -> None:  # noqa: A002
    """Without its EXIF a file is what it would have been without one."""
    assert pixels(without_exif(with_exif(format, TURNED), format)) == pixels(with_exif(format, b""))


@pytest.mark.usefixtures("datasets")
def test_datasets_reads_a_release_with_broken_exif(storage: LocalFolder) -> None:
    """One picture with a broken EXIF does not stop Hugging Face's reader; the original is kept."""
    original = with_exif("JPEG", BROKEN)
    row = kept_row(storage, 1, data=original, format="JPEG")
    as_delivered = ReleasePolicy(stamp=False)
    publish_rows(storage, [row, kept_row(storage, 2)], policy=as_delivered)
    rows = list(latest_release(storage).as_hf_dataset())
    assert rows[0]["image"].size == (32, 24)
    assert rows[0]["image_sha256"] == row.image_sha256 != rows[0]["file_sha256"]
    assert rows[1]["image_sha256"] == rows[1]["file_sha256"]


def test_long_texts_stop_no_reader() -> None:
    """A PNG whose texts Pillow refuses is released without them, its pixels as they are."""
    texts = PngInfo()
    texts.add_text("workflow", "a boat " * 300_000, zip=True)
    whole = io.BytesIO()
    Image.radial_gradient("L").save(whole, "PNG", pnginfo=texts)
    with Image.open(io.BytesIO(readable(whole.getvalue(), "PNG"))) as released:
        assert released.tobytes() == Image.radial_gradient("L").tobytes()
