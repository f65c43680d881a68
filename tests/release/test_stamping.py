"""Marks of a picture's origin, read back by readers that we did not write."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.marks import LINEAGE_NAMESPACE, plain
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.stamping import Mark, Stamped, stamp
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release import samples
from tests.release.samples import EVERYTHING, FORMATS, kept_row, picture, publish_rows

EXTENSION = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
VENDORS_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/png">%b</rdf:Description>'
    b"</rdf:RDF></x:xmpmeta>"
)


def row(
    prompt: str = "a red fox, at dawn",
    *,
    format: str = "PNG",  # noqa: A002
    **changes: Any,  # noqa: ANN401 - any column
) -> ModeratedImage:
    """Return a row whose picture is of this format."""
    request = {"prompt": "a", "num_inference_steps": 30, "guidance_scale": 7.5, "scheduler": "DDIM"}
    usual = samples.row(
        sample_index=2,
        model_id="sdxl",
        seed=7,
        prompt=prompt,
        negative_prompt="blurry",
        request_key="key1",
        request=json.dumps(request),
        image_sha256="ab" * 32,
        format=format,
        pixel_width=24,
        pixel_height=24,
    )
    return dataclasses.replace(usual, **changes)


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:  # noqa: A002, ANN401
    """Return a picture in a mode, with what else the encoder takes."""
    data = io.BytesIO()
    Image.open(io.BytesIO(picture(3))).convert(mode).save(data, format, **options)
    return data.getvalue()


def pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    """Return the decoded picture."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode, image.size, image.tobytes()


def xmp_of(data: bytes) -> dict[str, str]:
    """Return the properties of a file's XMP, as an XML parser reads them."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    tree = ET.fromstring(packet)  # noqa: S314 - our own
    return {p.tag: p.text or "" for d in tree.iter() for p in d if d.tag.endswith("Description")}


def parameters_of(data: bytes) -> str:
    """Return what a viewer shows as the picture's parameters."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "PNG":
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    return str(comment[8:].decode("utf-16-be"))


SHAPES = [
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "RGBA", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True, "comment": b"by hand"}),
    ("JPEG", "CMYK", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    *((name, "RGB", {"icc_profile": b"icc" * 50}) for name in FORMATS),
]


@pytest.mark.parametrize(("format", "mode", "options"), SHAPES)
def test_a_stamp_says_the_origin_and_leaves_the_pixels(
    format: str,  # noqa: A002
    mode: str,
    options: dict[str, Any],
) -> None:
    """Whatever the container: pixels, profile and comment stay, and the marks are read back."""
    data = encoded(format, mode, **options)
    stamped = stamp(row(format=format), data)
    assert stamped.mark == Mark.STAMPED
    assert pixels(stamped.data) == pixels(data)
    with Image.open(io.BytesIO(stamped.data)) as after, Image.open(io.BytesIO(data)) as before:
        for name in ("icc_profile", "comment"):
            assert after.info.get(name) == before.info.get(name)
    said = xmp_of(stamped.data)
    assert said[f"{{{IPTC}}}DigitalSourceType"] == GENERATED
    assert said[f"{{{IPTC}}}AISystemUsed"] == "ImagePipeline SDXL API"
    assert said[f"{{{IPTC}}}AISystemVersionUsed"] == "sdxl"
    prompts = "a red fox, at dawn\nNegative prompt: blurry"
    assert said[f"{{{IPTC}}}AIPromptInformation"] == prompts
    assert said[f"{{{LINEAGE_NAMESPACE}}}OriginalSha256"] == "ab" * 32
    assert said[f"{{{LINEAGE_NAMESPACE}}}SampleIndex"] == "2"
    assert parameters_of(stamped.data) == (
        f"{prompts}\nSteps: 30, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 24x24, Model: sdxl, "
        "Version: ImagePipeline SDXL API"
    )
    assert stamp(row(format=format), stamped.data).data == stamped.data, (
        "a second stamp changes nothing"
    )


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=[])), st.text())
@example("]]></rdf:RDF><?xpacket end='w'?><!--&amp;", "\0\ud800\ufffe\r\n\t")
@example("a boat " * 15_000, "рыба 魚 \U0001f41f")
def test_no_prompt_breaks_a_stamp(format: str, prompt: str, negative: str) -> None:  # noqa: A002
    """The XMP is well-formed and says every prompt that XML can hold; so do the parameters."""
    data = DATA[format]
    stamped = stamp(row(prompt, format=format, negative_prompt=negative), data)
    assert stamped.mark == Mark.STAMPED
    assert pixels(stamped.data) == pixels(data)
    said = xmp_of(stamped.data)
    assert said[f"{{{IPTC}}}DigitalSourceType"] == GENERATED
    prompts = plain(f"{prompt}\nNegative prompt: {negative}" if negative else prompt)
    if format == "JPEG" and len(prompts.encode()) > 30_000:
        assert f"{{{IPTC}}}AIPromptInformation" not in said, "a segment cannot hold it"
        return
    assert said[f"{{{IPTC}}}AIPromptInformation"] == prompts
    assert parameters_of(stamped.data).startswith(f"{prompts}\nSteps: 30")


