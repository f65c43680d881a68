"""The plan carried out: each call claimed, POSTed, waited for and brought home.

A purchase is put together here, runs in a thread of its own, and survives an interruption; its
work is done in `rounds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, wait
from dataclasses import dataclass

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.pacing import RequestPace
from imagepipeline_dagster.databases import AWAY
from imagepipeline_dagster.ledger.records import Attempt, Entry, Lease, Owner
from imagepipeline_dagster.ledger.shares import AccountLimits
from imagepipeline_dagster.ledger.sources import SourcePicture, sources_of
from imagepipeline_dagster.ledger.steps import record_release, record_renewal
from imagepipeline_dagster.ledger.uses import Use
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.counting import PurchaseCount
from imagepipeline_dagster.purchase.endings import Endings
from imagepipeline_dagster.purchase.fence import Fence, Moment
from imagepipeline_dagster.purchase.images import GeneratedImage, samples_asked_for
from imagepipeline_dagster.purchase.landing import Landing
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.places import AccountShare, Places
from imagepipeline_dagster.purchase.rounds import Rounds
from imagepipeline_dagster.purchase.sources import keeping_sources, links_of
from imagepipeline_dagster.purchase.state import PurchaseProgress, RunState
from imagepipeline_dagster.purchase.submission import Submission
from imagepipeline_dagster.rows import fields_of

# A run that is told to end has ten seconds.
_GRACE_SECONDS = 7.0
_CLEANUP_SECONDS = 2.0
# A copy of the ledger that is put back lacks no more than what so long a time bought unnoticed.
_COUNT_SECONDS = 1.0
# A newcomer waits so long for its part of the places; among a run's shards many come.
_ACCOUNT_RENEWAL_SECONDS = 1.0
_RUN_RENEWAL_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseReport:
    """What a purchase came to.

    `posts` are the API calls that created a job. `stopper` is what made it stop submitting before
    the plan was carried out. `known_before` are the keys that the ledger knew at the beginning,
    `entries` what it says of each request at the end, `sources` of each link of theirs.
    """

    posts: int
    resumed: int
    stopper: Exception | None
    known_before: frozenset[str]
    entries: Mapping[str, Entry]
    sources: Mapping[str, SourcePicture]

    def figures(
        self, images: Sequence[GeneratedImage], *, run_id: str, counted: Set[str] = frozenset()
    ) -> dict[str, int]:
        """Return what a purchase of these samples came to, in all processes of the run.

        Requests that were `counted` with other samples are reused by these, if they were sent.
        """
        own = [image for image in images if image.request_key not in counted]
        of_others = [image for image in images if image.request_key in counted]
        bought, reused = self.bought_and_reused(own, run_id=run_id)
        return {
            "requested": len(images),
            "bought": bought,
            "reused": reused + sum(image.submitted_at is not None for image in of_others),
            "api_calls": max(self.posts, self._jobs_of(run_id, leave_out=counted)),
            "resumed_jobs": self.resumed,
        }

    def bought_and_reused(
        self, images: Sequence[GeneratedImage], *, run_id: str
    ) -> tuple[int, int]:
        """Return how many of the samples this run bought, and how many it had without that.

        Bought is what the API took, whatever came of it: that is what a vendor bills. Of rows that
        share a request the others reuse it.
        """
        mine = [image for image in images if image.run_id == run_id]
        taken = [image for image in mine if image.submitted_at is not None]
        bought = samples_asked_for(taken)
        had = self.known_before - {image.request_key for image in mine}
        had |= {image.request_key for image in taken if image.request_key}
        return bought, sum(image.request_key in had for image in images) - bought

    def _jobs_of(self, run_id: str, *, leave_out: Set[str]) -> int:
        """Return how many jobs a run has at the API for these requests, this purchase's or not."""
        jobs: list[Entry | Attempt] = []
        for key, entry in self.entries.items():
            if key not in leave_out:
                jobs += (entry, *entry.earlier)
        return sum(job.run_id == run_id and job.submitted_at is not None for job in jobs)


