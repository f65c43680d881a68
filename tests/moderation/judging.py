"""Verdicts for tests: under the usual rules, without evidence, unless a test gives some."""

from __future__ import annotations

from collections.abc import Sequence

from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import Evidence, ModeratedImage, verdicts_on
from imagepipeline_dagster.purchase.images import GeneratedImage


def moderate(
    images: Sequence[GeneratedImage],
    rules: Rules | None = None,
    evidence: Evidence | None = None,
) -> list[ModeratedImage]:
    """Return the samples with their verdicts."""
    return list(verdicts_on(images, rules or Rules(), evidence or Evidence()))
