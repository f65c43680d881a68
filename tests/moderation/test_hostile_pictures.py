"""Files that a vendor, or whoever stands between, could deliver in place of a picture."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from imagepipeline_dagster.purchase.pictures import Undecodable, read_picture

_MEMORY = 450 * 2**20  # bytes: two copies of the largest picture that is accepted
_SECONDS = 20

_MEASURED = """
import json, resource, sys, time
from pathlib import Path
from imagepipeline_dagster.purchase.pictures import Undecodable, read_picture
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, started, found = peak(), time.process_time(), {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_picture(file.read_bytes())
        found[file.name] = None
    except Undecodable as error:
        found[file.name] = str(error)
print(json.dumps([found, peak() - before, time.process_time() - started]))
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    """Return a PNG in grey; without pixels given, an empty stream of them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", zlib.compress(b"" if pixels is None else pixels, 9)),
            chunk(b"IEND", b""),
        ]
    )


def small(format: str, **options: object) -> bytes:  # noqa: A002
    """Return a small honest picture."""
    encoded = io.BytesIO()
    picture = Image.linear_gradient("L").resize((48, 48)).convert("RGB")
    picture.save(encoded, format, **options)
    return encoded.getvalue()


def animated(format: str) -> bytes:  # noqa: A002
    """Return two pictures that take turns."""
    encoded = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(encoded, format, save_all=True, append_images=frames[1:])
    return encoded.getvalue()


PAGE = b"<!DOCTYPE html><html><script>alert(1)</script></html>"


def whole_zip() -> bytes:
    """Return an archive that unpacks."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    return packed.getvalue()


ZIP = b"PK\x03\x04" + bytes(range(200))
ROW = b"\0" + bytes(48)
HOSTILE = {
    "decompression_bomb": png(60_000, 60_000, pixels=bytes(10_000_000)),
    "forty_thousand_square": png(40_000, 40_000),
    "animated_gif": animated("GIF"),
    "animated_webp": animated("WEBP"),
    "animated_png": animated("PNG"),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "page": PAGE,
    "gif_and_page": b"GIF89a/*" + PAGE,
    "no_pixels": png(48, 48),
    "nothing": b"",
}


def webp_with(kind: bytes, content: bytes) -> bytes:
    """Return a WebP with a chunk of its own."""
    body = small("WEBP")[12:] + kind + struct.pack("<I", len(content)) + content
    body += bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_with(marker: int, content: bytes) -> bytes:
    """Return a JPEG with a segment of its own."""
    whole = small("JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return whole[:2] + segment + whole[2:]


BOMBS = {
    "icc_bomb": png(
        48, 48, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28), 9)), pixels=ROW * 48
    ),
    "text_bomb": png(
        48, 48, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9)), pixels=ROW * 48
    ),
}
CARRIES = {
    "png_then_page": small("PNG") + PAGE,
    "jpeg_then_page": small("JPEG") + PAGE,
    "webp_then_page": small("WEBP") + PAGE,
    "jpeg_then_page_and_forged_end": small("JPEG") + PAGE + b"\xff\xd9",
    "zip_behind_a_png": small("PNG") + ZIP,
    "page_in_a_png_text": png(48, 48, chunk(b"tEXt", b"a\0" + PAGE), pixels=ROW * 48),
    "page_in_a_packed_png_text": png(
        48, 48, chunk(b"zTXt", b"a\0\0" + zlib.compress(PAGE)), pixels=ROW * 48
    ),
    "zip_in_a_private_png_chunk": png(48, 48, chunk(b"prVt", b"xx" + ZIP), pixels=ROW * 48),
    "page_in_a_private_png_chunk": png(48, 48, chunk(b"prVt", b"xx" + PAGE), pixels=ROW * 48),
    "much_in_a_private_png_chunk": png(48, 48, chunk(b"prVt", bytes(10**5)), pixels=ROW * 48),
    "page_in_a_jpeg_comment": small("JPEG", comment=PAGE),
    "zip_in_a_jpeg_comment": jpeg_with(0xFE, b"hello" + ZIP),
    "zip_in_a_jpeg_segment": jpeg_with(0xE9, ZIP),
    "zip_in_a_webp_chunk": webp_with(b"prVt", ZIP),
    "page_in_a_webp_chunk": webp_with(b"prVt", b"xx" + PAGE),
    "zip_between_the_pixels_of_a_jpeg": small("JPEG")[:-2] + whole_zip() + b"\xff\xd9",
    "zip_between_the_pixels_of_a_png": png(48, 48, pixels=ROW * 48)[:-12]
    + chunk(b"IDAT", whole_zip())
    + chunk(b"IEND", b""),
    "icc_junk_in_a_jpeg": small("JPEG", icc_profile=b"junk" * 99),
}


@pytest.mark.slow
def test_hostile_files_are_undecodable_in_bounded_memory_and_time(tmp_path: Path) -> None:
    """What is no picture is refused, and a bomb beside one is not unpacked whole."""
    for name, data in {**HOSTILE, **BOMBS}.items():
        (tmp_path / name).write_bytes(data)
    measured = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", _MEASURED, tmp_path], capture_output=True, check=True, timeout=100
    )
    found, memory, seconds = json.loads(measured.stdout)
    assert {name for name, refused in found.items() if refused is None} == set(BOMBS)
    assert set(found) == {*HOSTILE, *BOMBS}
    assert memory < _MEMORY
    assert seconds < _SECONDS


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_honest_files_with_profile_and_padding_are_pictures(format: str) -> None:  # noqa: A002
    """A real colour profile, and zeros behind the end as some stores append, are no harm."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_picture(small(format, icc_profile=profile) + bytes(16))
    assert (picture.width, picture.height, picture.format) == (48, 48, format)
    assert picture.carries_more is None


@pytest.mark.parametrize("name", [*CARRIES, *BOMBS])
def test_a_picture_that_carries_more_is_a_picture_and_says_so(name: str) -> None:
    """What decodes is a paid picture; moderation is told what else the file holds, in our words."""
    picture = read_picture({**CARRIES, **BOMBS}[name])
    assert (picture.width, picture.height) == (48, 48)
    assert picture.carries_more
    assert "<" not in picture.carries_more


def page_text(format: str) -> bytes:  # noqa: A002
    """Return a picture whose text repeats a prompt about markup."""
    prompt = "poster that shows <html> and <svg> in neon"
    if format == "PNG":
        text = PngInfo()
        text.add_text("parameters", prompt)
        text.add_itxt("Description", prompt, zip=True)
        return small(format, pnginfo=text)
    if format == "JPEG":
        return small(format, comment=prompt.encode())
    return small(format, xmp=prompt.encode())


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_prompt_about_markup_is_no_page(format: str) -> None:  # noqa: A002
    """A text that tells of markup, as the prompt did, is nothing odd; nor is a plain file."""
    assert read_picture(page_text(format)).carries_more is None
    assert read_picture(small(format)).carries_more is None


def test_progressive_and_restarting_jpegs_carry_nothing() -> None:
    """Several scans and restart markers are the picture's own."""
    for options in ({"progressive": True}, {"restart_marker_blocks": 2}):
        assert read_picture(small("JPEG", **options)).carries_more is None


def test_the_reason_is_words_and_nothing_of_the_file() -> None:
    """The message that the row carries quotes no byte of what came."""
    for name in ("page", "svg"):
        with pytest.raises(Undecodable) as refused:
            read_picture(HOSTILE[name])
        assert "<" not in str(refused.value)
