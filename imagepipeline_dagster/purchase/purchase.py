"""The plan carried out: each call claimed, POSTed, waited for and brought home.

A purchase goes in rounds. A round reads what the ledger says of every call, and works off what can
be done: buys what is to buy, resumes by job id what an earlier process left behind. It ends when
nothing is left that this run can do; what another living process works on is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from sqlalchemy.exc import OperationalError

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Job, JobStatus, Task, request_for
from imagepipeline_dagster.api.errors import (
    DownloadError,
    ImagePipelineError,
    JobFailed,
    JobNotFound,
    RunStopper,
)
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.identity import (
    LedgerMismatch,
    check_ledger,
    mark_storage,
    record_purchase,
)
from imagepipeline_dagster.ledger.records import (
    Entry,
    Failure,
    Lease,
    Owner,
    PlanState,
    State,
    plan_state,
)
from imagepipeline_dagster.ledger.requests import (
    Ledger,
    record_release,
    record_renewal,
    record_resumed,
    record_trouble,
    record_unknown,
)
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.landing import Landing
from imagepipeline_dagster.purchase.pacing import PollClock, PollTimer
from imagepipeline_dagster.purchase.state import PurchaseProgress, RunState
from imagepipeline_dagster.purchase.submission import Submission
from imagepipeline_dagster.purchase.uses import PromptSetUses, SourceRow
from imagepipeline_dagster.storage.contract import Storage

__all__ = ["Purchase", "PurchaseReport", "PurchaseSettings"]

_WAIT_FOR_OTHERS_SECONDS = 0.5
# A run that is told to end has ten seconds.
_GRACE_SECONDS = 7.0
_CLEANUP_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseSettings:
    """How a purchase is carried out; times in seconds.

    Once more than `max_failure_ratio` of the samples that came to an end in this run failed, it
    stops submitting; a few failures among the first ones are not judged yet. A paid picture that
    cannot be had is asked for again for `link_patience_seconds` in this run, and by later runs
    until `link_lifetime_hours` after its purchase.
    """

    max_in_flight: int = 16
    job_timeout_seconds: float = 900.0
    poll_min_seconds: float = 0.5
    poll_max_seconds: float = 10.0
    lease_seconds: float = 60.0
    progress_seconds: float = 5.0
    max_failure_ratio: float = 0.5
    link_lifetime_hours: float = 24.0
    link_patience_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseReport:
    """What a purchase came to.

    `posts` are the API calls that created a job. `stopper` is what made it stop submitting before
    the plan was carried out. `known_before` are the keys that the ledger knew at the beginning,
    `entries` what it says of each request at the end.
    """

    posts: int
    resumed: int
    stopper: Exception | None
    known_before: frozenset[str]
    entries: Mapping[str, Entry]

    def bought_and_reused(
        self, images: Sequence[GeneratedImage], *, run_id: str
    ) -> tuple[int, int]:
        """Return how many of the samples this run bought, and how many it found in the ledger.

        Bought is what the API took, whatever came of it: that is what a vendor bills.
        """
        mine = {image.request_key for image in images if image.run_id == run_id}
        bought = sum(i.request_key in mine and i.submitted_at is not None for i in images)
        before = self.known_before - mine
        reused = sum(i.request_key in before for i in images)
        return bought, reused


class Purchase:
    """One run's purchase of one prompt set's plan.

    Args:
        plan: the calls; a request that stands twice is bought once.
        prompts: the rows that the calls come from, kept beside them in the ledger.
        dataset: the name of the dataset that asks.
        run_id: of the Dagster run.
        open_client: opens the API's client.
        emulated: whether the emulator answers.
        allowance: what may be spent; reserved before each POST.
        on_progress: called every few seconds, from another thread.
    """

    def __init__(
        self,
        *,
        plan: Sequence[PlannedRequest],
        prompts: Sequence[SourceRow],
        dataset: str,
        run_id: str,
        ledger: Ledger,
        storage: Storage,
        open_client: Callable[[], AbstractAsyncContextManager[ImagePipelineClient]],
        emulated: bool,
        allowance: Allowance,
        settings: PurchaseSettings,
        on_progress: Callable[[PurchaseProgress], None] = lambda _: None,
    ) -> None:
        self._calls = {call.request_key: call for call in plan}
        self._uses = PromptSetUses(plan=plan, prompts=prompts, dataset=dataset, run_id=run_id)
        self._run_id = run_id
        self._ledger = ledger
        self._storage = storage
        self._open_client = open_client
        self._emulated = emulated
        self._allowance = allowance
        self._settings = settings
        self._on_progress = on_progress
        self._lease = Lease(Owner.this_process(), settings.lease_seconds)
        self._polls = PollClock(
            poll_min_seconds=settings.poll_min_seconds, poll_max_seconds=settings.poll_max_seconds
        )
        self._state = RunState(max_failure_ratio=settings.max_failure_ratio)
        self._known_before: frozenset[str] = frozenset()
        self._noted: set[str] = set()
        self._posts_counted = 0
        self._defect: Exception | None = None

    def carry_out(self, *, withheld: Exception | None = None) -> PurchaseReport:
        """Carry the plan out and return what came of it.

        `withheld` says why nothing may be sent: only what is paid for is brought to its end.

        The event loop runs in a thread of its own, so that an interruption of this one (a person
        ends the run, or SIGTERM) lets what is under way come to its end: nothing more is sent, and
        every job id is kept. The interruption is raised again afterwards.
        """
        self._state.stopper = withheld
        loop = asyncio.new_event_loop()
        outcome: list[PurchaseReport | BaseException] = []

        def work() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    outcome.append(runner.run(self._carry_out()))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                outcome.append(error)
            finally:
                ended.set()

        # Not Thread.join: interrupted, it takes the running thread for ended (CPython 3.11), and
        # the second wait below would not wait.
        ended = threading.Event()
        thread = threading.Thread(target=work, name="purchase", daemon=True)
        thread.start()
        try:
            ended.wait()
        except BaseException:
            self._state.interrupted = True
            self._let_posts_end(until=time.monotonic() + _GRACE_SECONDS)
            with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
                loop.call_soon_threadsafe(_cancel_all, loop)
            ended.wait(_CLEANUP_SECONDS)
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _let_posts_end(self, *, until: float) -> None:
        """Wait for the answers to POSTs that are under way: each may name a job that is paid."""
        while self._state.sending and time.monotonic() < until:
            time.sleep(0.02)

    async def _carry_out(self) -> PurchaseReport:
        with (
            LedgerWriter(self._ledger.engine) as self._writer,
            ThreadPoolExecutor(max(2, os.cpu_count() or 2), "pictures") as executor,
        ):
            async with self._open_client() as self._client:
                self._landing = Landing(
                    client=self._client,
                    writer=self._writer,
                    storage=self._storage,
                    executor=executor,
                    patience_seconds=self._settings.link_patience_seconds,
                )
                self._submission = Submission(
                    client=self._client,
                    writer=self._writer,
                    state=self._state,
                    lease=self._lease,
                    allowance=self._allowance,
                    run_id=self._run_id,
                    emulated=self._emulated,
                    record_uses=self._uses.record_request,
                )
                attendants = [
                    asyncio.create_task(self._keep_lease()),
                    asyncio.create_task(self._report_progress()),
                ]
                try:
                    entries = await self._rounds()
                finally:
                    for attendant in attendants:
                        attendant.cancel()
                    if self._state.posts > self._posts_counted:
                        await self._count_purchase()
                    await self._writer.write(record_release, self._lease.owner)
        if self._defect is not None:
            raise self._defect
        return PurchaseReport(
            posts=self._state.posts,
            resumed=self._state.resumed,
            stopper=self._state.stopper,
            known_before=self._known_before,
            entries=entries,
        )

    async def _rounds(self) -> Mapping[str, Entry]:
        """Work in rounds until nothing is left to do; returns what the ledger says then."""
        first = True
        while True:
            entries = await asyncio.to_thread(self._ledger.entries, self._calls)
            if first:
                self._known_before = frozenset(entries)
                first = False
                await self._begin_to_buy(entries)
            await self._note_uses(entries)
            self._state.done = sum(len(entry.stored) for entry in entries.values())
            work, others = await self._sort(entries)
            if self._state.interrupted or not (work or others):
                return entries
            if work:
                await self._work_off(work)
            else:
                await asyncio.sleep(_WAIT_FOR_OTHERS_SECONDS)

    async def _begin_to_buy(self, entries: Mapping[str, Entry]) -> None:
        """Look, before anything is sent, whether the ledger knows what the storage holds."""
        buys = any(plan_state(entries.get(key)) is PlanState.TO_BUY for key in self._calls)
        if not buys or self._state.stops:
            return
        try:
            await asyncio.to_thread(check_ledger, self._ledger, self._storage)
            await self._count_purchase()
        except (LedgerMismatch, OSError) as error:
            # Nor is anything bought that could not be stored.
            self._state.stop(error)

    async def _count_purchase(self) -> None:
        self._posts_counted = self._state.posts
        counted = await self._writer.write(record_purchase)
        await asyncio.to_thread(mark_storage, self._storage, counted)

    async def _note_uses(self, entries: Mapping[str, Entry]) -> None:
        """Record which calls use requests that this run does not claim itself."""
        # What was never sent is used by nobody yet; its claim will note it.
        used = {key for key, entry in entries.items() if entry.failure is not Failure.NOT_SENT}
        if used <= self._noted:
            return
        self._noted |= used
        if uses := await asyncio.to_thread(self._uses.unrecorded, self._ledger, used):
            await self._writer.write(self._uses.record, uses)

    async def _sort(
        self, entries: Mapping[str, Entry]
    ) -> tuple[list[tuple[PlannedRequest, Entry | None]], bool]:
        """Return the calls that this run can work on, and whether others are being worked on."""
        now = dt.datetime.now(dt.UTC)
        work: list[tuple[PlannedRequest, Entry | None]] = []
        others = False
        for key, call in self._calls.items():
            entry = entries.get(key)
            state = plan_state(entry)
            under_way = state is PlanState.IN_FLIGHT or (entry is not None and entry.lost_its_job)
            if key in self._state.given_up or not (under_way or state is PlanState.TO_BUY):
                continue
            if entry and entry.owner != self._lease.owner and entry.is_live(now):
                others = True
            elif entry and entry.state is State.CLAIMED:
                await self._writer.write(
                    record_unknown, key, entry.lapse, owner=entry.owner, was=State.CLAIMED
                )
            elif under_way or self._state.stopper is None:
                work.append((call, entry))
        # What is paid for already comes first: its links may expire.
        work.sort(key=lambda item: plan_state(item[1]) is PlanState.TO_BUY)
        return work, others

    async def _work_off(self, work: Sequence[tuple[PlannedRequest, Entry | None]]) -> None:
        """Work on all calls, `max_in_flight` jobs at a time; landing takes no job's place."""
        places = asyncio.Semaphore(self._settings.max_in_flight)
        tasks: set[asyncio.Task[None]] = set()
        try:
            for call, entry in work:
                await places.acquire()
                buys = plan_state(entry) is PlanState.TO_BUY
                if self._state.interrupted or (buys and self._state.stopper):
                    places.release()
                    continue
                task = asyncio.create_task(self._buy(call, entry, places))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                while len(tasks) >= 2 * self._settings.max_in_flight + 16:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _buy(
        self, call: PlannedRequest, entry: Entry | None, places: asyncio.Semaphore
    ) -> None:
        try:
            await self._buy_or_note_why_not(call, entry, places)
        except Exception as error:  # noqa: BLE001 - raised once what is under way has ended
            self._defect = self._state.stopper = error
            self._state.given_up.add(call.request_key)

    async def _buy_or_note_why_not(
        self, call: PlannedRequest, entry: Entry | None, places: asyncio.Semaphore
    ) -> None:
        key = call.request_key
        try:
            try:
                self._state.in_flight += 1
                job = await self._finished_job(call, entry)
            finally:
                self._state.in_flight -= 1
                places.release()
            if job is not None:
                stored = entry.stored if entry else ()
                useful = await self._landing.land(
                    key,
                    job,
                    samples=call.samples,
                    stored=stored,
                    links_end=self._links_end(entry),
                )
                self._state.land(call.samples, useful=useful)
        except JobFailed as error:
            await self._submission.fail(call, _failure_of(error), str(error))
            if error.trouble is not None:
                # Bought again once it is over, and not before.
                self._state.given_up.add(key)
            if isinstance(error.trouble, RunStopper):
                self._state.stop(error.trouble)
        except JobNotFound as error:
            # A later run asks for it once more; this one would only hear the same.
            self._state.given_up.add(key)
            await self._writer.write(
                record_unknown, key, str(error), owner=self._lease.owner, was=State.SUBMITTED
            )
            self._state.judge_failure(call.samples)
        except (ImagePipelineError, OSError) as error:
            # The job is bought and its id is known: the next run asks for it again.
            self._state.given_up.add(key)
            if isinstance(error, DownloadError) and _is_bought_now(entry):
                # Buying on would waste money; what an earlier run bought says nothing of that.
                self._state.judge_failure(call.samples)
            else:
                self._state.failed += call.samples
            if isinstance(error, RunStopper | OSError):
                self._state.stop(error)
            trouble = f"{type(error).__name__}: {error}"
            await self._writer.write(record_trouble, key, trouble)

    def _links_end(self, entry: Entry | None) -> dt.datetime:
        """Return until when a link that does not work may come to work."""
        submitted_at = None if _is_bought_now(entry) or entry is None else entry.submitted_at
        began = submitted_at or dt.datetime.now(dt.UTC)
        return began + dt.timedelta(hours=self._settings.link_lifetime_hours)

    async def _finished_job(self, call: PlannedRequest, entry: Entry | None) -> Job | None:
        """Return the call's job once it has succeeded; None where no job came about."""
        shape = _shape(call)
        timeout = self._settings.job_timeout_seconds
        if entry is not None and plan_state(entry) is not PlanState.TO_BUY:
            job = await self._resume(call, entry)
            timer = PollTimer(0.0, self._settings.poll_min_seconds, self._settings.poll_max_seconds)
            if job is None:
                return None
            if entry.lost_its_job:
                # Without the patience for an API that lags behind its own answers.
                job = await self._client.status(job.task, job.id or "")
            if entry.submitted_at is not None:
                age = (dt.datetime.now(dt.UTC) - entry.submitted_at).total_seconds()
                timeout = max(timeout - age, min(timeout, 30.0))
        else:
            job = await self._submission.submit(call, entry)
            timer = self._polls.timer(shape)
            if job is None:
                return None
        request = request_for(call.task, json.loads(call.request))
        finished = await self._client.wait(job, timeout=timeout, delays=timer, request=request)
        if entry is None:
            self._polls.learn(shape, timer)
        return finished

    async def _resume(self, call: PlannedRequest, entry: Entry) -> Job | None:
        if entry.owner != self._lease.owner:
            taken = await self._writer.write(
                record_resumed,
                call.request_key,
                owner=self._lease.owner,
                lease_until=self._lease.until(),
                former=entry.owner,
            )
            if not taken:
                return None
            self._state.resumed += 1
        return Job(
            task=Task(call.task),
            id=entry.job_id,
            # Only a job that had succeeded at once has no id: its links are all there is.
            status=JobStatus.PENDING if entry.job_id else JobStatus.SUCCESS,
            word="resumed",
            download_urls=entry.links,
        )

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            # A database or a storage that is away for a while must not end the renewals for good.
            with contextlib.suppress(OperationalError, OSError):
                await self._writer.write(
                    record_renewal, self._lease.owner, lease_until=self._lease.until()
                )
                if self._state.posts > self._posts_counted:
                    await self._count_purchase()

    async def _report_progress(self) -> None:
        total = sum(call.samples for call in self._calls.values())
        started, at_first = time.monotonic(), self._state.done
        while True:
            await asyncio.sleep(self._settings.progress_seconds)
            rate = (self._state.done - at_first) / (time.monotonic() - started)
            progress = PurchaseProgress(
                done=self._state.done,
                total=total,
                failed=self._state.failed,
                in_flight=self._state.in_flight,
                rate=rate,
                eta=(total - self._state.done) / rate if rate > 0 else None,
            )
            await asyncio.to_thread(self._on_progress, progress)


def _is_bought_now(entry: Entry | None) -> bool:
    """Tell whether this run buys what the ledger said this of."""
    return plan_state(entry) is PlanState.TO_BUY


def _failure_of(error: JobFailed) -> Failure:
    if error.trouble is not None:
        return Failure.UNPAID
    return Failure.FILTERED if error.filtered else Failure.MODEL_ERROR


def _shape(call: PlannedRequest) -> tuple[object, ...]:
    """Return what jobs that take about equally long have in common."""
    parameters = json.loads(call.request)
    names = ("model_id", "num_inference_steps", "width", "height", "refiner", "samples")
    return (call.task, *(parameters.get(name) for name in names))


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
