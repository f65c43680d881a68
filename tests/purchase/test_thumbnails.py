"""Thumbnails read again, and drawn from their pictures where they were lost."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from PIL import Image
from typing_extensions import override

from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.purchase.pictures import read_picture
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnail, stored_thumbnails
from imagepipeline_dagster.storage.contract import image_path, thumbnail_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import picture

PICTURE = picture(1, format="JPEG")
SHA256 = hashlib.sha256(PICTURE).hexdigest()
THUMBNAIL = read_picture(PICTURE).thumbnail


def test_thumbnails_are_read_some_at_a_time(tmp_path: Path) -> None:
    """Two at least are asked for at once, and they come in their order."""
    both_asked = threading.Barrier(2, timeout=10)

    class Distant(LocalFolder):
        @override
        def read(self, path: str) -> bytes:
            both_asked.wait()
            return super().read(path)

    storage = Distant(tmp_path)
    drawn = [thumbnail(Image.new("RGB", (8, 8), colour)) for colour in ("red", "teal")]
    for sha256, data in zip(("a" * 64, "b" * 64), drawn, strict=True):
        storage.write(thumbnail_path(sha256), data)
    assert stored_thumbnails(storage, ["a" * 64, None, "b" * 64]) == [drawn[0], None, drawn[1]]


class ReadOnly(LocalFolder):
    """A folder that whoever looks may not write to."""

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        raise PermissionError(path)


@pytest.mark.parametrize("there", [None, b"<script>alert(1)</script>", THUMBNAIL[:-1]])
def test_a_lost_thumbnail_is_drawn_from_its_picture(there: bytes | None, tmp_path: Path) -> None:
    """Where one is missing, cut or somebody else's, its picture is shown; nothing is written."""
    storage = LocalFolder(tmp_path)
    storage.write(image_path(SHA256, "JPEG"), PICTURE)
    if there:
        storage.write(thumbnail_path(SHA256), there)
    assert stored_thumbnail(ReadOnly(tmp_path), SHA256) == THUMBNAIL


@pytest.mark.parametrize("there", [None, picture(2, format="JPEG"), PICTURE[:-40]])
def test_a_lost_picture_has_no_thumbnail(there: bytes | None, tmp_path: Path) -> None:
    """Nothing is shown in place of a picture that is missing, cut or another one."""
    storage = LocalFolder(tmp_path)
    if there:
        storage.write(image_path(SHA256, "JPEG"), there)
    assert stored_thumbnail(storage, SHA256) is None
