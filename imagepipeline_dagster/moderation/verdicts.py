"""A verdict for each requested sample, with its reason, and the counts of both.

A row of `moderated_images` is the row of `generated_images` with its verdict and evidence. No row
is dropped; each row that is not kept says why. The evidence, in this order:

1. what the API signalled: no picture came, and the outcome says why
2. bytes that are no picture
3. a picture of one flat colour
4. a file that holds more than its picture, and pixels that are not opaque
5. the classifier, where the policy asks it
6. whether the picture repeats another that is kept
7. a person, who overrules all of it but cannot keep what did not come
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.duplicates import repeated
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.rows import column, extended
from imagepipeline_dagster.tables.overrides import EVERY_SET, Override, OverrideDecision

BLANK_VALUE_RANGE = 12
"""The largest difference within a channel, of 255, that still counts as one flat colour.

Filters put one flat colour in place of what they took out, and lossy formats bend it: one of any
colour spans up to 12 after WebP at quality 75 (black, grey and white at most 1), and up to 9 after
JPEG at 95 when each value had noise of 2. A picture of anything spans more, however dark: one star
in a night sky is enough, because the range is that of the extremes and not an average.
"""

OVERRIDDEN = "override:"
"""The beginning of a person's reason; the reason that it overrules follows."""


class Verdict(StrEnum):
    """The verdict on a sample: only kept ones can reach a dataset."""

    KEPT = "kept"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


class ModerationReason(StrEnum):
    """Why a picture has its verdict.

    Where no picture came, the reason is its `Outcome`; a person's decision is written `override:…`.
    """

    OK = "ok"
    BLANK = "blank"
    CARRIES_MORE = "carries_more"
    TRANSPARENT = "transparent"
    NSFW = "nsfw"
    DUPLICATE = "duplicate"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeratedImage(GeneratedImage):
    """One requested sample with its verdict."""

    verdict: str = column("kept, rejected or quarantined")
    moderation_reason: str = column("Why it has this verdict")
    nsfw_score: float | None = column(
        "Score of the independent classifier, 0 (safe) to 1; null where it did not look",
        default=None,
    )
    nsfw_model: str | None = column("SHA-256 of the classifier's model", default=None)
    duplicate_of: str | None = column(
        "SHA-256 of the picture of this set that it repeats; its own where the bytes are equal",
        default=None,
    )
    overridden_by: str | None = column("Who decided in place of the evidence", default=None)
    override_reason: str | None = column("Why that person decided so", default=None)
    overridden_at: dt.datetime | None = column("When that person decided", default=None)
    moderation_basis: str | None = column(
        "Digest of the policy and the overrides behind the set's verdicts", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts about pictures beyond their rows, by SHA-256 where they are about one picture.

    Attributes:
        scores: the classifier's, 0 (safe) to 1; `computed` of them are new.
        model: SHA-256 of the classifier's model.
        hashes: perceptual hashes of 64 bits.
        overrides: what people decided, in any order.
        basis: digest of the policy and of these overrides.
    """

    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    computed: int = 0
    model: str | None = None
    hashes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overrides: Sequence[Override] = ()
    basis: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many samples were asked for, and what became of them.

    `requested` is the sum of the three verdicts and of `by_reason`. `why_not_kept` has the reasons
    of what was not kept alone. `overridden` samples, of any verdict, were decided by people.
    """

    requested: int
    kept: int
    rejected: int
    quarantined: int
    by_reason: Mapping[str, int]
    why_not_kept: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overridden: int = 0

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, times: int) -> Counts:
        return Counts(
            requested=self.requested + times * other.requested,
            kept=self.kept + times * other.kept,
            rejected=self.rejected + times * other.rejected,
            quarantined=self.quarantined + times * other.quarantined,
            by_reason=_sum(self.by_reason, other.by_reason, times),
            why_not_kept=_sum(self.why_not_kept, other.why_not_kept, times),
            overridden=self.overridden + times * other.overridden,
        )


def _sum(some: Mapping[str, int], others: Mapping[str, int], times: int) -> dict[str, int]:
    counts = Counter(some)
    for reason, number in others.items():
        counts[reason] += times * number
    return {reason: number for reason, number in sorted(counts.items()) if number}


NO_COUNTS = Counts(requested=0, kept=0, rejected=0, quarantined=0, by_reason={})
"""Of no samples."""


