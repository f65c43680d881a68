"""A call into a job: claimed, its cost reserved, POSTed, and the job's id recorded.

Whatever happens on the way, the ledger knows afterwards whether the request may have been bought.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.errors import AnswerLost
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.ledger.budget import BudgetReached
from imagepipeline_dagster.ledger.records import Claim, Failure, Hold, Lease
from imagepipeline_dagster.ledger.steps import (
    NewJob,
    record_claim,
    record_claims,
    record_confirmation,
    record_failed,
    record_jobs,
)
from imagepipeline_dagster.ledger.uses import Use, record_uses
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.purchase.endings import Endings, SendingStopped
from imagepipeline_dagster.purchase.fence import Fence, Moment
from imagepipeline_dagster.purchase.landing import HoldLost
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.state import RunState
from imagepipeline_dagster.rows import fields_of

_log = logging.getLogger(__name__)


class _ClaimDoubtful(Exception):
    """The claim is so old that another process may have taken the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Sends the calls of one run.

    Attributes:
        endings: end the calls of which no job came about.
        state: says whether the run stops; what happens here is counted in it.
        lease: under which this process claims.
        fence: knows which claims are this process's own beyond doubt.
        means: of the run; what a call costs is reserved before its POST.
        uses: which calls use a request, by its key; recorded in the transaction of its claim.
    """

    client: ImagePipelineClient
    writer: LedgerWriter
    endings: Endings
    state: RunState
    lease: Lease
    fence: Fence
    means: Means
    uses: Mapping[str, Sequence[Use]]

    async def submit(self, call: PlannedRequest, hold: Hold) -> Job | None:
        """Claim a call, POST it and record its job; None where no job came about."""
        key = call.request_key
        try:
            since = Moment.now()
            if self.state.stops or not await self.writer.write_together(self._claims, (call, hold)):
                return None
            self.fence.raise_around(key, since=since)
            job = await self._send(call, hold)
            self.state.take()
            telemetry.images_bought(
                call.samples,
                money=self.means.allowance.cost(call.samples),
                currency=self.means.allowance.currency,
                emulated=self.means.emulated,
            )
            await self._record_job(hold, job)
        except asyncio.CancelledError:
            # A claim without a POST would look as if it might have been bought.
            if key not in self.state.sending:
                ended = SendingStopped("the run ended before it was sent")
                await self.endings.end(call, ended, has_job=False)
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the table does not know it
            await self.endings.end(call, error, has_job=False)
            return None
        finally:
            self.state.sending.discard(key)
            self.fence.drop(key)
        return job

    async def _send(self, call: PlannedRequest, hold: Hold) -> Job:
        """POST a call, under a claim that is certain at the moment of sending."""
        while True:
            try:
                return await self.client.submit(
                    call.parsed, sending=partial(self._note_sending, call.request_key)
                )
            except _ClaimDoubtful:
                since, until = Moment.now(), self.lease.until()
                if not await self.writer.write(record_confirmation, hold, lease_until=until):
                    raise HoldLost("its lease ended before it was sent") from None
                self.fence.raise_around(call.request_key, since=since)

    async def _record_job(self, hold: Hold, job: Job) -> None:
        # A failure without an id is no job that anybody could ask for.
        if job.id is None and job.status is JobStatus.FAILURE:
            return
        try:
            record = await self.writer.write_together(
                record_jobs, NewJob(hold, job.id, job.download_urls)
            )
        except Exception:
            # A full disk, or a database that is away: the log is all that knows of it then.
            _log.exception(
                "job %s of request %s is paid, and could not be recorded", job.id, hold.request_key
            )
            raise
        if record.request_with_job is not None:
            raise AnswerLost(
                f"the API answered with job {job.id}, which is that of request "
                f"{record.request_with_job[:12]}; it may have been bought"
            )
        if not record.kept:
            raise AnswerLost(f"job {job.id} came after the request had gone on without it")

    def _note_sending(self, key: str, under_way: bool) -> None:  # noqa: FBT001 - the client's callback
        """Keep in mind which POSTs are under way; a run that stops sends no further one."""
        if not under_way:
            self.state.sending.discard(key)
        elif self.state.stops and not self.state.budget_reached:
            raise SendingStopped("the run stopped before it was sent")
        elif not self.fence.holds(key):
            raise _ClaimDoubtful
        elif key not in self.state.sending:
            self.state.sent += 1
            self.state.sending.add(key)

    def _claims(
        self, connection: Connection, calls: Sequence[tuple[PlannedRequest, Hold]]
    ) -> list[bool]:
        """Claim calls, and reserve what they cost; False where another has one or none is left."""
        mine = {hold for _, hold in calls if self._has_claimed(connection, hold)}
        new = [(call, hold) for call, hold in calls if hold not in mine]
        together = len(new) > 1 and all(hold.attempt == 1 for _, hold in new)
        if together and self._claim_new(connection, [call for call, _ in new]):
            return [True] * len(calls)
        # Claiming a call a second time is no harm.
        return [hold in mine or self._claim(connection, call, hold) for call, hold in calls]

    def _has_claimed(self, connection: Connection, hold: Hold) -> bool:
        """Tell whether a claim was committed, its cost reserved, though nobody confirmed that."""
        was_tried = hold.request_key in self.state.reserved
        return was_tried and record_confirmation(connection, hold, lease_until=self.lease.until())

    def _claim_new(self, connection: Connection, calls: Sequence[PlannedRequest]) -> bool:
        """Claim calls that the ledger does not know; False where one could not be."""
        all_taken = record_claims(
            connection,
            [self._claim_of(call) for call in calls],
            owner=self.lease.owner,
            lease_until=self.lease.until(),
        )
        return all_taken and self._reserve(connection, calls) is None

    def _claim(self, connection: Connection, call: PlannedRequest, hold: Hold) -> bool:
        """Claim a call and reserve what it costs; False where another has it or none is left."""
        taken = record_claim(
            connection,
            self._claim_of(call),
            owner=self.lease.owner,
            lease_until=self.lease.until(),
            seen=hold.attempt - 1,
        )
        if not taken:
            return False
        refusal = self._reserve(connection, [call])
        if refusal is None:
            return True
        self.state.stop(BudgetReached(refusal))
        record_failed(
            connection, call.request_key, Failure.NOT_SENT, refusal, owner=self.lease.owner
        )
        return False

    def _claim_of(self, call: PlannedRequest) -> Claim:
        return Claim(
            **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
            endpoint=self.client.endpoint(call.task),
            emulated=self.means.emulated,
            run_id=self.means.run_id,
        )

    def _reserve(self, connection: Connection, calls: Sequence[PlannedRequest]) -> str | None:
        """Reserve what claimed calls cost, and record their uses; returns why not, if so."""
        today = self.lease.now().date()
        images = sum(call.samples for call in calls)
        refusal = self.means.allowance.reserve(connection, images=images, today=today)
        if refusal is None:
            self.state.reserved.update({call.request_key: today for call in calls})
            record_uses(connection, [use for call in calls for use in self.uses[call.request_key]])
        return refusal
