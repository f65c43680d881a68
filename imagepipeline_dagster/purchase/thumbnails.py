"""Thumbnails as they are stored; one that was lost is drawn from its picture.

Nothing is written here: whoever shows a picture may have no right to, and a check observes.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from imagepipeline_dagster.purchase.pictures import FORMATS, Undecodable, read_picture
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    image_path,
    thumbnail_path,
)

_LARGEST = 100_000  # bytes; ours have at most a tenth of it


def stored_thumbnail(storage: Storage, sha256: str | None) -> bytes | None:
    """Return the thumbnail of the picture with these bytes, as WebP; None where both are lost.

    Only what this package makes itself: whatever else lies there is not shown.
    """
    if sha256 is None:
        return None
    with suppress(ObjectMissing):
        data = storage.read(thumbnail_path(sha256))
        if _is_ours(data):
            return data
    return _drawn(storage, sha256)


def stored_thumbnails(storage: Storage, pictures: Iterable[str | None]) -> list[bytes | None]:
    """Return the same for each of many pictures, read some at a time."""
    with ThreadPoolExecutor(storage.reads_at_once) as readers:
        return list(readers.map(partial(stored_thumbnail, storage), pictures))


def _is_ours(data: bytes) -> bool:
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    # A loss of power may have cut it: it was never synced.
    is_whole = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return is_webp and is_whole and len(data) <= _LARGEST


def _drawn(storage: Storage, sha256: str) -> bytes | None:
    for picture_format in FORMATS:  # who shows it may know no more than its SHA-256
        with suppress(ObjectMissing, Undecodable):
            picture = read_picture(storage.read(image_path(sha256, picture_format)))
            if picture.sha256 == sha256:
                return picture.thumbnail
    return None
