"""What becomes of a call that an error ended: one table, for all that can happen on its way.

The table says what the ledger knows afterwards, and what the run does about it. An error that
it does not name is a defect of ours: it is raised once all that is under way has ended.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection

from imagepipeline_dagster.api.errors import (
    AccessRefused,
    AnswerLost,
    ImagePipelineError,
    JobFailed,
    JobNotFound,
    RequestRefused,
    RunStopper,
    Throttled,
    Unreachable,
    WrongAddress,
)
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.records import Failure, Outcome, Owner, State
from imagepipeline_dagster.ledger.steps import record_failed, record_trouble, record_unknown
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.landing import HoldLost, lost_sample
from imagepipeline_dagster.purchase.state import RunState


class SendingStopped(Exception):
    """The run stopped while a call was on its way to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What an error makes of a call.

    Attributes:
        state: of the request afterwards. SUBMITTED: it is paid, and a later run asks for its job.
            None: another process has the request, so nothing is recorded.
        failure: why it is FAILED.
        judged: whether its samples count where the run decides if it goes on buying.
        stops: whether the run sends nothing more.
        doubts: whether it sends nothing more unless the next calls fare better.
        gives_up: whether the run leaves the call to the next one.
    """

    state: State | None
    failure: Failure | None = None
    judged: bool = False
    stops: bool = False
    doubts: bool = False
    gives_up: bool = False


def _failed(failure: Failure, **what_follows: bool) -> Ending:
    return Ending(state=State.FAILED, failure=failure, **what_follows)


_FILTERED = _failed(Failure.FILTERED)
# A filter before the API refuses a prompt for its words, just as it refuses a key or an address.
_REFUSED = _failed(Failure.NOT_SENT, judged=True, doubts=True, gives_up=True)
_UNASKED = Ending(state=State.SUBMITTED, judged=True, doubts=True, gives_up=True)
_BEFORE_A_JOB: tuple[tuple[type[Exception], Ending], ...] = (
    (RequestRefused, _failed(Failure.INPUT_REFUSED, judged=True)),
    (AnswerLost, Ending(state=State.UNKNOWN, judged=True)),
    # It was sent `max_attempts` times: as often as one run may.
    (Throttled, _failed(Failure.NOT_SENT, gives_up=True)),
    (Unreachable, _failed(Failure.NOT_SENT, stops=True)),
    (AccessRefused, _REFUSED),
    (WrongAddress, _REFUSED),
    (RunStopper, _failed(Failure.NOT_SENT, stops=True)),
    (SendingStopped, _failed(Failure.NOT_SENT)),
    (HoldLost, _failed(Failure.NOT_SENT)),
)
_OF_A_JOB: tuple[tuple[type[Exception], Ending], ...] = (
    (JobFailed, _failed(Failure.MODEL_ERROR, judged=True)),
    # A later run asks for it once more; this one would only hear the same.
    (JobNotFound, Ending(state=State.UNKNOWN, judged=True, gives_up=True)),
    (HoldLost, Ending(state=None, gives_up=True)),
    (AccessRefused, _UNASKED),
    (WrongAddress, _UNASKED),
    (RunStopper, Ending(state=State.SUBMITTED, stops=True, gives_up=True)),
    (OSError, Ending(state=State.SUBMITTED, stops=True, gives_up=True)),
    (ImagePipelineError, Ending(state=State.SUBMITTED, judged=True, gives_up=True)),
)
"""The first row counts that an error is an instance of."""


def ending_of(error: Exception, *, has_job: bool) -> Ending:
    """Return what an error makes of a call; `has_job`: the API had taken it before.

    Raises:
        Exception: this very error, where no row of the table is about it.
    """
    if isinstance(error, JobFailed) and error.trouble is not None:
        # Not the row's fault: it is bought again once the trouble is over, and not before.
        stops = isinstance(error.trouble, RunStopper)
        return _failed(Failure.UNPAID, stops=stops, gives_up=True)
    if isinstance(error, JobFailed | RequestRefused) and error.filtered:
        return _FILTERED
    for kind, ending in _OF_A_JOB if has_job else _BEFORE_A_JOB:
        if isinstance(error, kind):
            return ending
    raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class Endings:
    """Ends the calls of one run in the ledger, in the budget and in the run's own state."""

    writer: LedgerWriter
    state: RunState
    owner: Owner
    allowance: Allowance

    async def end(
        self,
        call: PlannedRequest,
        error: Exception,
        *,
        has_job: bool,
        bought_now: bool = True,
        links_since: dt.datetime | None = None,
    ) -> None:
        """End a call as the table says.

        Args:
            call: that ended.
            error: what ended it.
            has_job: whether the API had taken it before.
            bought_now: this run sent it, or meant to.
            links_since: when its job was seen to have succeeded.

        Raises:
            Exception: the error itself, where it is a defect.
        """
        ending = ending_of(error, has_job=has_job)
        if ending.doubts:
            self.state.doubt(error, has_job=has_job)
        if ending.stops:
            trouble = error.trouble if isinstance(error, JobFailed) else None
            self.state.stop(trouble or error)
        if ending.gives_up:
            self.state.given_up.add(call.request_key)
        self._count(call, ending, bought_now=bought_now, why=str(error))
        match ending.state:
            case State.SUBMITTED:
                text = f"{type(error).__name__}: {error}"
                await self.writer.write(
                    record_trouble, call.request_key, text, links_since=links_since
                )
            case State.UNKNOWN:
                was = State.SUBMITTED if has_job else State.CLAIMED
                await self.writer.write(
                    record_unknown, call.request_key, str(error), owner=self.owner, was=was
                )
            case State.FAILED if ending.failure is not None:
                await self.writer.write(self._record_failure, call, ending.failure, str(error))
                # Not before it is committed: a write that is tried again gives back as much.
                self.state.reserved.pop(call.request_key, None)

    def _count(self, call: PlannedRequest, ending: Ending, *, bought_now: bool, why: str) -> None:
        # Earlier runs' jobs do not say whether to go on buying.
        if ending.judged and (bought_now or ending.state is not State.SUBMITTED):
            self.state.judge_failure(call.samples, why=why)
        elif ending.state is State.SUBMITTED:
            self.state.failed += call.samples

    def _record_failure(
        self, connection: Connection, call: PlannedRequest, failure: Failure, error: str
    ) -> None:
        held_back = range(call.samples if failure is Failure.FILTERED else 0)
        recorded = record_failed(
            connection,
            call.request_key,
            failure,
            error,
            owner=self.owner,
            filtered=[lost_sample(slot, Outcome.VENDOR_FILTERED, error) for slot in held_back],
        )
        # A request that was never sent gives its money back.
        day = self.state.reserved.get(call.request_key)
        if recorded and failure is Failure.NOT_SENT and day is not None:
            self.allowance.give_back(connection, images=call.samples, day=day)