# These may still arrive, so nothing is decided about them.
_STILL_OPEN = (Outcome.UNKNOWN, Outcome.PENDING)

VERDICT_OF = {
    OverrideDecision.KEEP: Verdict.KEPT,
    OverrideDecision.REJECT: Verdict.REJECTED,
    OverrideDecision.QUARANTINE: Verdict.QUARANTINED,
}
"""The verdict that a person's decision gives; a cleared picture has that of its evidence."""

_Target = tuple[str | None, str | None, str | None]
"""SHA-256, prompt set and prompt id, as a row of decisions names them."""

Decisions = Mapping[tuple[_Target, OverrideDecision], Override]
"""The latest decision of each kind about each target."""

_REFUSALS = {"reject": Verdict.REJECTED, "quarantine": Verdict.QUARANTINED}


def verdicts_on(
    images: Iterable[GeneratedImage], rules: Rules, evidence: Evidence
) -> Iterator[ModeratedImage]:
    """Yield the same rows in the same order, each with its verdict; they are gone through twice.

    An earlier verdict of a row is not looked at: moderating again gives the same answer.

    Raises:
        ValueError: when an outcome is not one of `Outcome`.
    """
    people = latest_decisions(evidence.overrides)
    judgements = [_judgement_on(image, rules, evidence, people) for image in images]
    originals = _originals(judgements, rules, evidence)
    for image, judgement, original in zip(images, judgements, originals, strict=True):
        yield _moderated(image, judgement, original, rules, evidence)


class _Judgement(NamedTuple):
    """A picture's verdict, before it is known what it repeats; who decided in place of that."""

    verdict: Verdict
    reason: Outcome | ModerationReason
    image_sha256: str | None
    overridden: Override | None


def _judgement_on(
    image: GeneratedImage, rules: Rules, evidence: Evidence, people: Decisions
) -> _Judgement:
    sha256 = image.image_sha256
    verdict, reason = _verdict_on(image, rules, evidence.scores.get(sha256 or ""))
    # Nobody can keep what did not come.
    latest = decision_about(image, people) if image.outcome == Outcome.GENERATED else None
    if latest is None or latest.decision is OverrideDecision.CLEAR:
        return _Judgement(verdict, reason, sha256, None)
    return _Judgement(VERDICT_OF[latest.decision], reason, sha256, latest)


def _moderated(
    image: GeneratedImage,
    judgement: _Judgement,
    original: str | None,
    rules: Rules,
    evidence: Evidence,
) -> ModeratedImage:
    """Return an image's row; where the policy says so, each picture is kept once."""
    verdict, reason, sha256, by = judgement
    repeats = original is not None and rules.duplicates == "keep_once"
    if repeats and by is None and verdict is Verdict.KEPT:
        verdict, reason = Verdict.REJECTED, ModerationReason.DUPLICATE
    score = evidence.scores.get(sha256 or "")
    return extended(
        image,
        ModeratedImage,
        verdict=verdict.value,
        moderation_reason=reason.value if by is None else f"{OVERRIDDEN}{reason.value}",
        nsfw_score=score,
        nsfw_model=None if score is None else evidence.model,
        duplicate_of=original,
        overridden_by=by and by.reviewer,
        override_reason=by and by.reason,
        overridden_at=by and by.decided_at,
        moderation_basis=evidence.basis,
    )


def _verdict_on(
    image: GeneratedImage, rules: Rules, score: float | None
) -> tuple[Verdict, Outcome | ModerationReason]:
    outcome = Outcome(image.outcome)
    if outcome is not Outcome.GENERATED:
        return Verdict.QUARANTINED if outcome in _STILL_OPEN else Verdict.REJECTED, outcome
    if _is_refused_as_blank(image, rules):
        return _REFUSALS[rules.blank], ModerationReason.BLANK
    if image.carries_more is not None and rules.carries_more != "keep":
        return _REFUSALS[rules.carries_more], ModerationReason.CARRIES_MORE
    if image.has_alpha and rules.transparent != "keep":
        return _REFUSALS[rules.transparent], ModerationReason.TRANSPARENT
    match _treatment(image, rules):
        case "keep":
            reason = ModerationReason.OK if _is_checked(image) else ModerationReason.UNCHECKED
            return Verdict.KEPT, reason
        case "classify" if score is not None and score >= rules.reject_score:
            return Verdict.REJECTED, ModerationReason.NSFW
        case "classify" if score is not None and score >= rules.quarantine_score:
            return Verdict.QUARANTINED, ModerationReason.NSFW
        # A black picture scores as safe: a low score says nothing where blank was not ruled out.
        case "classify" if score is not None and image.value_range is not None:
            return Verdict.KEPT, ModerationReason.OK
        case _:
            return Verdict.QUARANTINED, ModerationReason.UNCHECKED


