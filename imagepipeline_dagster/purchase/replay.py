"""An image's request bought again on purpose, and what came compared with what came then.

A replay is a request of its own in the ledger, so that it too is claimed before it is sent and
resumed by job id. Nothing of the original changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import submit_path
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.lineage import ImageLineage, SampleLineage, uses_of_prompt
from imagepipeline_dagster.ledger.records import (
    Entry,
    PlanState,
    State,
    StoredSample,
    Use,
    plan_state,
)
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.requests import PlannedRequest, Reason
from imagepipeline_dagster.purchase.likeness import Comparison, Likeness, compare_pictures
from imagepipeline_dagster.purchase.purchase import Purchase
from imagepipeline_dagster.purchase.rounds import PurchaseSettings
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
        ledger: where the original is, and the replay will be.
        origin: of the API that is asked now, as in a request's key.
        emulated: whether the emulator answers.
        elsewhere: allow another origin than the original's.
        occasion: names it: of one occasion there is one replay, whoever asks how often. Without it
            each that was finished is followed by another.

    Raises:
        OtherOrigin: names both.
    """

    def __init__(
        self,
        image: ImageLineage,
        *,
        ledger: Ledger,
        origin: str,
        emulated: bool,
        elsewhere: bool = False,
        occasion: str | None = None,
    ) -> None:
        self.sample = _original(image.samples)
        self._image = image
        self._ledger = ledger
        self._emulated = emulated
        self._occasion = occasion
        # None is the emulator, wherever it ran.
        base_url = self.sample.endpoint.removesuffix(submit_path(self.sample.task))
        bought_at = None if self.sample.emulated else origin_of(base_url)
        replayed_at = None if emulated else origin
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
        return self.sample.samples

    def carry_out(
        self,
        *,
        storage: Storage,
        open_client: Callable[[], AbstractAsyncContextManager[ImagePipelineClient]],
        settings: PurchaseSettings,
        allowance: Allowance,
        run_id: str,
    ) -> ReplayReport:
        """Buy the request again, wait for it, and compare; a replay left unfinished is resumed.

        Raises:
            ReplayFailed: no picture came.
            ImagePipelineError, OSError: what made the purchase stop.
            ObjectMissing: a stored picture is gone.
        """
        call = self._call()
        used = self.sample.uses[-1] if self.sample.uses else None
        row = Use(
            prompt_id=call.prompt_id,
            call_index=call.call_index,
            request_key=call.request_key,
            prompt_row=used.prompt_row if used else "{}",
            embedding_row=used.embedding_row if used else None,
        )
        report = Purchase(
            plan=[call],
            prompts=[row],
            dataset=REPLAYS,
            run_id=run_id,
            ledger=self._ledger,
            storage=storage,
            open_client=open_client,
            emulated=self._emulated,
            allowance=allowance,
            settings=settings,
        ).carry_out()
        keys = (self.sample.request_key, call.request_key)
        original, entry = map(self._ledger.entries(keys).get, keys)
        if entry is None or original is None or not entry.settled:
            if report.stopper is not None:
                raise report.stopper
            raise ReplayFailed(_what_happened(entry))
        return ReplayReport(
            request_key=entry.request_key,
            original_request_key=original.request_key,
            job_id=entry.job_id,
            posts=report.posts,
            comparisons=compared(original, entry, storage),
        )

    def _call(self) -> PlannedRequest:
        sample = self.sample
        used = sample.uses[-1].call if sample.uses else None
        return PlannedRequest(
            request_key=self._request_key(),
            prompt_set=used.prompt_set if used else "",
            prompt_id=used.prompt_id if used else "",
            call_index=used.call_index if used else 0,
            task=sample.task,
            seed=sample.seed or 0,
            samples=sample.samples,
            embedding_version=sample.embedding_version,
            request=sample.request,
            reason=Reason.NEW,
            state=PlanState.TO_BUY,
        )

    def _request_key(self) -> str:
        """Return the key of the first replay that is not finished, or of a new one."""
        if self._occasion is not None:
            _, replays = replays_of(self._image, self._ledger)
            unfinished = [entry.request_key for entry in replays if _is_unfinished(entry)]
            return unfinished[0] if unfinished else self._key_of(self._occasion)
        ordinal = 1
        while True:
            key = self._key_of(str(ordinal))
            entry = self._ledger.entries([key]).get(key)
            if _is_unfinished(entry) or plan_state(entry) is PlanState.TO_BUY:
                return key
            ordinal += 1

    def _key_of(self, replay: str) -> str:
        name = f"{self.sample.request_key} replay {replay}{self._where}"
        return hashlib.sha256(name.encode()).hexdigest()


def replays_of(image: ImageLineage, ledger: Ledger) -> tuple[Entry, list[Entry]]:
    """Return an image's request, and its replays at the same API, the newest first."""
    sample = _original(image.samples)
    call = sample.uses[-1].call if sample.uses else None
    uses = uses_of_prompt(ledger, call.prompt_set, call.prompt_id) if call else []
    keys = {use.request_key for use in uses if use.use.call.dataset == REPLAYS}
    entries = ledger.entries(keys | {sample.request_key})
    original = entries.pop(sample.request_key)
    replays = [entry for entry in entries.values() if _is_same_call(entry, original)]
    return original, sorted(replays, key=lambda entry: entry.claimed_at, reverse=True)


def _is_unfinished(entry: Entry | None) -> bool:
    """Tell whether it was sent, and can be brought to its end without buying anything."""
    if entry is not None and entry.lost_its_job:
        return True
    return plan_state(entry) is PlanState.IN_FLIGHT


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


def _original(samples: Sequence[SampleLineage]) -> SampleLineage:
    bought = [s for s in samples if any(use.call.dataset != REPLAYS for use in s.uses)]
    return (bought or samples)[0]


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
            size=None,
            original_sha256=original.image_sha256,
            original_size=None,
            mean_difference=None,
            hash_distance=None,
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
