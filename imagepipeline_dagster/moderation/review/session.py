"""What one person decides about the pictures of some sets: recorded at once, and taken back."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.markup import visible
from imagepipeline_dagster.moderation.review.samples import facts_of, most_urgent_first
from imagepipeline_dagster.moderation.verdicts import (
    OVERRIDDEN,
    VERDICT_OF,
    ModeratedImage,
    decision_about,
    latest_decisions,
)
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnail
from imagepipeline_dagster.storage.contract import Storage, image_path
from imagepipeline_dagster.tables.overrides import (
    OVERRIDES,
    Override,
    OverrideDecision,
    count_overrides,
    read_overrides,
    record_overrides,
)

_NO_REASON = "looked at it"  # stands where a reviewer gives none
_Place = tuple[str, str]
"""Prompt set and SHA-256: what a decision of this page is about."""


class PictureUnknown(CorrectableError):
    """A decision about a picture that is not of the session's sets."""


class NothingToUndo(CorrectableError):
    """There is no decision to take back, or it does not count any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """How it stands with a picture in a set: the verdict to come, and who decided what and why.

    `decision` is None where nobody decided.
    """

    prompt_set: str
    image_sha256: str
    verdict: str
    decision: str | None
    reviewer: str | None
    why: str | None
    recorded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSample:
    """What the page shows of a sample beside how it stands with its picture."""

    decided: Decided
    prompt_id: str
    place: str
    reason: str
    facts: list[str]
    score: float | None
    prompt: str
    negative_prompt: str
    model: str
    seed: int | None
    size: str


class ReviewSession:
    """One person's look at the pictures of some sets. Safe to use from many threads.

    Args:
        images: moderated samples of one or more sets; those without a picture are left out.
        storage: where their pictures and thumbnails are.
        tables_url: the database with the table of decisions.
        reviewer: stands behind each decision.
        table: the table of decisions, where it is not the usual one.
    """

    def __init__(
        self,
        images: Iterable[ModeratedImage],
        storage: Storage,
        *,
        tables_url: str,
        reviewer: str,
        table: str = OVERRIDES,
    ) -> None:
        self.reviewer = reviewer
        self.recorded = 0
        self._images = most_urgent_first(i for i in images if i.image_sha256 and i.format)
        self._by_place = {_place(image): image for image in reversed(self._images)}
        self._formats = {sha256: str(i.format) for (_, sha256), i in self._by_place.items()}
        self._storage = storage
        self._tables_url = tables_url
        self._table = table
        self._lock = threading.Lock()
        self._standing: dict[_Place, Override | None] = {}
        self._decisions_read = -1  # how many there were
        self._undoable: list[tuple[Override, Override | None]] = []

    def samples(self) -> list[ShownSample]:
        """Return the samples that have a picture, with what people decided until now."""
        with self._lock:
            self._read_decisions()
            return [self._shown(image) for image in self._images]

    def thumbnail(self, sha256: str) -> bytes | None:
        """Return the thumbnail of a picture of these sets, as WebP; None for any other."""
        return stored_thumbnail(self._storage, sha256) if sha256 in self._formats else None

    def picture(self, sha256: str) -> tuple[bytes, str]:
        """Return a picture of these sets and its format, as Pillow names it.

        Raises:
            PictureUnknown: it is not one of these sets.
            ObjectMissing: the storage lost it.
        """
        if sha256 not in self._formats:
            raise PictureUnknown("This page has no such picture.")
        format_ = self._formats[sha256]
        return self._storage.read(image_path(sha256, format_)), format_

    def decide(
        self, prompt_set: str, sha256: str, decision: OverrideDecision, *, reason: str = ""
    ) -> Decided:
        """Record a decision about a picture in a set.

        Raises:
            PictureUnknown: it is not one of these sets.
            TablesUnavailable: it could not be recorded.
        """
        place = prompt_set, sha256
        with self._lock:
            if place not in self._by_place:
                raise PictureUnknown("This page has no such picture: load it anew.")
            # Somebody else may have decided since the page was loaded: an undo brings that back.
            if count_overrides(self._tables_url, table=self._table) != self._decisions_read:
                self._read_decisions()
            before = self._standing.get(place)
            if before is not None and before.reviewer != self.reviewer:
                # What was decided here before theirs is no longer to be taken back.
                self._undoable = [each for each in self._undoable if _about(each[0]) != place]
            now = self._record(place, decision, reason.strip() or _NO_REASON)
            self._undoable.append((now, before))
            self.recorded += 1
            return self._decided(place)

    def undo(self) -> Decided:
        """Take back the last decision of this session: what stood before it stands again.

        Raises:
            NothingToUndo: there is none, or somebody decided after it.
            TablesUnavailable: it could not be recorded.
        """
        with self._lock:
            if not self._undoable:
                raise NothingToUndo("Nothing was decided here that could be taken back.")
            mine, before = self._undoable[-1]
            place = _about(mine)
            self._read_decisions()
            stands = self._standing[place]
            if stands is None or _signed(stands) != _signed(mine):
                self._undoable.pop()
                raise NothingToUndo("Somebody has decided anew about this picture: look again.")
            decision = before.decision if before else OverrideDecision.CLEAR
            self._record(place, decision, f"undone; before: {before.reason if before else 'none'}")
            self._undoable.pop()
            self.recorded -= 1
            return self._decided(place)

    def _record(self, place: _Place, decision: OverrideDecision, reason: str) -> Override:
        prompt_set, sha256 = place
        override = Override(
            decision=decision,
            reviewer=self.reviewer,
            reason=reason,
            decided_at=dt.datetime.now(dt.UTC),
            prompt_set=prompt_set,
            image_sha256=sha256,
        )
        record_overrides(self._tables_url, [override], table=self._table)
        self._standing[place] = override
        self._decisions_read += 1
        return override

    def _read_decisions(self) -> None:
        # Counted first: what is recorded meanwhile is read again. None is ever taken away.
        self._decisions_read = count_overrides(self._tables_url, table=self._table)
        decisions = latest_decisions(read_overrides(self._tables_url, table=self._table))
        self._standing = {
            place: decision_about(image, decisions) for place, image in self._by_place.items()
        }

    def _decided(self, place: _Place) -> Decided:
        image, stands = self._by_place[place], self._standing.get(place)
        decides = stands is not None and stands.decision is not OverrideDecision.CLEAR
        return Decided(
            prompt_set=image.prompt_set,
            image_sha256=str(image.image_sha256),
            verdict=VERDICT_OF[stands.decision] if stands and decides else image.verdict,
            decision=stands.decision if stands else None,
            reviewer=visible(stands.reviewer) if stands else None,
            why=visible(stands.reason) if stands else None,
            recorded=self.recorded,
        )

    def _shown(self, image: ModeratedImage) -> ShownSample:
        return ShownSample(
            decided=self._decided(_place(image)),
            prompt_id=visible(image.prompt_id),
            place=f"call {image.call_index}, sample {image.sample_index}",
            reason=image.moderation_reason.removeprefix(OVERRIDDEN),
            facts=[visible(fact) for fact in facts_of(image)],
            score=image.nsfw_score,
            prompt=visible(image.prompt or ""),
            negative_prompt=visible(image.negative_prompt or ""),
            model=visible(image.model_id or ""),
            seed=image.seed,
            size=f"{image.pixel_width} by {image.pixel_height}" if image.pixel_width else "",
        )


def _signed(override: Override) -> tuple[str, str]:
    # Without reason and time: a decision that an undo brought back has others.
    return override.decision, override.reviewer


def _about(override: Override) -> _Place:
    return str(override.prompt_set), str(override.image_sha256)


def _place(image: ModeratedImage) -> _Place:
    return image.prompt_set, str(image.image_sha256)
