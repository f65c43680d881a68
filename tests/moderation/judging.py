"""Samples, decisions and verdicts for tests: the usual ones, but for what a test is about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import Evidence, ModeratedImage, verdicts_on
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def sample(prompt_id: str = "fox", **fields: Any) -> GeneratedImage:  # noqa: ANN401 - the row's own
    """Return a sample whose picture came, was checked, and is not blank."""
    usual = {"call_index": 0, "sample_index": 0, "outcome": "generated", "content_version": "c1"}
    seen = {"safety_checker": True, "value_range": 200}
    picture = {"format": "PNG"} if fields.get("image_sha256") else {}
    return GeneratedImage(
        **{"prompt_set": "spring", "prompt_id": prompt_id, **usual, **seen, **picture, **fields}
    )


def decided(decision: str, at: dt.datetime = NOON, **fields: Any) -> Override:  # noqa: ANN401
    """Return a person's decision about what the fields name."""
    usual = {"reviewer": "ana", "reason": "seen", **fields}
    return Override(decision=OverrideDecision(decision), decided_at=at, **usual)


def moderate(
    images: Sequence[GeneratedImage],
    rules: Rules | None = None,
    evidence: Evidence | None = None,
) -> list[ModeratedImage]:
    """Return the samples with their verdicts."""
    return list(verdicts_on(images, rules or Rules(), evidence or Evidence()))
