"""Each step of a request recorded: a write-ahead log of the purchase.

A request's life, each step committed before the next begins:

    (none) ──claim──> claimed ──job id known──> submitted ──samples stored──> succeeded
                         │                          └────FAILURE────> failed ──claim──> claimed
                         ├──the POST provably created no job──> failed (not_sent)
                         └──its answer was lost, or its process died──> unknown
                                   ──a person decides──> failed (resubmitted, or given_up)

A claim is atomic and carries its process and a lease, so that two processes never POST the same
request. Nothing leaves `unknown` by itself, but for a request whose job the API did not know: each
run asks for that job once more, which costs nothing.

Every function runs inside a transaction of its caller, so that many steps can share a commit.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from imagepipeline_dagster.api.contract import storable, submit_path
from imagepipeline_dagster.ledger.records import (
    Claim,
    Entry,
    Failure,
    Hold,
    JobRecord,
    Owner,
    State,
    StoredSample,
)
from imagepipeline_dagster.ledger.schema import attempts, requests, samples, shares
from imagepipeline_dagster.ledger.upserts import insert, put
from imagepipeline_dagster.rows import fields_of

_LEFT_BY_A_JOB = (
    "job_id",
    "links",
    "submitted_at",
    "links_since",
    "completed_at",
    "failure",
    "error",
)
_LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


def record_claim(
    connection: Connection, claim: Claim, *, owner: Owner, lease_until: dt.datetime, seen: int
) -> bool:
    """Take the right to POST a request; False where another process has it or had it.

    `seen` is the attempts that the caller knows of: 0 for a request that has no entry, else
    those of an entry in state failed. Repeating a claim that this owner holds already is no
    harm: its commit may have come through although its confirmation did not.
    """
    values = _claimed(claim, owner=owner, lease_until=lease_until, attempt=seen + 1)
    if seen == 0:
        new = insert(connection.dialect.name, requests).returning(requests.c.request_key)
        # Not its row count: SQLAlchemy keeps that of updates only, and gives -1 on PostgreSQL.
        if connection.execute(new, values).first():
            return True
    failed_before = and_(requests.c.state == State.FAILED, requests.c.attempt == seen)
    mine = Hold(request_key=claim.request_key, owner=owner, attempt=seen + 1)
    claimed_before = and_(requests.c.state == State.CLAIMED, _is_held(mine))
    is_free = or_(failed_before, claimed_before)
    return change_request(connection, claim.request_key, is_free, **values)


def record_claims(
    connection: Connection, claims: Sequence[Claim], *, owner: Owner, lease_until: dt.datetime
) -> bool:
    """Do the same for requests that have no entry; False where that is not so of all of them.

    Those of which it is so are claimed in any case.
    """
    rows = [_claimed(it, owner=owner, lease_until=lease_until, attempt=1) for it in claims]
    counted = connection.execution_options(preserve_rowcount=True)
    return counted.execute(insert(connection.dialect.name, requests), rows).rowcount == len(rows)


def _claimed(
    claim: Claim, *, owner: Owner, lease_until: dt.datetime, attempt: int
) -> dict[str, Any]:
    return {
        **fields_of(claim),
        **dict.fromkeys(_LEFT_BY_A_JOB),
        "state": State.CLAIMED,
        "attempt": attempt,
        "owner": owner.name,
        "lease_until": lease_until,
        "claimed_at": _now(),
    }


def change_request(
    connection: Connection,
    request_key: str,
    /,
    *where: ColumnElement[bool],
    **values: Any,  # noqa: ANN401 - of any column
) -> bool:
    """Change a request's row where all of this holds; tell whether it did."""
    of_request = update(requests).where(requests.c.request_key == request_key, *where)
    return bool(connection.execute(of_request.values(values)).rowcount)


def record_confirmation(connection: Connection, hold: Hold, *, lease_until: dt.datetime) -> bool:
    """Renew one claim; False where it is this process's no longer, and must not be sent."""
    is_mine = and_(_is_held(hold), requests.c.state == State.CLAIMED)
    return change_request(connection, hold.request_key, is_mine, lease_until=lease_until)


