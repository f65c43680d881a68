"""A lost ledger's entries restored from what the storage keeps: three tables of each prompt set.

Only missing entries are restored, and those of which the tables show a job, or an end, that the
ledger does not know; the others stay as they are. The tables tell what was bought until they were
stored. A request that they show as not bought, and that the ledger lacks or an older copy would
buy, may have been bought after that, by a run that never came to its end: it becomes `unknown`, for
a person to decide. The errors tell what people decided.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, delete

from imagepipeline_dagster.api.contract import submit_path
from imagepipeline_dagster.ledger.decisions import GIVEN_UP, restore_decision
from imagepipeline_dagster.ledger.identity import adopt, may_be_older
from imagepipeline_dagster.ledger.records import (
    MAX_JOBS_PER_REQUEST,
    Attempt,
    Entry,
    Failure,
    Outcome,
    PlanState,
    State,
    StoredSample,
    plan_state,
)
from imagepipeline_dagster.ledger.requests import entries_seen_by
from imagepipeline_dagster.ledger.schema import requests, samples
from imagepipeline_dagster.ledger.sources import record_source
from imagepipeline_dagster.ledger.steps import keep_attempt
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.ledger.uses import datasets_in, record_uses
from imagepipeline_dagster.ledger.verification import count_strangers
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest, uses_of_plan
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.replay import REPLAYS
from imagepipeline_dagster.purchase.sources import sources_shown_by
from imagepipeline_dagster.rows import fields_of, parquet_table, rows_of
from imagepipeline_dagster.storage.contract import ObjectMissing

RowT = TypeVar("RowT", Prompt, PlannedRequest, GeneratedImage)

_ENDED = (
    Outcome.GENERATED,
    Outcome.VENDOR_FILTERED,
    Outcome.EXPIRED,
    Outcome.UNDECODABLE,
    Outcome.WITHDRAWN,
)
_RESTORED = "restored from the stored tables"
_PERHAPS_BOUGHT = (
    "the ledger was lost or is an older copy, and the stored tables do not show the request as "
    "bought; a run that did not end may have bought it"
)
_LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Restored:
    """How many entries of a prompt set were restored, with how many images."""

    prompt_set: str
    requests: int
    images: int
    unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrances:
    """What keeps a ledger from being adopted, for a person to look at.

    Attributes:
        strangers: stored images that it does not know.
        datasets: the others of an older copy, which are to be rebuilt as well.
    """

    strangers: int
    datasets: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilding:
    """What a ledger is rebuilt from.

    Args:
        means: the ledger, the storage, the API of requests that were never sent so far, and the
            allowance where what was bought is counted as spent.
        dataset: its name in the ledger.
        key_prefix: of its assets, whose tables are on the storage.
        unbought: take what the tables show as not bought for not bought.
    """

    means: Means
    dataset: str
    key_prefix: Sequence[str] = ()
    unbought: bool = False

    def restore(self) -> Iterator[Restored]:
        """Restore one prompt set after another, each in a transaction of its own.

        Running it again, after an interruption too, restores what is still missing.
        """
        of_prompts, of_plans, of_images = (
            "/".join((*self.key_prefix, asset))
            for asset in ("prompt_sets", "generation_requests", "generated_images")
        )
        is_older = may_be_older(self.means.ledger, self.means.storage)
        for path in self.means.storage.list(of_prompts):
            file = path.removeprefix(f"{of_prompts}/")
            prompts = self._rows(path, Prompt)
            plan = self._rows(f"{of_plans}/{file}", PlannedRequest)
            images = self._rows(f"{of_images}/{file}", GeneratedImage)
            if plan:
                with self.means.ledger.engine.begin() as connection:
                    yield self._restore_set(connection, plan, prompts, images, is_older=is_older)

    def adopt(self) -> Hindrances:
        """Take the ledger for the storage's own, where nothing hinders that.

        An adopted ledger is seen as an older copy no longer: what no table of another dataset
        shows as bought would not become `unknown` then.
        """
        ledger, storage = self.means.ledger, self.means.storage
        datasets = []
        if may_be_older(ledger, storage):
            with ledger.reading() as connection:
                datasets = datasets_in(connection)
        found = Hindrances(
            strangers=count_strangers(ledger, storage),
            datasets=[name for name in datasets if name not in (self.dataset, REPLAYS)],
        )
        if not found.strangers and not found.datasets:
            adopt(ledger, storage)
        return found

    def _restore_set(
        self,
        connection: Connection,
        plan: Sequence[PlannedRequest],
        prompts: Sequence[Prompt],
        images: Sequence[GeneratedImage],
        *,
        is_older: bool,
    ) -> Restored:
        known = entries_seen_by(connection, (call.request_key for call in plan))
        shown = _samples_by_request(images)
        # A prompt may have left the set between the plan and the table of the prompts.
        there = {prompt.prompt_id for prompt in prompts}
        plan = [call for call in plan if call.prompt_id in there]
        uses = uses_of_plan(plan, prompts, dataset=self.dataset, run_id=_RESTORED)
        # What is bought is counted, whatever the budget says.
        spending = dataclasses.replace(self.means.allowance, budget=None)
        restored: dict[str, Mapping[str, Any]] = {}
        stored = 0
        for call in plan:
            rows: Sequence[GeneratedImage] = shown.get(call.request_key, ())
            before = known.get(call.request_key)
            if call.request_key in restored:
                continue
            if before is not None and not _tells_more(rows, before, is_older=is_older):
                rows = ()
            entry = self._entry(call, rows, before, is_older=is_older)
            if entry is None:
                continue
            restored[call.request_key] = entry
            stored += _put(connection, entry, rows, before)
            for bought_at in _uncounted_jobs(rows, before):
                spending.reserve(connection, images=call.samples, today=bought_at.date())
        record_uses(connection, (use for use in uses if use.request_key in restored))
        for source in sources_shown_by(images, self.means.storage):
            record_source(connection, source)
        return Restored(
            plan[0].prompt_set if plan else "",
            len(restored),
            stored,
            sum(entry["state"] is State.UNKNOWN for entry in restored.values()),
        )

    def _entry(
        self,
        call: PlannedRequest,
        rows: Sequence[GeneratedImage],
        before: Entry | None,
        *,
        is_older: bool,
    ) -> Mapping[str, Any] | None:
        """Return a request's row in the ledger; None where it stays, or is not bought."""
        row = _last_of(rows)
        state, failure, error = _end_of(rows)
        if state is None:
            would_buy = plan_state(before) is PlanState.TO_BUY
            decided = before is not None and (_is_restored(before) or not (is_older or rows))
            if self.unbought or not would_buy or decided:
                return None
            state, error = State.UNKNOWN, _PERHAPS_BOUGHT
        submitted_at = row.submitted_at if row else None
        ended = [row.completed_at for row in rows if row.completed_at]
        return {
            **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
            "state": state,
            # Of one that failed for good nobody knows how many there were.
            "attempt": max(
                MAX_JOBS_PER_REQUEST if failure is Failure.MODEL_ERROR else 1,
                before.attempt + (not _shows_attempt_of(before, row)) if before else 1,
            ),
            "endpoint": (row and row.endpoint) or f"{self.means.origin}{submit_path(call.task)}",
            "emulated": row.emulated if row and row.endpoint else self.means.emulated,
            "run_id": (row and row.run_id) or _RESTORED,
            "owner": _RESTORED,
            "lease_until": _LONG_AGO,
            "claimed_at": submitted_at or _LONG_AGO,
            "job_id": row.job_id if row else None,
            "links": None,
            "submitted_at": submitted_at,
            "links_since": None,
            "completed_at": max(ended) if ended else None,
            "failure": failure,
            "error": error,
        }

    def _rows(self, path: str, row_type: type[RowT]) -> list[RowT]:
        try:
            data = self.means.storage.read(path)
        except ObjectMissing:
            return []
        return rows_of(parquet_table(data), row_type)