DATA = {name: picture(3, format=name) for name in FORMATS}


def png_with(kind: bytes, content: bytes) -> bytes:
    """Return a PNG with a chunk more."""
    body = kind + content
    chunk = len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return DATA["PNG"][:33] + chunk + DATA["PNG"][33:]


def jpeg_with(content: bytes) -> bytes:
    """Return a JPEG with an APP11 segment."""
    segment = b"\xff\xeb" + (len(content) + 2).to_bytes(2, "big") + content
    return DATA["JPEG"][:2] + segment + DATA["JPEG"][2:]


def webp_with(kind: bytes, content: bytes) -> bytes:
    """Return a WebP file with a chunk more at its end."""
    data = encoded("WEBP", icc_profile=b"icc" * 50)
    body = data[8:] + kind + len(content).to_bytes(4, "little") + content
    return b"RIFF" + len(body).to_bytes(4, "little") + body


REMOTE = VENDORS_XMP % b"<dcterms:provenance>https://example.com/m.c2pa</dcterms:provenance>"
MARKED = VENDORS_XMP % b"<Iptc4xmpExt:DigitalSourceType>x</Iptc4xmpExt:DigitalSourceType>"
LEFT_ALONE = [
    ("PNG", png_with(b"caBX", b"jumb"), Mark.CREDENTIALS),
    ("JPEG", jpeg_with(b"JP\0\1\0\0\0\1jumb"), Mark.CREDENTIALS),
    ("WEBP", webp_with(b"C2PA", b"jumb"), Mark.CREDENTIALS),
    *((name, encoded(name, xmp=REMOTE), Mark.CREDENTIALS) for name in ("JPEG", "WEBP")),
    *((name, encoded(name, xmp=MARKED), Mark.NONE) for name in ("JPEG", "WEBP")),
    ("AVIF", b"\0\0\0\x1cftypavif", Mark.NONE),
    *((name, data[: len(data) // 2], Mark.NONE) for name, data in DATA.items() if name != "JPEG"),
    *((name, b"", Mark.NONE) for name in FORMATS),
    *((name, data[:16], Mark.NONE) for name, data in DATA.items()),
]


@pytest.mark.parametrize(("format", "data", "mark"), LEFT_ALONE)
def test_some_files_stay_as_they_are(format: str, data: bytes, mark: Mark) -> None:  # noqa: A002
    """A signed file, one that says its own origin and a broken one are left alone, and say so."""
    assert stamp(row(format=format), data) == Stamped((data,), mark)


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_file_says_already_stays(format: str) -> None:  # noqa: A002
    """The vendor's XMP, EXIF and parameters are still there, beside our marks."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"exif": exif}
    if format == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", (VENDORS_XMP % b"").decode())
        options["pnginfo"].add_text("parameters", "theirs")
    else:
        options["xmp"] = VENDORS_XMP % b""
    data = encoded(format, **options)
    stamped = stamp(row(format=format), data)
    assert stamped.mark == Mark.STAMPED
    assert pixels(stamped.data) == pixels(data)
    assert xmp_of(stamped.data)[f"{{{IPTC}}}DigitalSourceType"] == GENERATED
    with Image.open(io.BytesIO(stamped.data)) as image:
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert b'dc:format="image/png"' in packet
        assert image.getexif()[0x0112] == 6
        assert format != "PNG" or image.info["parameters"] == "theirs"
    assert stamp(row(format=format), stamped.data).data == stamped.data


def test_an_emulated_picture_says_so() -> None:
    """Nobody takes the emulator's drawing for a model's picture."""
    stamped = stamp(row(emulated=True), DATA["PNG"])
    assert xmp_of(stamped.data)[f"{{{IPTC}}}AISystemUsed"].startswith("EMULATED")
    assert "Version: EMULATED" in parameters_of(stamped.data)


def test_chinas_label_is_written_where_a_producer_is_named() -> None:
    """TC260:AIGC is JSON with the keys of GB 45438-2025; without a producer it is not there."""
    name = "{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC"
    stamped = stamp(row(), DATA["PNG"], content_producer='Foxes & "Co"')
    label = json.loads(xmp_of(stamped.data)[name])
    assert label["Label"] == "1"
    assert label["ContentProducer"] == 'Foxes & "Co"'
    assert label["ProduceID"] == "ab" * 32
    assert name not in xmp_of(stamp(row(), DATA["PNG"]).data)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("reader", ["exiftool", "exiv2", "sd-parsers"])
def test_others_read_the_marks(reader: str, format: str, tmp_path: Path) -> None:  # noqa: A002
    """ExifTool, Exiv2 and sd-parsers find what they look for, and complain of nothing."""
    file = tmp_path / f"picture.{EXTENSION[format]}"
    file.write_bytes(stamp(row("a red fox 狐", format=format), DATA[format]).data)
    if reader == "sd-parsers":
        from sd_parsers import ParserManager

        info = ParserManager().parse(file)
        assert info is not None
        [sampler] = info.samplers
        assert (sampler.name, sampler.parameters["seed"]) == ("DDIM", "7")
        assert [prompt.value for prompt in info.prompts] == ["a red fox 狐"]
        assert [prompt.value for prompt in info.negative_prompts] == ["blurry"]
        return
    if shutil.which(reader) is None:
        pytest.skip(f"there is no {reader}")
    if reader == "exiftool":
        [said] = json.loads(_output(["exiftool", "-j", file]))
        assert said["DigitalSourceType"] == GENERATED
        assert said["AISystemUsed"] == "ImagePipeline SDXL API"
        assert said["OriginalSha256"] == "ab" * 32
        shown = said["Parameters"] if format == "PNG" else said["UserComment"]
        assert shown.startswith("a red fox 狐")
        assert "Warning" not in said
    else:
        printed = _output(["exiv2", "-PXEkt", file])
        assert "Xmp.iptcExt.DigitalSourceType" in printed
        assert GENERATED in printed
        assert "Xmp.iptcExt.AISystemUsed" in printed


def _output(command: Sequence[str | Path]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert ran.stderr == ""
    return ran.stdout


def test_a_release_counts_its_marks_and_keeps_the_originals(storage: LocalFolder) -> None:
    """Both hashes stand in each row; the manifest and the card count; the store is untouched."""
    rows = [
        kept_row(storage, 1),
        kept_row(storage, 2, format="JPEG"),
        kept_row(storage, 3, data=LEFT_ALONE[0][1]),
    ]
    release = publish_rows(storage, rows, policy=EVERYTHING)
    assert release.marks == {"credentials": 1, "stamped": 2}
    assert problems_of(storage, release) == []
    table = pq.read_table(Path(latest_release(storage).path, release.shards[0].path))
    for released, original in zip(table.to_pylist(), rows, strict=True):
        data = released["image"]["bytes"]
        assert released["image_sha256"] == original.image_sha256
        assert released["file_sha256"] == hashlib.sha256(data).hexdigest()
        signed = original is rows[2]
        assert (released["file_sha256"] == original.image_sha256) is signed
        assert released["mark"] == ("credentials" if signed else "stamped")
    card = storage.read(f"{release.path}/README.md").decode()
    assert "2 of the pictures' files say that they were generated" in card
    folder = Path(latest_release(storage).path, "imagefolder/train")
    listed = pq.read_table(folder / "metadata.parquet").to_pylist()
    assert [r["mark"] for r in listed] == ["stamped", "stamped", "credentials"]
    for file in listed:
        data = (folder / file["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["file_sha256"]
    again = publish_rows(storage, [*rows, kept_row(storage, 4, prompt_set="z")], policy=EVERYTHING)
    assert again.marks == {"credentials": 1, "stamped": 3}, "also of files that are taken over"


def test_without_stamps_files_are_as_delivered(storage: LocalFolder) -> None:
    """`stamp: false` releases the very bytes that were bought; it is a new, patched version."""
    rows = [kept_row(storage, 1)]
    publish_rows(storage, rows)
    release = publish_rows(storage, rows, policy=ReleasePolicy(stamp=False))
    assert (release.semantic_version, release.marks) == ("1.0.1", {})
    [image] = pq.read_table(Path(latest_release(storage).path, release.shards[0].path)).to_pylist()
    assert image["image"]["bytes"] == picture(1)
    assert image["mark"] is None
