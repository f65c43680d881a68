"""Moderated rows and their pictures, for the tests of releases."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from typing_extensions import override

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.content import Publication
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import publish
from imagepipeline_dagster.storage.contract import Storage, image_path
from imagepipeline_dagster.storage.folder import LocalFolder

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
FORMATS = ["PNG", "JPEG", "WEBP"]
EVERYTHING = ReleasePolicy(
    formats=("parquet", "webdataset", "imagefolder", "lance"), max_lost_share=1
)
HALVES = EVERYTHING.changed(splits={"train": 0.5, "test": 0.5})


def picture(number: int, *, format: str = "PNG", side: int = 24) -> bytes:  # noqa: A002
    """Return an encoded picture; each number has its own colours."""
    drawn = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    drawn.paste((number * 37 % 256, number * 91 % 256, number % 256), (4, 4, 12, 12))
    encoded = BytesIO()
    drawn.save(encoded, format)
    return encoded.getvalue()


def row(**changes: Any) -> ModeratedImage:  # noqa: ANN401 - any column
    """Return a kept row with these changes, whose picture nobody has stored."""
    usual: dict[str, Any] = {
        "prompt_set": "spring",
        "prompt_id": "p1",
        "call_index": 0,
        "sample_index": 0,
        "outcome": "generated",
        "content_version": "c1",
        "verdict": "kept",
        "moderation_reason": "ok",
    }
    return ModeratedImage(**(usual | changes))


def kept_row(
    storage: Storage,
    number: int,
    *,
    data: bytes | None = None,
    format: str = "PNG",  # noqa: A002
    **changes: Any,  # noqa: ANN401 - any column
) -> ModeratedImage:
    """Return a kept row whose picture is in the storage."""
    data = data or picture(number, format=format)
    sha256 = hashlib.sha256(data).hexdigest()
    whole = row(
        prompt_id=f"p{number:03d}",
        task="text2image",
        model_id="sdxl",
        prompt=f"a fox, number {number}",
        seed=number,
        samples=1,
        safety_checker=True,
        request_key=f"key{number}",
        request=f'{{"prompt":"a fox, number {number}"}}',
        image_sha256=sha256,
        uri=storage.write(image_path(sha256, format), data),
        format=format,
        pixel_width=24,
        pixel_height=24,
        bytes=len(data),
        value_range=200,
        job_id=f"job{number}",
        submitted_at=NOON,
        completed_at=NOON,
        run_id="run1",
        endpoint="https://api.imagepipeline.io/sdxl/text2image/v1",
    )
    return dataclasses.replace(whole, **changes)


def rejected_row(number: int, reason: str = "failed", **changes: Any) -> ModeratedImage:  # noqa: ANN401
    """Return a rejected row, which has no picture."""
    refused: dict[str, Any] = {"outcome": "failed", "verdict": "rejected"}
    return row(prompt_id=f"p{number:03d}", moderation_reason=reason, **(refused | changes))


class Interrupted(LocalFolder):
    """A local storage; something happens before each of its changes, told the path."""

    def __init__(self, folder: Path, happening: Callable[[str], object]) -> None:
        super().__init__(folder)
        self._happening = happening

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        self._happening(path)
        return super().write(path, data, derived=derived)

    @override
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        for path in objects:
            self._happening(path)
        super().write_all(objects)

    @override
    def upload(self, path: str, file: Path) -> str:
        self._happening(path)
        return super().upload(path, file)

    @override
    def delete(self, path: str) -> None:
        self._happening(path)
        super().delete(path)


def publish_rows(storage: Storage, rows: list[ModeratedImage], **options: Any) -> Release:  # noqa: ANN401
    """Publish the rows as the dataset 'foxes'."""
    given: dict[str, Any] = {"name": "foxes", "run_id": "run9", "created_at": NOON} | options
    # Most tests are about few pictures, of which one is many.
    given.setdefault("policy", ReleasePolicy(max_lost_share=1))
    return publish(Publication(storage=storage, images=rows, **given))


def contents(storage: Storage, folder: str) -> dict[str, bytes]:
    """Return every object below the folder."""
    return {path: storage.read(path) for path in storage.list(folder)}


def folder_of(storage: LocalFolder, path: str) -> Path:
    """Return the local folder of a path."""
    return Path(storage.uri_of(path).removeprefix("file://"))
