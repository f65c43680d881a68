"""A call into a job: claimed, its cost reserved, POSTed, and the job's id recorded.

Whatever happens on the way, the ledger knows afterwards whether the request may have been bought.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import Job, JobStatus, request_for
from imagepipeline_dagster.api.errors import (
    AnswerLost,
    RequestRefused,
    RunStopper,
    Throttled,
    Unreachable,
)
from imagepipeline_dagster.ledger.budget import Allowance, BudgetReached
from imagepipeline_dagster.ledger.records import Claim, Entry, Failure, Lease, State
from imagepipeline_dagster.ledger.requests import (
    record_claim,
    record_failed,
    record_submitted,
    record_unknown,
)
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.landing import filtered_sample
from imagepipeline_dagster.purchase.state import RunState

__all__ = ["Submission"]


class _Stopped(Exception):
    """The run stopped while a call was on its way to be sent."""


class Submission:
    """Sends the calls of one run.

    Args:
        state: says whether the run stops; what happens here is counted in it.
        lease: under which this process claims.
        allowance: what may be spent; reserved before each POST.
        record_uses: notes, in the transaction of its claim, which calls use a request.
    """

    def __init__(
        self,
        *,
        client: ImagePipelineClient,
        writer: LedgerWriter,
        state: RunState,
        lease: Lease,
        allowance: Allowance,
        run_id: str,
        emulated: bool,
        record_uses: Callable[[Connection, str], None],
    ) -> None:
        self._client = client
        self._writer = writer
        self._state = state
        self._lease = lease
        self._allowance = allowance
        self._run_id = run_id
        self._emulated = emulated
        self._record_uses = record_uses
        self._reserved: dict[str, dt.date] = {}

    async def submit(self, call: PlannedRequest, entry: Entry | None) -> Job | None:
        """Claim a call, POST it and record its job; None where no job came about."""
        key = call.request_key
        try:
            if self._state.stops or not await self._writer.write(self._claim, call, entry):
                return None
            request = request_for(call.task, json.loads(call.request))
            job = await self._client.submit(request, sending=partial(self._note_sending, key))
            self._state.posts += 1
            await self._record_job(key, job)
        except asyncio.CancelledError:
            # A claim without a POST would look as if it might have been bought.
            if key not in self._state.sending:
                await self.fail(call, Failure.NOT_SENT, "the run ended before it was sent")
            raise
        except RequestRefused as error:
            failure = Failure.FILTERED if error.filtered else Failure.INPUT_REFUSED
            await self.fail(call, failure, str(error))
            return None
        except AnswerLost as error:
            self._state.judge_failure(call.samples)
            await self._writer.write(
                record_unknown, key, str(error), owner=self._lease.owner, was=State.CLAIMED
            )
            return None
        except Throttled as error:
            # It was sent `max_attempts` times, which is as often as a run may.
            self._state.given_up.add(key)
            await self.fail(call, Failure.NOT_SENT, str(error))
            return None
        except (Unreachable, RunStopper, _Stopped) as error:
            self._state.stop(error)
            await self.fail(call, Failure.NOT_SENT, str(error))
            return None
        finally:
            self._state.sending.discard(key)
        return job

    async def _record_job(self, key: str, job: Job) -> None:
        # A failure without an id is no job that anybody could ask for.
        if job.id is None and job.status is JobStatus.FAILURE:
            return
        other = await self._writer.write(
            record_submitted,
            key,
            owner=self._lease.owner,
            job_id=job.id,
            links=job.download_urls,
        )
        if other is not None:
            raise AnswerLost(
                f"the API answered with job {job.id}, which is that of request {other[:12]}; "
                "it may have been bought"
            )

    async def fail(self, call: PlannedRequest, failure: Failure, error: str) -> None:
        """Record that a call's attempt gave nothing; what was never sent gives its money back."""
        await self._writer.write(self._record_failure, call, failure, error)
        if failure not in (Failure.NOT_SENT, Failure.FILTERED):
            self._state.judge_failure(call.samples)

    def _note_sending(self, key: str, under_way: bool) -> None:  # noqa: FBT001 - the client's callback
        """Keep in mind which POSTs are under way; a run that stops sends no further one."""
        if not under_way:
            self._state.sending.discard(key)
        elif self._state.stops and not self._state.budget_reached:
            raise _Stopped("the run stopped before it was sent")
        else:
            self._state.sending.add(key)

    def _claim(self, connection: Connection, call: PlannedRequest, entry: Entry | None) -> bool:
        """Claim a call and reserve what it costs; False where another has it or none is left."""
        claim = Claim(
            request_key=call.request_key,
            task=call.task,
            request=call.request,
            samples=call.samples,
            embedding_version=call.embedding_version,
            endpoint=self._client.endpoint(call.task),
            emulated=self._emulated,
            run_id=self._run_id,
        )
        taken = record_claim(
            connection,
            claim,
            owner=self._lease.owner,
            lease_until=self._lease.until(),
            seen=entry.attempt if entry else 0,
        )
        if not taken:
            return False
        today = dt.datetime.now(dt.UTC).date()
        refusal = self._allowance.reserve(connection, images=claim.samples, today=today)
        if refusal is None:
            self._reserved[claim.request_key] = today
            self._record_uses(connection, claim.request_key)
            return True
        self._state.stop(BudgetReached(refusal))
        record_failed(
            connection, claim.request_key, Failure.NOT_SENT, refusal, owner=self._lease.owner
        )
        return False

    def _record_failure(
        self, connection: Connection, call: PlannedRequest, failure: Failure, error: str
    ) -> None:
        held_back = call.samples if failure is Failure.FILTERED else 0
        recorded = record_failed(
            connection,
            call.request_key,
            failure,
            error,
            owner=self._lease.owner,
            filtered=[filtered_sample(slot, error) for slot in range(held_back)],
        )
        if recorded and failure is Failure.NOT_SENT:
            day = self._reserved[call.request_key]
            self._allowance.give_back(connection, images=call.samples, day=day)
