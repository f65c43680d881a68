"""The rounds of a purchase: what the ledger says of every call, and what can be done about it.

A round buys what is to buy, and resumes by job id what an earlier process left behind. It ends when
nothing is left that this run can do; it waits for calls that another living process works on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Task
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.ledger.records import (
    Entry,
    Failure,
    Hold,
    Lease,
    PlanState,
    State,
    plan_state,
)
from imagepipeline_dagster.ledger.steps import record_resumed, record_unknown
from imagepipeline_dagster.ledger.uses import Use, record_uses
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.counting import PurchaseCount
from imagepipeline_dagster.purchase.endings import Endings
from imagepipeline_dagster.purchase.landing import Landing
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.pacing import PollClock, PollTimer
from imagepipeline_dagster.purchase.places import Places
from imagepipeline_dagster.purchase.state import RunState
from imagepipeline_dagster.purchase.submission import Submission

_WAIT_FOR_OTHERS_SECONDS = 0.5


@dataclass(kw_only=True)
class Rounds:
    """The work on one run's calls, by parts that are made for this run.

    `want_sources` is told of each call that gave pictures, for those that it started from.
    `places` are for its jobs in flight: none may be taken until somebody allows it. `known_before`
    are the keys that the ledger knew at the beginning; `defect` is an error of ours
    that stopped the run.
    """

    calls: Mapping[str, PlannedRequest]
    uses: Mapping[str, Sequence[Use]]
    means: Means
    client: ImagePipelineClient
    writer: LedgerWriter
    submission: Submission
    landing: Landing
    want_sources: Callable[[PlannedRequest], None]
    endings: Endings
    count: PurchaseCount
    state: RunState
    lease: Lease
    known_before: frozenset[str] = field(default=frozenset(), init=False)
    defect: Exception | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make what the settings say of places and polls."""
        self._settings = self.means.settings
        self.places = Places(self._settings.max_in_flight)
        self._polls = PollClock(
            poll_min_seconds=self._settings.poll_min_seconds,
            poll_max_seconds=self._settings.poll_max_seconds,
        )
        self._noted: set[str] = set()

    async def work(self) -> Mapping[str, Entry]:
        """Work in rounds until nothing is left to do; returns what the ledger says then."""
        first = True
        while True:
            entries = await asyncio.to_thread(self.means.ledger.entries, self.calls)
            if first:
                self.known_before = frozenset(entries)
                first = False
                await self._begin_to_buy(entries)
            await self._note_uses(entries)
            for key, entry in entries.items():
                if entry.state is State.SUCCEEDED:
                    self.want_sources(self.calls[key])
            self.state.done = sum(len(entry.stored) for entry in entries.values())
            work, others = await self._sort(entries)
            if self.state.interrupted or not (work or others):
                self.state.stop_where_all_was_refused()
                return entries
            self.state.waits_for = None if work else _waited_for(others)
            if work:
                await self._work_off(work)
            else:
                await asyncio.sleep(_WAIT_FOR_OTHERS_SECONDS)

    async def _begin_to_buy(self, entries: Mapping[str, Entry]) -> None:
        buys = any(plan_state(entries.get(key)) is PlanState.TO_BUY for key in self.calls)
        if buys and not self.state.interrupted:
            await self.count.begin()

    async def _note_uses(self, entries: Mapping[str, Entry]) -> None:
        """Record which calls use requests that this run does not claim itself."""
        # Nobody uses a request yet that was never sent; its claim will note it.
        used = {key for key, entry in entries.items() if entry.failure is not Failure.NOT_SENT}
        if used <= self._noted:
            return
        self._noted |= used
        uses = [use for key in used for use in self.uses[key]]
        if new := await asyncio.to_thread(self.means.ledger.unrecorded, uses):
            await self.writer.write(record_uses, new)

    async def _sort(
        self, entries: Mapping[str, Entry]
    ) -> tuple[list[tuple[PlannedRequest, Entry | None]], list[Entry]]:
        """Return the calls that this run can work on, and those that others work on."""
        now = self.lease.now()
        work: list[tuple[PlannedRequest, Entry | None]] = []
        others: list[Entry] = []
        for key, call in self.calls.items():
            entry = entries.get(key)
            under_way = entry is not None and entry.is_under_way
            is_open = under_way or plan_state(entry) is PlanState.TO_BUY
            if key in self.state.given_up or not is_open:
                continue
            if entry and entry.owner != self.lease.owner and entry.is_live(now):
                others.append(entry)
            elif entry and entry.state is State.CLAIMED:
                await self.writer.write(
                    record_unknown, key, entry.lapse, owner=entry.owner, was=State.CLAIMED
                )
            elif under_way or self.state.stopper is None:
                work.append((call, entry))
        # Paid calls come first: their links may expire.
        work.sort(key=lambda item: plan_state(item[1]) is PlanState.TO_BUY)
        return work, others

    async def _work_off(self, work: Sequence[tuple[PlannedRequest, Entry | None]]) -> None:
        """Work on all calls, as many at a time as there are places; landing takes no job's."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            for position, (call, entry) in enumerate(work):
                await self.places.take(waiting=len(work) - position)
                buys = plan_state(entry) is PlanState.TO_BUY
                if self.state.interrupted or (buys and self.state.stopper):
                    self.places.give_back()
                    continue
                task = asyncio.create_task(self._buy(call, entry))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                while len(tasks) >= 2 * self._settings.max_in_flight + 16:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _buy(self, call: PlannedRequest, entry: Entry | None) -> None:
        try:
            await self._buy_or_note_why_not(call, entry)
        except Exception as error:  # noqa: BLE001 - raised once what is under way has ended
            self.defect = self.state.stopper = error
            self.state.given_up.add(call.request_key)

    async def _buy_or_note_why_not(self, call: PlannedRequest, entry: Entry | None) -> None:
        bought_now = plan_state(entry) is PlanState.TO_BUY
        attempts = entry.attempt if entry else 0
        attempt = attempts + 1 if bought_now else attempts
        hold = Hold(request_key=call.request_key, owner=self.lease.owner, attempt=attempt)
        links_since = None
        try:
            try:
                self.state.in_flight += 1
                telemetry.jobs_under_way(+1)
                job = await self._finished_job(call, entry, hold)
            finally:
                self.state.in_flight -= 1
                telemetry.jobs_under_way(-1)
                self.places.give_back()
            if job is not None:
                self.want_sources(call)
                links_since = (entry and entry.links_since) or self.lease.now()
                useful = await self.landing.land(
                    hold,
                    job,
                    samples=call.samples,
                    checked=call.parsed.safety_checker,
                    stored=entry.stored if entry else (),
                    links_end=links_since + dt.timedelta(hours=self._settings.link_lifetime_hours),
                )
                self.state.land(call.samples, useful=useful)
        except Exception as error:  # noqa: BLE001 - raised again where the table does not know it
            await self.endings.end(
                call, error, has_job=True, bought_now=bought_now, links_since=links_since
            )

    async def _finished_job(
        self, call: PlannedRequest, entry: Entry | None, hold: Hold
    ) -> Job | None:
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
                job = await self.client.status(job.task, job.id or "")
            if entry.submitted_at is not None:
                age = (dt.datetime.now(dt.UTC) - entry.submitted_at).total_seconds()
                # By a clock that was ahead it was submitted later than now.
                timeout = min(timeout, max(timeout - age, 30.0))
        else:
            job = await self.submission.submit(call, hold)
            timer = self._polls.timer(shape)
            if job is None:
                return None
        finished = await self.client.wait(job, timeout=timeout, delays=timer, request=call.parsed)
        if entry is None:
            self._polls.learn(shape, timer)
        return finished

    async def _resume(self, call: PlannedRequest, entry: Entry) -> Job | None:
        if entry.owner != self.lease.owner:
            taken = await self.writer.write(
                record_resumed,
                call.request_key,
                owner=self.lease.owner,
                lease_until=self.lease.until(),
                former=entry.owner,
            )
            if not taken:
                return None
            self.state.resumed += 1
        return Job(
            task=Task(call.task),
            id=entry.job_id,
            # Only a job that had succeeded at once has no id: its links are all there is.
            status=JobStatus.PENDING if entry.job_id else JobStatus.SUCCESS,
            word="unanswered",
            download_urls=entry.links,
        )


def _shape(call: PlannedRequest) -> tuple[object, ...]:
    """Return what jobs that take about equally long have in common."""
    names = ("model_id", "num_inference_steps", "width", "height", "refiner", "samples")
    return (call.task, *(getattr(call.parsed, name) for name in names))


def _waited_for(others: Sequence[Entry]) -> str:
    last = max(others, key=lambda entry: entry.lease_until)
    count = "1 request" if len(others) == 1 else f"{len(others)} requests"
    return (
        f"{count} of run {last.run_id}, whose process {last.owner.name} has them "
        f"until {last.lease_until:%H:%M:%S} UTC, or longer if it renews that"
    )
