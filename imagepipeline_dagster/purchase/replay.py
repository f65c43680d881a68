"""An image's request bought again on purpose, and what came compared with what came then.

A replay is a request of its own in the ledger, so that it too is claimed before it is sent and
resumed by job id. Nothing of the original changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.contract import submit_path
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.lineage import ImageLineage, SampleLineage, uses_of_prompt
from imagepipeline_dagster.ledger.records import Entry, PlanState, State, StoredSample, plan_state
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.uses import Use
from imagepipeline_dagster.planning.requests import PlannedRequest, Reason
from imagepipeline_dagster.purchase.likeness import Comparison, Likeness, compare_pictures
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.purchase import Purchase
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

REPLAYS = "replay"
"""The dataset's name under which the ledger knows replays."""

_ORDER = list(Likeness)


class OtherOrigin(CorrectableError):
    """The image was bought from another API than the one that would be asked now."""


class ReplayFailed(CorrectableError):
    """The replay gave no picture; the message says what the ledger knows of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay came to; `posts` is 0 where an unfinished one was brought to its end."""

    request_key: str
    original_request_key: str
    job_id: str | None
    posts: int
    comparisons: tuple[Comparison, ...]

    @property
    def likeness(self) -> Likeness:
        """The least like of the comparisons that could be made."""
        return least_like(self.comparisons)


class Replay:
    """One request bought again.

    Args:
        image: where the image comes from; the first of its samples that was no replay is made
            again, with all samples of its call.
        means: what it is bought with; the ledger knows the original, and will know the replay.
        elsewhere: allow another origin than the original's.
        occasion: names it: of one occasion there is one replay, whoever asks how often. Without it
            each that was finished is followed by another.

    Raises:
        OtherOrigin: names both.
    """

    def __init__(
        self,
        image: ImageLineage,
        means: Means,
        *,
        elsewhere: bool = False,
        occasion: str | None = None,
    ) -> None:
        self._original = bought_sample(image)
        self._means = means
        self._occasion = occasion
        entry = self._original.entry
        # None is the emulator, wherever it ran.
        base_url = entry.endpoint.removesuffix(submit_path(entry.task))
        bought_at = None if entry.emulated else origin_of(base_url)
        replayed_at = None if means.emulated else means.origin
        if bought_at != replayed_at and not elsewhere:
            raise OtherOrigin(
                f"The image was made by {bought_at or 'the emulator'}, and "
                f"{replayed_at or 'the emulator'} "
                "would be asked now: another API's pictures say nothing about drift. Set "
                "IMAGEPIPELINE_API_KEY and IMAGEPIPELINE_BASE_URL as they were."
            )
        self._where = "" if bought_at == replayed_at else f" at {replayed_at or 'the emulator'}"

    @property
    def images(self) -> int:
        """The images that it costs: all samples of the call."""
        return self._original.entry.samples

    def carry_out(self) -> ReplayReport:
        """Buy the request again, wait for it, and compare; a replay left unfinished is resumed.

        Raises:
            ReplayFailed: no picture came.
            ImagePipelineError, OSError: what made the purchase stop.
            ObjectMissing: a stored picture is gone.
        """
        original, ledger = self._original, self._means.ledger
        key = self._request_key()
        use = dataclasses.replace(
            original.uses[-1], dataset=REPLAYS, request_key=key, run_id=self._means.run_id
        )
        plan = [_planned_again(original, use)]
        report = Purchase(plan=plan, uses=[use], means=self._means).carry_out()
        entry = ledger.entries([key]).get(key)
        if entry is None or not entry.settled:
            if report.stopper is not None:
                raise report.stopper
            raise ReplayFailed(_what_happened(entry))
        return ReplayReport(
            request_key=key,
            original_request_key=original.entry.request_key,
            job_id=entry.job_id,
            posts=report.posts,
            comparisons=compared(original.entry, entry, self._means.storage),
        )

    def _request_key(self) -> str:
        """Return the key of the first replay that is not finished, or of a new one."""
        ledger = self._means.ledger
        if self._occasion is not None:
            replays = replays_of(self._original, ledger)
            unfinished = [entry.request_key for entry in replays if entry.is_under_way]
            return unfinished[0] if unfinished else self._key_of(self._occasion)
        ordinal = 1
        while True:
            key = self._key_of(str(ordinal))
            entry = ledger.entries([key]).get(key)
            if (entry and entry.is_under_way) or plan_state(entry) is PlanState.TO_BUY:
                return key
            ordinal += 1

    def _key_of(self, replay: str) -> str:
        name = f"{self._original.entry.request_key} replay {replay}{self._where}"
        return hashlib.sha256(name.encode()).hexdigest()


