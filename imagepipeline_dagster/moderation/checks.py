"""What the checks of a set's verdicts ask of its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import (
    OVERRIDDEN,
    ModeratedImage,
    ModerationReason,
    Verdict,
)
from imagepipeline_dagster.purchase.images import GeneratedImage

_FEW = 20
"""Among fewer judged samples some flags are a large share, and no sign of anything."""


_ABOUT_CONTENT = (
    *(Outcome.VENDOR_FILTERED, Outcome.UNDECODABLE),
    *(ModerationReason.BLANK, ModerationReason.NSFW),
)


def judged_pictures(images: Iterable[ModeratedImage]) -> tuple[int, int]:
    """Return how many samples were judged by what they show, and how many of them rejected.

    A sample that was never bought, or is still open, says nothing about the model or the prompts.
    """
    judged = rejected = 0
    for image in images:
        if image.outcome == Outcome.GENERATED or image.moderation_reason in _ABOUT_CONTENT:
            judged += 1
            rejected += (
                image.verdict == Verdict.REJECTED
                and image.moderation_reason != ModerationReason.DUPLICATE
            )
    return judged, rejected


def too_many_are_rejected(images: Iterable[ModeratedImage], rules: Rules) -> bool:
    """Tell whether a larger share is rejected for what it shows than the rules allow."""
    judged, rejected = judged_pictures(images)
    return judged >= _FEW and rejected > rules.max_rejected_share * judged


def disagreements(
    images: Iterable[ModeratedImage], rules: Rules
) -> tuple[int, list[ModeratedImage]]:
    """Return how many pictures both the API let pass and the classifier saw, and those it doubts.

    The other way round cannot be compared: a picture that the API held back never came.
    """
    compared = 0
    doubted: list[ModeratedImage] = []
    for image in images:
        if image.safety_checker is True and image.nsfw_score is not None:
            compared += 1
            if image.nsfw_score >= rules.quarantine_score:
                doubted.append(image)
    return compared, sorted(doubted, key=lambda image: -(image.nsfw_score or 0))


def repetitions(images: Iterable[ModeratedImage]) -> tuple[int, list[ModeratedImage]]:
    """Return how many pictures there are, and those that repeat another."""
    pictures = 0
    repeating: list[ModeratedImage] = []
    for image in images:
        pictures += image.image_sha256 is not None
        if image.duplicate_of is not None:
            repeating.append(image)
    return pictures, repeating


def wrong_sizes(images: Iterable[ModeratedImage]) -> list[ModeratedImage]:
    """Return the pictures that have another size than their request asked for."""
    return [
        image
        for image in images
        if _size_asked(image) not in (None, (image.pixel_width, image.pixel_height))
    ]


def _size_asked(image: ModeratedImage) -> tuple[int, int] | None:
    if image.image_sha256 is None or image.request is None:
        return None
    asked = json.loads(image.request)
    return (asked["width"], asked["height"]) if {"width", "height"} <= asked.keys() else None


def objections(rows: Iterable[ModeratedImage]) -> list[str]:
    """Return a sentence for each row that must not be in a dataset, whatever its verdict says.

    Moderation gives no such verdict. Rows can come from elsewhere, or from a table that was edited.
    """
    return [
        f"{row.prompt_set!r}, prompt {row.prompt_id!r}: {objection}"
        for row in rows
        if (objection := _objection(row))
    ]


def _objection(row: ModeratedImage) -> str | None:
    if row.verdict != Verdict.KEPT:
        return f"its verdict is {row.verdict!r}, not kept."
    if row.image_sha256 is None or row.format is None:
        return "it was kept, but has no image."
    decided = row.moderation_reason.startswith(OVERRIDDEN)
    # A policy that keeps unchecked pictures says so in each row's reason.
    by_policy = row.moderation_reason == ModerationReason.UNCHECKED
    if not (row.safety_checker is True or row.nsfw_score is not None or by_policy or decided):
        return "it was kept, but nobody checked it: no safety checker and no override."
    return None


def accounting_problems(asked: Mapping[str, int], rows: Iterable[GeneratedImage]) -> list[str]:
    """Return a sentence for each prompt of one set whose samples are not all accounted for.

    Args:
        asked: the samples that each prompt id of the set asks for.
        rows: the set's rows, one a sample.
    """
    recorded = Counter(row.prompt_id for row in rows)
    return [
        f"Prompt {prompt_id!r}: {asked.get(prompt_id, 0)} samples asked for, "
        f"{recorded[prompt_id]} rows recorded."
        for prompt_id in sorted(asked.keys() | recorded.keys())
        if asked.get(prompt_id, 0) != recorded[prompt_id]
    ]