def _is_held(hold: Hold) -> ColumnElement[bool]:
    return and_(requests.c.owner == hold.owner.name, requests.c.attempt == hold.attempt)


def record_submitted(
    connection: Connection, hold: Hold, *, job_id: str | None, links: Sequence[str]
) -> JobRecord:
    """Record that the API took the request, under this job id.

    A job belongs to one request: an id that another one has at the same API is not recorded. One
    that came so late that the request has gone on to a further attempt is kept with its own.
    """
    if job_id is not None and (other := _other_request(connection, hold.request_key, job_id)):
        return JobRecord(kept=False, request_with_job=other)
    taken = NewJob(hold, job_id, links)
    if connection.execute(_SUBMITTED, _submitted(taken)).rowcount:
        return JobRecord(kept=True)
    return JobRecord(kept=_keep_late_job(connection, hold, job_id))


class NewJob(NamedTuple):
    """A request that the API took, under this job id."""

    hold: Hold
    job_id: str | None
    links: Sequence[str]


def record_jobs(connection: Connection, jobs: Sequence[NewJob]) -> list[JobRecord]:
    """Do the same for many requests."""
    ids = {job.job_id for job in jobs if job.job_id is not None}
    known = _KNOWN_JOBS if len(ids) == len(jobs) > 1 else None
    if known is not None and connection.execute(known, {"of_job_ids": list(ids)}).first() is None:
        taken = connection.execute(_SUBMITTED, [_submitted(job) for job in jobs])
        if taken.rowcount == len(jobs):
            return [JobRecord(kept=True)] * len(jobs)
    # Recording a job a second time is no harm.
    return [
        record_submitted(connection, job.hold, job_id=job.job_id, links=job.links) for job in jobs
    ]


def _submitted(job: NewJob) -> dict[str, Any]:
    return {
        "of_key": job.hold.request_key,
        "of_owner": job.hold.owner.name,
        "of_attempt": job.hold.attempt,
        "of_job_id": job.job_id,
        "of_links": None if job.job_id else list(job.links),
        "now": _now(),
    }


def _keep_late_job(connection: Connection, hold: Hold, job_id: str | None) -> bool:
    """Keep a job's id with its attempt; True where it stands in the request's row already."""
    current = connection.execute(
        select(requests).where(requests.c.request_key == hold.request_key)
    ).one()
    if (current.attempt, current.job_id) == (hold.attempt, job_id):
        # The commit came through although its confirmation did not.
        return bool(current.owner == hold.owner.name)
    of_attempt = and_(
        attempts.c.request_key == hold.request_key, attempts.c.attempt == hold.attempt
    )
    noted = connection.execute(
        update(attempts)
        .where(of_attempt, attempts.c.job_id.is_(None))
        .values(job_id=job_id, submitted_at=_now())
    )
    if not noted.rowcount:
        why = "its answer came after the request had gone on"
        late = {"attempt": hold.attempt, "job_id": job_id, "submitted_at": _now()}
        keep_attempt(connection, current, Failure.RESUBMITTED, why, **late)
    return False


def keep_attempt(
    connection: Connection,
    request: Entry | Row[Any],
    failure: Failure,
    error: str,
    **otherwise: Any,  # noqa: ANN401 - of any column
) -> None:
    """Keep how a request's attempt ended, so that its job stays known once another is claimed."""
    names = ("request_key", "attempt", "job_id", "run_id", "submitted_at")
    kept = {name: getattr(request, name) for name in names}
    kept |= {"ended_at": _now(), "failure": failure, "error": error}
    put(connection, attempts, kept | otherwise)


def _other_request(connection: Connection, request_key: str, job_id: str) -> str | None:
    rows = connection.execute(_WITH_JOB, {"of_key": request_key, "of_job_id": job_id})
    apis = {key: endpoint.removesuffix(submit_path(task)) for key, endpoint, task in rows}
    mine = apis.pop(request_key, None)
    return next((key for key, api in sorted(apis.items()) if api == mine), None)


