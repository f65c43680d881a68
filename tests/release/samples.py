"""Moderated rows and their pictures, for the tests of releases."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from io import BytesIO
from typing import Any

from PIL import Image

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import Publication, publish
from imagepipeline_dagster.storage.contract import Storage, image_path

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
    row = ModeratedImage(
        prompt_set="spring",
        prompt_id=f"p{number:03d}",
        call_index=0,
        sample_index=0,
        outcome="generated",
        content_version="c1",
        task="text2image",
        model_id="sdxl",
        prompt=f"a fox, number {number}",
        negative_prompt=None,
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
        verdict="kept",
        moderation_reason="ok",
    )
    return dataclasses.replace(row, **changes)


def rejected_row(number: int, reason: str = "failed", **changes: Any) -> ModeratedImage:  # noqa: ANN401
    """Return a rejected row, which has no picture."""
    row = ModeratedImage(
        prompt_set="spring",
        prompt_id=f"p{number:03d}",
        call_index=0,
        sample_index=0,
        outcome="failed",
        content_version="c1",
        verdict="rejected",
        moderation_reason=reason,
    )
    return dataclasses.replace(row, **changes)


def publish_rows(storage: Storage, rows: list[ModeratedImage], **options: Any) -> Release:  # noqa: ANN401
    """Publish the rows as the dataset 'foxes'."""
    given: dict[str, Any] = {"name": "foxes", "run_id": "run9", "created_at": NOON} | options
    # Most tests are about few pictures, of which one is many.
    given.setdefault("policy", ReleasePolicy(max_lost_share=1))
    return publish(Publication(storage=storage, images=rows, **given))