def _planned_again(original: SampleLineage, use: Use) -> PlannedRequest:
    return PlannedRequest(
        **fields_of(use, "request_key", "prompt_set", "prompt_id", "call_index"),
        **fields_of(original.entry, "task", "samples", "embedding_version", "request"),
        seed=original.seed or 0,
        reason=Reason.NEW,
        state=PlanState.TO_BUY,
    )


def bought_sample(image: ImageLineage) -> SampleLineage:
    """Return the first of an image's samples that was no replay."""
    bought = [of for of in image.samples if any(use.dataset != REPLAYS for use in of.uses)]
    return (bought or image.samples)[0]


def replays_of(original: SampleLineage, ledger: Ledger) -> list[Entry]:
    """Return a sample's replays at the same API, the newest first."""
    used = original.uses[-1]
    replays = {
        of.entry.request_key: of.entry
        for of in uses_of_prompt(ledger, used.prompt_set, used.prompt_id)
        if of.use.dataset == REPLAYS and _is_same_call(of.entry, original.entry)
    }
    return sorted(replays.values(), key=lambda entry: entry.claimed_at, reverse=True)


def _is_same_call(entry: Entry, original: Entry) -> bool:
    if (entry.request, entry.emulated) != (original.request, original.emulated):
        return False
    # The emulator has another port each time.
    return entry.emulated or entry.endpoint == original.endpoint


def compared(original: Entry, replay: Entry, storage: Storage) -> tuple[Comparison, ...]:
    """Return how each sample of a request compares with its replay's.

    Raises:
        ObjectMissing: a stored picture is gone.
    """
    return tuple(_compare(sample, replay.stored, storage) for sample in original.stored)


def least_like(comparisons: Sequence[Comparison]) -> Likeness:
    """Return the least like of the comparisons that could be made."""
    likenesses = {comparison.likeness for comparison in comparisons} - {Likeness.NOT_COMPARABLE}
    return max(likenesses, key=_ORDER.index, default=Likeness.NOT_COMPARABLE)


def _what_happened(entry: Entry | None) -> str:
    if entry is None:
        return "The replay was not sent."
    because = f": {entry.error}" if entry.error else ""
    what = f"The replay {entry.request_key[:12]} is {entry.state}{because}."
    if entry.state is State.UNKNOWN:
        return f"{what} It may have been bought; `imagepipeline-dagster ledger unknown` lists it."
    if entry.state is State.SUBMITTED:
        return f"{what} Replay the image again: its job is asked for again, and nothing is bought."
    return what


def _compare(
    original: StoredSample, replayed: Sequence[StoredSample], storage: Storage
) -> Comparison:
    """Compare an original sample with its counterpart.

    Where fewer links than samples came, nobody knows which is which: the likest one counts.
    """
    known = [s for s in replayed if s.sample_index is not None]
    same = [s for s in known if s.sample_index == original.sample_index]
    pictures = [s for s in same or replayed if s.image_sha256 is not None]
    if original.image_sha256 is None or not pictures:
        counterpart = next((s for s in replayed if s.slot == original.slot), None)
        return Comparison(
            slot=original.slot,
            likeness=Likeness.NOT_COMPARABLE,
            outcome=counterpart.outcome if counterpart else "missing",
            image_sha256=counterpart.image_sha256 if counterpart else None,
            original_sha256=original.image_sha256,
        )
    before = _bytes_of(original, storage)
    compared = [
        compare_pictures(
            before,
            _bytes_of(sample, storage),
            slot=original.slot,
            outcome=sample.outcome,
        )
        for sample in pictures
    ]
    return min(compared, key=lambda it: (_ORDER.index(it.likeness), it.hash_distance))


def _bytes_of(sample: StoredSample, storage: Storage) -> bytes:
    if sample.image_sha256 is None or sample.format is None:
        raise ObjectMissing(f"sample {sample.slot} has no picture")
    return storage.read(image_path(sample.image_sha256, sample.format))