def _put(
    connection: Connection,
    entry: Mapping[str, Any],
    rows: Sequence[GeneratedImage],
    before: Entry | None,
) -> int:
    """Put a request's row, samples and decisions in place of what was known; count its pictures."""
    request_key = entry["request_key"]
    if before and before.attempt and not _shows_attempt_of(before, _last_of(rows)):
        keep_attempt(connection, before, Failure.RESUBMITTED, before.error or _RESTORED)
    put(connection, requests, entry, replace=tuple(entry))
    known = {sample.error for sample in before.stored} if before else set()
    for error, row in {row.error: row for row in rows if row.error}.items():
        if error not in known:
            restore_decision(connection, request_key, error, at=_moment_of(row))
    if rows:
        connection.execute(delete(samples).where(samples.c.request_key == request_key))
    numbers = {job.submitted_at: job.attempt for job in _jobs_of(before)}
    stored = list(_stored_samples(request_key, rows, numbers, last=entry["attempt"]))
    for sample in stored:
        put(connection, samples, sample)
    return sum(sample["image_sha256"] is not None for sample in stored)


def _uncounted_jobs(rows: Sequence[GeneratedImage], before: Entry | None) -> Iterator[dt.datetime]:
    """Return when each job was submitted that the ledger has not counted as spent."""
    known = {job.submitted_at for job in _jobs_of(before)}
    for bought_at, row in {row.submitted_at: row for row in rows}.items():
        if bought_at and bought_at not in known and not _shows_attempt_of(before, row):
            yield bought_at