def record_resumed(
    connection: Connection,
    request_key: str,
    *,
    owner: Owner,
    lease_until: dt.datetime,
    former: Owner,
) -> bool:
    """Take over a request with a job id from a process that is gone; False where another did.

    One that is unknown, because the API did not know its job, is submitted again by that.
    """
    lost_its_job = and_(requests.c.state == State.UNKNOWN, requests.c.job_id.is_not(None))
    return change_request(
        connection,
        request_key,
        or_(requests.c.state == State.SUBMITTED, lost_its_job),
        requests.c.owner == former.name,
        state=State.SUBMITTED,
        owner=owner.name,
        lease_until=lease_until,
    )


def record_stored(connection: Connection, hold: Hold, sample: StoredSample) -> bool:
    """Record what became of one sample; False where another process or attempt has the request."""
    of_request = requests.c.request_key == hold.request_key
    is_mine = and_(of_request, _is_held(hold), requests.c.state == State.SUBMITTED)
    held = select(requests.c.attempt).where(is_mine).with_for_update()
    if connection.execute(held).first() is None:
        return False
    _store(connection, hold.request_key, hold.attempt, [sample])
    return True


def _store(
    connection: Connection, request_key: str, attempt: int, stored: Iterable[StoredSample]
) -> None:
    """Record samples as the work of a request's attempt."""
    _put_samples(connection, _rows_of(request_key, attempt, stored))


def _rows_of(
    request_key: str, attempt: int, stored: Iterable[StoredSample]
) -> list[dict[str, Any]]:
    of = {"request_key": request_key, "attempt": attempt}
    return [fields_of(sample) | of for sample in stored]