@dataclass(kw_only=True)
class Purchase:
    """One run's purchase of one prompt set's plan.

    Attributes:
        plan: the calls; a request that stands twice is bought once.
        uses: which rows the calls come from, kept beside them in the ledger.
        means: what it is bought with.
        beside_others: whether other purchases of the same run may be under way: what the run may
            do is then shared with them.
        on_progress: called every few seconds, from another thread.
    """

    plan: Sequence[PlannedRequest]
    uses: Sequence[Use]
    means: Means
    beside_others: bool = False
    on_progress: Callable[[PurchaseProgress], None] = lambda _: None

    def __post_init__(self) -> None:
        """Take a lease by the ledger's clock; nothing is claimed yet."""
        self._calls = {call.request_key: call for call in self.plan}
        self._settings = self.means.settings
        seconds = self._settings.lease_seconds
        self._lease = Lease(Owner.this_process(), seconds, ahead=self.means.ledger.clock_ahead())
        self._fence = Fence(seconds)
        self._task: asyncio.Task[object] | None = None
        self._state = RunState(max_failure_ratio=self._settings.max_failure_ratio)

    def carry_out(self, *, withheld: Exception | None = None) -> PurchaseReport:
        """Carry the plan out and return what came of it.

        `withheld` says why nothing may be sent: only what is paid for is brought to its end.

        The event loop runs in a thread of its own, so that an interruption of this one (a person
        ends the run, or SIGTERM) lets what is under way come to its end: nothing more is sent, and
        every job id is kept. The interruption is raised again afterwards.
        """
        self._state.stopper = withheld
        ended: Future[PurchaseReport] = Future()

        def work() -> None:
            try:
                report = asyncio.run(self._carry_out())
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                ended.set_exception(error)
            else:
                ended.set_result(report)

        threading.Thread(target=work, name="purchase", daemon=True).start()
        try:
            return ended.result()
        finally:
            if not ended.done():
                self.interrupt()
                wait([ended], _CLEANUP_SECONDS)

    def interrupt(self) -> None:
        """End soon, asked by any thread: nothing more is sent, and every job id is kept."""
        self._state.interrupted = True
        until = time.monotonic() + _GRACE_SECONDS
        # Each answer that is under way may name a job that is paid.
        while self._state.sending and time.monotonic() < until:
            time.sleep(0.02)
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _carry_out(self) -> PurchaseReport:
        self._task = asyncio.current_task()
        engine = self.means.ledger.engine
        # All runs count in one row: in a transaction with claims, two of them would wait for each
        # other's rows.
        with LedgerWriter(engine) as writer, LedgerWriter(engine) as writer_of_count:
            async with (
                self.means.open_client() as client,
                keeping_sources(self.plan, self.means, writer) as want_sources,
            ):
                rounds = self._rounds(client, writer, writer_of_count, want_sources)
                with rounds.landing:
                    entries = await self._attended(rounds)
        links = links_of(self.plan)
        sources = await asyncio.to_thread(sources_of, self.means.ledger, links)
        if rounds.defect is not None:
            raise rounds.defect
        return PurchaseReport(
            posts=self._state.posts,
            resumed=self._state.resumed,
            stopper=self._state.stopper,
            known_before=rounds.known_before,
            entries=entries,
            sources=sources,
        )

    async def _attended(self, rounds: Rounds) -> Mapping[str, Entry]:
        """Work in rounds, while others keep what the work stands on."""
        attendants = [
            asyncio.create_task(self._keep_lease(rounds.writer)),
            asyncio.create_task(self._keep_count(rounds.count)),
            asyncio.create_task(self._share(rounds.client, rounds.places).keep()),
            asyncio.create_task(self._report_progress()),
        ]
        try:
            return await rounds.work()
        finally:
            for attendant in attendants:
                attendant.cancel()
            try:
                await rounds.count.follow()
            except OSError as error:
                self._state.stop(error)
            await rounds.writer.write(record_release, self._lease.owner)

    def _share(self, client: ImagePipelineClient, places: Places) -> AccountShare:
        """Return what opens the places, and keeps the client to the account's rate."""
        limits = AccountLimits(
            account=client.origin,
            max_in_flight=self._settings.account_max_in_flight,
            requests_per_second=self._settings.account_requests_per_second,
        )
        is_shared_by_run = self.beside_others and not limits.exist
        if is_shared_by_run:
            limits = AccountLimits(
                account=f"{client.origin} {self.means.run_id}",
                max_in_flight=self._settings.max_in_flight,
                requests_per_second=self._settings.requests_per_second,
            )
        pace = RequestPace(requests_per_second=0.0)
        if limits.requests_per_second is not None:
            client.keep_pace(pace)
        return AccountShare(
            limits=limits,
            ledger=self.means.ledger,
            lease=self._lease,
            places=places,
            pace=pace,
            state=self._state,
            renewal_seconds=(
                _RUN_RENEWAL_SECONDS if is_shared_by_run else _ACCOUNT_RENEWAL_SECONDS
            ),
        )

    def _rounds(
        self,
        client: ImagePipelineClient,
        writer: LedgerWriter,
        writer_of_count: LedgerWriter,
        want_sources: Callable[[PlannedRequest], None],
    ) -> Rounds:
        """Return the work on the plan, put together of its parts."""
        uses: dict[str, list[Use]] = {key: [] for key in self._calls}
        for use in self.uses:
            uses[use.request_key].append(use)
        endings = Endings(
            writer=writer,
            state=self._state,
            owner=self._lease.owner,
            allowance=self.means.allowance,
        )
        submission = Submission(
            client=client,
            writer=writer,
            endings=endings,
            state=self._state,
            lease=self._lease,
            fence=self._fence,
            means=self.means,
            uses=uses,
        )
        landing = Landing(
            client=client,
            writer=writer,
            storage=self.means.storage,
            patience_seconds=self._settings.link_patience_seconds,
            ahead=self._lease.ahead,
        )
        return Rounds(
            calls=self._calls,
            uses=uses,
            means=self.means,
            client=client,
            writer=writer,
            submission=submission,
            landing=landing,
            want_sources=want_sources,
            endings=endings,
            count=PurchaseCount(means=self.means, writer=writer_of_count, state=self._state),
            state=self._state,
            lease=self._lease,
        )

    async def _keep_lease(self, writer: LedgerWriter) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            # A database or a storage that is away for a while must not end the renewals for good.
            with contextlib.suppress(*AWAY, OSError):
                since, until = Moment.now(), self._lease.until()
                renewed = await writer.write(record_renewal, self._lease.owner, lease_until=until)
                self._fence.renew(renewed, since=since)

    async def _keep_count(self, count: PurchaseCount) -> None:
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            with contextlib.suppress(*AWAY, OSError):
                await count.follow()

    async def _report_progress(self) -> None:
        total = sum(call.samples for call in self._calls.values())
        started, at_first = time.monotonic(), self._state.done
        while True:
            await asyncio.sleep(self._settings.progress_seconds)
            rate = (self._state.done - at_first) / (time.monotonic() - started)
            progress = PurchaseProgress(
                **fields_of(self._state, "done", "failed", "in_flight", "waits_for"),
                total=total,
                rate=rate,
                eta=(total - self._state.done) / rate if rate > 0 else None,
            )
            await asyncio.to_thread(self.on_progress, progress)