def _samples_by_request(
    images: Sequence[GeneratedImage],
) -> dict[str, list[GeneratedImage]]:
    """Return each request's samples in the order of their slots, as its first call shows them."""
    shown: dict[str, list[GeneratedImage]] = {}
    for image in images:
        if image.request_key is None:
            continue
        of_call = shown.setdefault(image.request_key, [])
        first = of_call[0] if of_call else image
        if (first.prompt_id, first.call_index) == (image.prompt_id, image.call_index):
            of_call.append(image)
    return shown


def _tells_more(rows: Sequence[GeneratedImage], before: Entry, *, is_older: bool) -> bool:
    """Tell whether the samples show more of a request than the ledger knows.

    A ledger knows each job that its own tables show, also after a person let it be bought again.
    """
    last, state = _last_of(rows), _end_of(rows)[0]
    if last is None:
        return False
    would_do = plan_state(before)
    if last.submitted_at is None:
        if state is None or would_do is not PlanState.TO_BUY or _is_restored(before):
            return False
        return is_older or last.run_id not in {job.run_id for job in _jobs_of(before)}
    if last.submitted_at == before.submitted_at:
        is_open = would_do in (PlanState.IN_FLIGHT, PlanState.UNKNOWN)
        return is_open and state in (State.SUCCEEDED, State.FAILED)
    known = [job.submitted_at for job in _jobs_of(before) if job.submitted_at]
    if would_do is not PlanState.TO_BUY:  # there its last claim sent nothing, or is overruled
        known.append(before.claimed_at)
    return all(last.submitted_at > moment for moment in known)


def _jobs_of(entry: Entry | None) -> tuple[Entry | Attempt, ...]:
    """Return the attempts at a request that the ledger knows, its current one first."""
    return (entry, *entry.earlier) if entry else ()


def _shows_attempt_of(before: Entry | None, row: GeneratedImage | None) -> bool:
    """Tell whether a sample is of the attempt that the entry is at, which counted it as spent."""
    if before is None or row is None:
        return False
    if before.submitted_at is not None:
        return row.submitted_at == before.submitted_at
    awaits_answer = plan_state(before) in (PlanState.IN_FLIGHT, PlanState.UNKNOWN)
    return awaits_answer and row.run_id == before.run_id


def _is_restored(entry: Entry) -> bool:
    """Tell whether no run had a request since it was restored: a person alone let it be bought."""
    return entry.owner.name == _RESTORED


def _last_of(rows: Sequence[GeneratedImage]) -> GeneratedImage | None:
    """Return the sample that shows a request's last attempt; one to be bought shows none."""

    def place(row: GeneratedImage) -> tuple[bool, dt.datetime]:
        is_unsent = row.outcome == Outcome.PENDING and row.submitted_at is None
        is_open = row.outcome not in _ENDED and not is_unsent
        return is_open, row.submitted_at or _LONG_AGO

    return max(rows, key=place, default=None)


def _end_of(rows: Sequence[GeneratedImage]) -> tuple[State | None, Failure | None, str | None]:
    """Return how a request ended, by its samples; None where they do not show it as bought."""
    open_rows = [row for row in rows if row.outcome not in _ENDED]
    if rows and not open_rows:
        return State.SUCCEEDED, None, None
    if not open_rows:
        return None, None, None
    outcome, error = open_rows[0].outcome, open_rows[0].error
    if outcome == Outcome.UNKNOWN:
        return State.UNKNOWN, None, error
    if outcome == Outcome.FAILED and (error or "").startswith(GIVEN_UP):
        return State.FAILED, Failure.GIVEN_UP, error
    if outcome == Outcome.FAILED:
        sent = any(row.submitted_at for row in rows)
        return State.FAILED, Failure.MODEL_ERROR if sent else Failure.INPUT_REFUSED, error
    if any(row.job_id for row in open_rows):
        return State.SUBMITTED, None, error
    return None, None, None


def _stored_samples(
    request_key: str,
    rows: Sequence[GeneratedImage],
    numbers: Mapping[dt.datetime | None, int],
    *,
    last: int,
) -> Iterator[dict[str, Any]]:
    """Return the rows of samples; `numbers` are those of the jobs that the ledger knew, by time."""
    for slot, row in enumerate(rows):
        if row.outcome not in _ENDED:
            continue
        yield fields_of(row, *_OF_SAMPLE) | {
            "request_key": request_key,
            "slot": slot,
            "attempt": numbers.get(row.submitted_at, last),
            "stored_at": _moment_of(row),
        }


_OF_SAMPLE = set(StoredSample.__slots__) - {"slot", "attempt", "stored_at"}


def _moment_of(row: GeneratedImage) -> dt.datetime:
    return row.completed_at or row.submitted_at or _LONG_AGO