def _put_samples(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        put(connection, samples, rows, replace=_OF_SAMPLE)


_OF_SAMPLE = tuple(name for name in StoredSample.__slots__ if name != "slot")


def record_successes(
    connection: Connection, ended: Sequence[tuple[Hold, Iterable[StoredSample]]]
) -> list[bool]:
    """Record of requests that every sample has its outcome, and what was not recorded before.

    False for each that another process or attempt has; nothing happens to it.
    """
    holds = [(hold.request_key, hold.owner.name, hold.attempt) for hold, _ in ended]
    mine = set(connection.execute(_SUCCEEDED, {"of_holds": holds, "now": _now()}).scalars())
    kept = [hold.request_key in mine for hold, _ in ended]
    rows = [
        row
        for (hold, last), is_mine in zip(ended, kept, strict=True)
        if is_mine
        for row in _rows_of(hold.request_key, hold.attempt, last)
    ]
    _put_samples(connection, rows)
    return kept


def record_refetched(
    connection: Connection, entry: Entry, pictures: Iterable[StoredSample]
) -> bool:
    """Record pictures that a request's job gave after all; False where the request has changed."""
    pictures = list(pictures)
    hold = Hold(request_key=entry.request_key, owner=entry.owner, attempt=entry.attempt)
    is_as_seen = and_(_is_held(hold), requests.c.state == entry.state)
    values: dict[str, Any] = {"completed_at": _now()}
    if len({sample.slot for sample in (*entry.stored, *pictures)}) >= entry.samples:
        values |= {"state": State.SUCCEEDED, "failure": None, "error": None}
    if not change_request(connection, entry.request_key, is_as_seen, **values):
        return False
    _store(connection, entry.request_key, entry.attempt, pictures)
    return True


def record_failed(
    connection: Connection,
    request_key: str,
    failure: Failure,
    error: str,
    *,
    owner: Owner,
    filtered: Iterable[StoredSample] = (),
) -> bool:
    """Record that the attempt provably gave nothing; one that was never sent is not counted.

    `filtered` are the samples, where the safety checker refused them all. False, and nothing
    happens, where another process has the request: it may have a new job of its own.
    """
    held = connection.execute(
        select(requests)
        .where(
            requests.c.request_key == request_key,
            requests.c.owner == owner.name,
            requests.c.state.in_([State.CLAIMED, State.SUBMITTED, State.UNKNOWN]),
        )
        .with_for_update()
    )
    row = held.one_or_none()
    if row is None:
        return False
    _store(connection, request_key, row.attempt, filtered)
    error = storable(error)
    counted = failure is not Failure.NOT_SENT
    if counted:
        keep_attempt(connection, row, failure, error)
    attempts_made = row.attempt if counted else row.attempt - 1
    end_request(connection, request_key, failure, error, attempt=attempts_made)
    return True


def end_request(
    connection: Connection,
    request_key: str,
    failure: Failure,
    error: str,
    **more: Any,  # noqa: ANN401 - of any column
) -> None:
    """Let a request be failed, whatever it was."""
    ended = {"state": State.FAILED, "failure": failure, "error": error, "completed_at": _now()}
    change_request(connection, request_key, **ended, **more)


def record_unknown(
    connection: Connection, request_key: str, error: str, *, owner: Owner, was: State
) -> None:
    """Record that nobody knows whether the attempt was bought; only a person may repeat it.

    `was` is the state that the caller saw: a claim whose answer came meanwhile keeps its job.
    """
    is_as_seen = and_(requests.c.owner == owner.name, requests.c.state == was)
    lost = {"state": State.UNKNOWN, "error": storable(error)}
    change_request(connection, request_key, is_as_seen, **lost)


def record_trouble(
    connection: Connection, request_key: str, error: str, *, links_since: dt.datetime | None = None
) -> None:
    """Note why a submitted request is not finished; it stays submitted.

    `links_since` is when its job was seen to have succeeded; the first such time counts.
    """
    since = func.coalesce(requests.c.links_since, links_since)
    noted = {"error": storable(error), "links_since": since}
    change_request(connection, request_key, requests.c.state == State.SUBMITTED, **noted)


def record_renewal(
    connection: Connection, owner: Owner, *, lease_until: dt.datetime
) -> frozenset[str]:
    """Extend the lease of all that a process works on, and return the requests' keys."""
    renewed = connection.execute(
        update(requests)
        .where(
            requests.c.owner == owner.name,
            requests.c.state.in_([State.CLAIMED, State.SUBMITTED]),
        )
        .values(lease_until=lease_until)
        .returning(requests.c.request_key)
    )
    return frozenset(renewed.scalars())


def record_release(connection: Connection, owner: Owner) -> None:
    """End the lease of all that a process worked on, and its share of the account."""
    connection.execute(delete(shares).where(shares.c.owner == owner.name))
    # Not this machine's clock: one that is ahead would go on holding what nobody works on.
    record_renewal(connection, owner, lease_until=_LONG_AGO)


# All are made once: it costs more than to carry them out.
_WITH_JOB = select(requests.c.request_key, requests.c.endpoint, requests.c.task).where(
    or_(
        requests.c.request_key == bindparam("of_key"),
        requests.c.job_id == bindparam("of_job_id"),
        requests.c.request_key.in_(
            select(attempts.c.request_key).where(attempts.c.job_id == bindparam("of_job_id"))
        ),
    )
)
_SUBMITTED = (
    update(requests)
    .where(
        requests.c.request_key == bindparam("of_key"),
        requests.c.owner == bindparam("of_owner"),
        requests.c.attempt == bindparam("of_attempt"),
        # A claim that was judged lost while its answer was under way is found again, whatever a
        # person decided about it meanwhile: it is bought.
        # No IN: SQLAlchemy executes no statement with one for many rows at once.
        or_(
            requests.c.state == State.CLAIMED,
            requests.c.state == State.UNKNOWN,
            and_(
                requests.c.state == State.FAILED,
                or_(
                    requests.c.failure == Failure.RESUBMITTED,
                    requests.c.failure == Failure.GIVEN_UP,
                ),
            ),
        ),
    )
    .values(
        state=State.SUBMITTED,
        failure=None,
        job_id=bindparam("of_job_id"),
        links=bindparam("of_links"),
        submitted_at=bindparam("now"),
        error=None,
    )
)
_KNOWN_JOBS = union_all(
    *(
        select(table.c.job_id).where(table.c.job_id.in_(bindparam("of_job_ids", expanding=True)))
        for table in (requests, attempts)
    )
)
_SUCCEEDED = (
    update(requests)
    .where(
        tuple_(requests.c.request_key, requests.c.owner, requests.c.attempt).in_(
            bindparam("of_holds", expanding=True)
        ),
        requests.c.state == State.SUBMITTED,
    )
    .values(state=State.SUCCEEDED, completed_at=bindparam("now"), error=None)
    .returning(requests.c.request_key)
)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
