"""A verdict for each requested sample, with its reason, and the counts of both.

A row of `moderated_images` is the row of `generated_images` with three columns more. No row is
dropped: what is not kept says why.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imagepipeline_dagster.generation.images import GeneratedImage, Outcome
from imagepipeline_dagster.moderation.blank import is_blank
from imagepipeline_dagster.rows import column

__all__ = [
    "Counts",
    "ModeratedImage",
    "ModerationReason",
    "Verdict",
    "accounting_problems",
    "moderate",
    "summarise",
]


class Verdict(StrEnum):
    """What happens to a sample: only what is kept can reach a dataset."""

    KEPT = "kept"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


class ModerationReason(StrEnum):
    """Why a sample has its verdict; a person's decision is written `override:…` instead."""

    OK = "ok"
    VENDOR_FILTERED = "vendor_filtered"
    BLANK = "blank"
    NSFW = "nsfw"
    UNCHECKED = "unchecked"
    UNDECODABLE = "undecodable"
    FAILED = "failed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    PENDING = "pending"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeratedImage(GeneratedImage):
    """One requested sample with its verdict."""

    verdict: str = column("kept, rejected or quarantined")
    moderation_reason: str = column("Why it has this verdict")
    nsfw_score: float | None = column(
        "Score of the independent classifier, 0 (safe) to 1; null where it did not look",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many samples were asked for, and what became of them.

    `requested` is the sum of the three verdicts and of `by_reason`, whose keys are sorted.
    """

    requested: int
    kept: int
    rejected: int
    quarantined: int
    by_reason: Mapping[str, int]


_WITHOUT_PICTURE: dict[Outcome, tuple[Verdict, ModerationReason]] = {
    Outcome.VENDOR_FILTERED: (Verdict.REJECTED, ModerationReason.VENDOR_FILTERED),
    Outcome.FAILED: (Verdict.REJECTED, ModerationReason.FAILED),
    Outcome.UNDECODABLE: (Verdict.REJECTED, ModerationReason.UNDECODABLE),
    Outcome.EXPIRED: (Verdict.REJECTED, ModerationReason.EXPIRED),
    Outcome.INVALID: (Verdict.REJECTED, ModerationReason.INVALID),
    # These may still arrive, so nothing is decided about them.
    Outcome.UNKNOWN: (Verdict.QUARANTINED, ModerationReason.UNKNOWN),
    Outcome.PENDING: (Verdict.QUARANTINED, ModerationReason.PENDING),
}

_GENERATED_FIELDS = tuple(field.name for field in dataclasses.fields(GeneratedImage))


def moderate(images: Sequence[GeneratedImage]) -> list[ModeratedImage]:
    """Return the same rows in the same order, each with its verdict.

    An earlier verdict of a row is not looked at: moderating again gives the same answer.

    Raises:
        ValueError: when an outcome is not one of `Outcome`.
    """
    return [_moderated(image) for image in images]


def _moderated(image: GeneratedImage) -> ModeratedImage:
    verdict, reason = _verdict_on(image)
    return ModeratedImage(
        **{name: getattr(image, name) for name in _GENERATED_FIELDS},
        verdict=verdict.value,
        moderation_reason=reason.value,
    )


def _verdict_on(image: GeneratedImage) -> tuple[Verdict, ModerationReason]:
    outcome = Outcome(image.outcome)
    if outcome is not Outcome.GENERATED:
        return _WITHOUT_PICTURE[outcome]
    if image.value_range is not None and is_blank(image.value_range):
        return Verdict.REJECTED, ModerationReason.BLANK
    # A picture that nobody measured may be the blank one of a filter: it is unchecked too.
    if image.safety_checker is not True or image.value_range is None:
        return Verdict.QUARANTINED, ModerationReason.UNCHECKED
    return Verdict.KEPT, ModerationReason.OK


def summarise(rows: Iterable[ModeratedImage]) -> Counts:
    """Count the rows' verdicts and reasons."""
    listed = list(rows)
    verdicts = Counter(row.verdict for row in listed)
    return Counts(
        requested=len(listed),
        kept=verdicts[Verdict.KEPT],
        rejected=verdicts[Verdict.REJECTED],
        quarantined=verdicts[Verdict.QUARANTINED],
        by_reason=dict(sorted(Counter(row.moderation_reason for row in listed).items())),
    )


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
