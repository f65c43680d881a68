"""Which pictures a person's decision holds for."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from imagepipeline_dagster.moderation.verdicts import Evidence
from imagepipeline_dagster.tables.overrides import Override
from tests.moderation.judging import NOON, decided, moderate, sample

SHA256 = "c" * 64
LATER, EARLIER = NOON + dt.timedelta(minutes=1), NOON - dt.timedelta(minutes=1)
PROMPT: dict[str, Any] = {"prompt_set": "spring", "prompt_id": "fox"}
PICTURE: dict[str, Any] = {"image_sha256": SHA256}


@pytest.mark.parametrize(
    ("decisions", "came_at", "verdict"),
    [
        ([decided("keep", **PROMPT)], EARLIER, "kept"),
        ([decided("keep", **PROMPT)], LATER, "quarantined"),
        ([decided("keep", **PROMPT)], None, "quarantined"),
        # A database's CURRENT_TIMESTAMP cuts the second off in which the picture came.
        ([decided("keep", **PROMPT)], NOON.replace(microsecond=900_000), "kept"),
        ([decided("reject", **PROMPT)], LATER, "rejected"),
        ([decided("quarantine", **PROMPT)], LATER, "quarantined"),
        # A later keep takes a refusal back for what was there, and for nothing else.
        ([decided("reject", EARLIER, **PROMPT), decided("keep", **PROMPT)], EARLIER, "kept"),
        ([decided("reject", EARLIER, **PROMPT), decided("keep", **PROMPT)], LATER, "rejected"),
        ([decided("keep", **PICTURE)], EARLIER, "kept"),
        ([decided("keep", **PICTURE)], LATER, "quarantined"),
        ([decided("keep", prompt_set="spring", **PICTURE)], LATER, "kept"),
        ([decided("keep", prompt_set="*", **PICTURE)], LATER, "kept"),
        ([decided("keep", prompt_set="summer", **PICTURE)], EARLIER, "quarantined"),
        ([decided("reject", prompt_set="summer", **PICTURE)], EARLIER, "quarantined"),
        ([decided("reject", **PICTURE)], LATER, "rejected"),
        # What is cleared is as if nobody had decided, whatever a row names.
        ([decided("reject", EARLIER, **PROMPT), decided("clear", **PROMPT)], LATER, "quarantined"),
        ([decided("reject", EARLIER, **PROMPT), decided("clear", **PICTURE)], LATER, "quarantined"),
        ([decided("clear", EARLIER, **PICTURE), decided("reject", **PICTURE)], LATER, "rejected"),
    ],
)
def test_a_keep_covers_what_was_seen_and_a_refusal_all_that_comes(
    decisions: list[Override], came_at: dt.datetime | None, verdict: str
) -> None:
    """A keep holds for pictures that were there, in the sets that it names; a reject is sticky."""
    image = sample(safety_checker=False, image_sha256=SHA256, completed_at=came_at)
    [row] = moderate([image], evidence=Evidence(overrides=decisions))
    assert row.verdict == verdict
