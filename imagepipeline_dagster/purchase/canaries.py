"""Canaries: pinned pictures whose requests are bought again on a schedule, to see the model drift.

A canary is a replay, of which there is one a day for each picture, whoever asks and how often. A
replay that a person asks for counts as well. When it drifted, the ledger and the pictures tell.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, field_validator

from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.decisions import FIRST_DIGITS, MIN_PREFIX
from imagepipeline_dagster.ledger.lineage import ImageUnknown, lineage_of
from imagepipeline_dagster.ledger.records import Entry
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.options import Options
from imagepipeline_dagster.planning.approval import NOT_APPROVED, Approval, NotApproved
from imagepipeline_dagster.purchase.likeness import Likeness
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.replay import (
    Replay,
    bought_sample,
    compared,
    least_like,
    replays_of,
)
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage


class Canaries(Options):
    """Pictures whose requests are bought again on a schedule, to see whether the model drifted."""

    images: Sequence[str] = Field(
        (),
        description="The first eight or more digits of the SHA-256 of pictures that were bought; "
        "none: no canaries. Each costs its call again, at most once a day.",
    )
    cron: str = Field("0 5 * * 1", description="When they are bought, as cron, UTC.")

    def price_text(self, allowance: Allowance, *, samples_per_call: int) -> str | None:
        """Return what they cost and when, None where none is pinned."""
        if not self.images:
            return None
        images = len(self.images) * samples_per_call
        price = allowance.price_text(images)
        return f"{images:,} images{f' for {price}' if price else ''}, each time of {self.cron}"

    @field_validator("images")
    @classmethod
    def _are_digits(cls, images: Sequence[str]) -> Sequence[str]:
        for image in images:
            if not FIRST_DIGITS.fullmatch(image):
                raise ValueError(f"images: {image!r} is not {MIN_PREFIX} or more digits of a hash")
        return images


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryLook:
    """How a canary's newest picture compares with the pinned one.

    Attributes:
        image: the pinned picture, as it was named.
        likeness: not comparable where it was not bought again yet, or a picture is missing.
        looked_at: when the newest that can be compared was bought.
        same_until: when a picture was last the same to the eye, the pinned one at the earliest.
        drifted_since: when the first other one after that was bought; None where it is the same.
    """

    image: str
    likeness: Likeness = Likeness.NOT_COMPARABLE
    looked_at: dt.datetime | None = None
    same_until: dt.datetime | None = None
    drifted_since: dt.datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """That the hosted model gives other pictures now, by so many of its canaries.

    It changed after `same_until`, and before `since`.
    """

    canaries: int
    drifted: int
    same_until: dt.datetime
    since: dt.datetime


def buy_canaries(
    images: Sequence[str], means: Means, *, approval: Approval, today: dt.date
) -> None:
    """Buy the pictures' requests again that were not bought again today; first what was left over.

    Raises:
        ImageUnknown: the ledger does not know a picture.
        OtherOrigin: one was bought from another API.
        NotApproved: the dataset lets a purchase of this size wait for a person.
        ReplayFailed, ImagePipelineError, OSError: what kept one from being bought.
    """
    canaries = [
        Replay(lineage_of(means.ledger, image), means, occasion=str(today)) for image in images
    ]
    number = sum(canary.images for canary in canaries)
    if approval.is_needed(number, means.allowance.cost(number)):
        raise NotApproved(
            f"{NOT_APPROVED}: canaries of {number:,} images, and such a purchase waits for a "
            "person. `imagepipeline-dagster replay` buys one whenever a person asks, and counts."
        )
    for canary in canaries:
        canary.carry_out()


def look_at_canaries(images: Sequence[str], ledger: Ledger, storage: Storage) -> list[CanaryLook]:
    """Return how the canaries stand; nothing is written."""
    return [_look(image, ledger, storage) for image in images]


def _look(image: str, ledger: Ledger, storage: Storage) -> CanaryLook:
    try:
        original = bought_sample(lineage_of(ledger, image))
    except ImageUnknown:
        return CanaryLook(image=image)
    likenesses: list[Likeness] = []
    looked_at, since, same_until = None, None, original.entry.claimed_at
    for replay in replays_of(original, ledger):
        likeness = _likeness(original.entry, replay, storage)
        if likeness is Likeness.NOT_COMPARABLE:
            continue
        looked_at = looked_at or replay.claimed_at
        likenesses.append(likeness)
        if likeness is not Likeness.DRIFTED:
            same_until = replay.claimed_at
            break
        since = replay.claimed_at
    return CanaryLook(
        image=image,
        likeness=likenesses[0] if likenesses else Likeness.NOT_COMPARABLE,
        looked_at=looked_at,
        same_until=same_until,
        drifted_since=since,
    )


def _likeness(original: Entry, replay: Entry, storage: Storage) -> Likeness:
    if not replay.settled:
        return Likeness.NOT_COMPARABLE
    try:
        return least_like(compared(original, replay, storage))
    except ObjectMissing:
        return Likeness.NOT_COMPARABLE


def drift_of(looks: Sequence[CanaryLook]) -> Drift | None:
    """Return since when the model drifted, by the first of its canaries that did."""
    drifted = [
        (look.drifted_since, look.same_until)
        for look in looks
        if look.drifted_since is not None and look.same_until is not None
    ]
    if not drifted:
        return None
    since, same_until = min(drifted)
    return Drift(canaries=len(looks), drifted=len(drifted), same_until=same_until, since=since)
