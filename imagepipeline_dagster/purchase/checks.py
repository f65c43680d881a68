"""What should not have become of a sample, and what a person can do where it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.planning.approval import is_not_approved
from imagepipeline_dagster.purchase.images import GeneratedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """That no sample of a set has one of these outcomes.

    Attributes:
        name: of the check that looks.
        description: what holds where it is met.
        outcomes: those that break it.
        finding: what is said of the samples that break it.
        advice: what to do about it.
    """

    name: str
    description: str
    outcomes: tuple[Outcome, ...]
    finding: str
    advice: str

    def verdict(self, found: int, *, of: int) -> str:
        """Return a sentence about so many samples that break it, of so many in all."""
        counted = f"{found} of {of} samples {self.finding}"
        return f"{counted}; {self.advice}" if found else counted


EXPECTATIONS = (
    Expectation(
        name="images_are_complete",
        description="Every sample came, was filtered or was refused; none is still open or failed.",
        outcomes=(Outcome.PENDING, Outcome.FAILED, Outcome.EXPIRED),
        finding="are open or failed",
        advice="approve its plan if that is what it waits for, or materialize the set again; for "
        "what stays open see the column `error`",
    ),
    Expectation(
        name="no_answer_was_lost",
        description="Of every request it is known whether it was bought.",
        outcomes=(Outcome.UNKNOWN,),
        finding="may or may not have been bought",
        advice="none is sent again by itself: see `imagepipeline-dagster ledger unknown`",
    ),
    Expectation(
        name="images_decode",
        description="No delivered file was something else than a picture.",
        outcomes=(Outcome.UNDECODABLE,),
        finding="were delivered, and are no pictures",
        advice="to buy them again: `imagepipeline-dagster ledger resubmit`",
    ),
)
"""What a purchase of a set should come to."""


def waiting_for_approval(images: Iterable[GeneratedImage]) -> list[GeneratedImage]:
    """Return the samples that wait until a person approves their purchase."""
    return [image for image in images if is_not_approved(image.error)]