def is_classified(image: GeneratedImage, rules: Rules) -> bool:
    """Tell whether the policy wants a score; a blank picture is decided before, and scores low."""
    if image.outcome != Outcome.GENERATED or image.image_sha256 is None:
        return False
    return not _is_refused_as_blank(image, rules) and _treatment(image, rules) == "classify"


def _is_refused_as_blank(image: GeneratedImage, rules: Rules) -> bool:
    is_flat = image.value_range is not None and image.value_range <= BLANK_VALUE_RANGE
    return is_flat and rules.blank != "keep"


def _treatment(image: GeneratedImage, rules: Rules) -> Literal["keep", "classify", "quarantine"]:
    return rules.checked if _is_checked(image) else rules.unchecked


def _is_checked(image: GeneratedImage) -> bool:
    # A picture that nobody measured may be the blank one of a filter: it is unchecked too.
    return image.safety_checker is True and image.value_range is not None


def _targets_of(image: GeneratedImage) -> Iterator[_Target]:
    """Yield what a decision about the picture can name."""
    yield None, image.prompt_set, image.prompt_id
    for prompt_set in (image.prompt_set, EVERY_SET, None):
        yield image.image_sha256, prompt_set, None


def decision_about(image: GeneratedImage, decisions: Decisions) -> Override | None:
    """Return the decision that counts for a picture; None where nobody decided."""
    about = (
        override
        for target in _targets_of(image)
        for decision in OverrideDecision
        if (override := decisions.get((target, decision))) and override.covers(image.completed_at)
    )
    return max(about, key=lambda override: override.rank, default=None)


def latest_decisions(overrides: Iterable[Override]) -> Decisions:
    """Return the latest decision of each kind about each target."""
    return {
        ((o.image_sha256, o.prompt_set, o.prompt_id), o.decision): o
        for o in sorted(overrides, key=lambda override: override.rank)
    }


def _originals(
    judgements: Iterable[_Judgement], rules: Rules, evidence: Evidence
) -> list[str | None]:
    """Return for each image the picture that it repeats, if it does."""
    ranks = [
        # The first of several is one that is kept, and rather one that a person kept.
        (it.verdict is not Verdict.KEPT, it.overridden is None, place, it.image_sha256)
        for place, it in enumerate(judgements)
    ]
    ranks.sort(key=lambda rank: rank[:3])
    repeats = repeated(
        [sha256 for *_, sha256 in ranks], evidence.hashes, distance=rules.near_duplicate_distance
    )
    originals: list[str | None] = [None] * len(ranks)
    for (_, _, place, _), original in zip(ranks, repeats, strict=True):
        originals[place] = original
    return originals


class Fate(NamedTuple):
    """What became of a sample, as it is counted: its verdict, why, and whether a person said so."""

    verdict: str
    reason: str
    overridden: bool


def fate_of(row: ModeratedImage) -> Fate:
    """Return what became of a sample."""
    return Fate(row.verdict, row.moderation_reason, row.overridden_by is not None)


def summarise(rows: Iterable[ModeratedImage]) -> Counts:
    """Count the rows' verdicts and reasons."""
    return counts_of(Counter(map(fate_of, rows)))


def counts_of(fates: Mapping[Fate, int]) -> Counts:
    """Return the counts of samples by their verdicts and reasons."""
    verdicts, by_reason, why_not_kept = Counter[str](), Counter[str](), Counter[str]()
    overridden = 0
    for fate, number in fates.items():
        verdicts[fate.verdict] += number
        by_reason[fate.reason] += number
        if fate.verdict != Verdict.KEPT:
            why_not_kept[fate.reason] += number
        overridden += fate.overridden * number
    return Counts(
        requested=verdicts.total(),
        kept=verdicts[Verdict.KEPT],
        rejected=verdicts[Verdict.REJECTED],
        quarantined=verdicts[Verdict.QUARANTINED],
        by_reason=dict(sorted(by_reason.items())),
        why_not_kept=dict(sorted(why_not_kept.items())),
        overridden=overridden,
    )
