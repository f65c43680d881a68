"""What a person decides about requests that no run goes on with by itself.

One more job, or none any more. Either only moves a request's state: the
next run buys, or does not. Each decision is kept, with who took it, when and why.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from imagepipeline_dagster.api.contract import storable
from imagepipeline_dagster.databases import clock_ahead
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.records import (
    Entry,
    Failure,
    Outcome,
    PlanState,
    State,
    plan_state,
)
from imagepipeline_dagster.ledger.requests import Ledger, entries_seen_by
from imagepipeline_dagster.ledger.schema import decisions, prompt_sets, requests, samples
from imagepipeline_dagster.ledger.sources import withdraw_sources
from imagepipeline_dagster.ledger.steps import end_request, keep_attempt
from imagepipeline_dagster.ledger.uses import sets_using

MIN_PREFIX = 8
"""Least hex digits that stand for a request key, or for an image."""

FIRST_DIGITS = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")
"""What stands for a request key, or for an image: its first digits, or all of them."""

GIVEN_UP = "given up by "
"""How the error of a request begins that was given up; then follow who decided so, and why."""
_WITHDRAWN = "withdrawn by "

_NO_PICTURE = (
    Outcome.EXPIRED,
    Outcome.UNDECODABLE,
    Outcome.VENDOR_FILTERED,
    Outcome.WITHDRAWN,
)
STUCK_AFTER = dt.timedelta(hours=1)
"""The age from which on a person may decide about a job that neither succeeds nor fails."""


class LedgerDecision(StrEnum):
    """What can be decided about a request."""

    RESUBMIT = "resubmit"
    """One more job, which the next run of its prompt set buys; pictures that did come stay.

    For a request whose fate is unknown, that failed for good or was given up, that was paid and
    whose picture expired, was filtered or cannot be decoded, or whose job has no end for so long
    as `STUCK_AFTER`.
    """

    FORGET = "forget"
    """No job any more: its open samples are `failed`.

    For a request whose fate is unknown, that would be bought again, or whose job has no end.
    """

    WITHDRAW = "withdraw"
    """Its pictures are taken back; see `withdraw_images`."""


class DecisionRefused(CorrectableError):
    """A key that names no single request, or a request for which the decision makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenDecision:
    """What was decided about a request, by whom, when and why."""

    request_key: str
    decided_at: dt.datetime
    decision: str
    who: str
    why: str


def unknown_requests(ledger: Ledger) -> list[Entry]:
    """Return the requests whose fate is unknown, the oldest first, each with why it is.

    Claims that a process left behind when it died are among them: the next run would find them.
    """
    waiting = select(requests.c.request_key).where(
        requests.c.state.in_([State.UNKNOWN, State.CLAIMED])
    )
    with ledger.reading() as connection:
        entries = entries_seen_by(connection, connection.scalars(waiting).all())
        now = _time_by_ledger(connection)
    return [
        dataclasses.replace(entry, error=entry.error or entry.lapse)
        for entry in sorted(entries.values(), key=lambda it: (it.claimed_at, it.request_key))
        if _is_unknown(entry, now)
    ]


def entries_named(ledger: Ledger, keys: Sequence[str]) -> list[Entry]:
    """Return the requests that these keys, or unique prefixes of them, name.

    Raises:
        DecisionRefused: one names no single request.
    """
    with ledger.reading() as connection:
        return _named(connection, keys)


def _named(connection: Connection, keys: Sequence[str], *, lock: bool = False) -> list[Entry]:
    whole = list(dict.fromkeys(_key(connection, key) for key in keys))
    if lock:
        # PostgreSQL: nothing may happen between looking and deciding.
        mine = requests.c.request_key.in_(whole)
        locked = select(requests.c.request_key).where(mine).order_by(requests.c.request_key)
        connection.execute(locked.with_for_update())
    entries = entries_seen_by(connection, whole)
    return [entries[key] for key in whole]


def decide(
    ledger: Ledger, keys: Sequence[str], decision: LedgerDecision, *, who: str, why: str
) -> list[Entry]:
    """Let these requests have one more job, or give them up: all of them or none.

    Returns the requests as they were.

    Raises:
        DecisionRefused: as `concerned`.
        ValueError: `who` or `why` is blank.
    """
    who, why = storable(who).strip(), storable(why).strip()
    if not who or not why:
        raise ValueError("a decision needs who takes it, and why")
    now = dt.datetime.now(dt.UTC)
    with ledger.engine.begin() as connection:
        entries = concerned(connection, keys, decision, lock=True)
        for entry in entries:
            _record(connection, [entry.request_key], decision, who=who, why=why, at=now)
            if decision is LedgerDecision.RESUBMIT:
                _resubmit(connection, entry, f"resubmitted by {who}: {why}")
            else:
                why_failed = f"{GIVEN_UP}{who}: {why}"
                end_request(connection, entry.request_key, Failure.GIVEN_UP, why_failed)
    return entries


def _record(
    connection: Connection,
    keys: Sequence[str],
    decision: LedgerDecision,
    *,
    who: str,
    why: str,
    at: dt.datetime,
) -> None:
    taken = {"decided_at": at, "decision": decision, "who": who, "why": why}
    connection.execute(insert(decisions), [{"request_key": key, **taken} for key in keys])


def withdraw_images(
    ledger: Ledger, images: Collection[str], *, who: str, why: str, at: dt.datetime
) -> None:
    """Let every sample with one of these pictures be `withdrawn`: no run fetches or buys it again.

    `images` are SHA-256, also of pictures that requests start from. A request stays paid; RESUBMIT
    alone allows one more job. Doing it again is no harm.
    """
    error = f"{_WITHDRAWN}{who}: {why}"
    has_one = and_(
        samples.c.image_sha256.in_(sorted(images)), samples.c.outcome != Outcome.WITHDRAWN
    )
    with ledger.engine.begin() as connection:
        withdraw_sources(connection, images, error)
        keys = connection.scalars(select(samples.c.request_key).where(has_one).distinct()).all()
        if not keys:
            return
        connection.execute(
            update(samples).where(has_one).values(outcome=Outcome.WITHDRAWN, uri=None, error=error)
        )
        _record(connection, keys, LedgerDecision.WITHDRAW, who=who, why=why, at=at)


_TOLD = {GIVEN_UP: LedgerDecision.FORGET, _WITHDRAWN: LedgerDecision.WITHDRAW}


def restore_decision(
    connection: Connection, request_key: str, error: str, *, at: dt.datetime
) -> LedgerDecision | None:
    """Record the decision that an error tells of, and return it; None where it tells of none."""
    for beginning, decision in _TOLD.items():
        if error.startswith(beginning):
            who, _, why = error.removeprefix(beginning).partition(": ")
            _record(connection, [request_key], decision, who=who, why=why, at=at)
            return decision
    return None


def decisions_about(connection: Connection, request_key: str) -> list[TakenDecision]:
    """Return what was decided about a request, in that order."""
    columns = (decisions.c[field.name] for field in dataclasses.fields(TakenDecision))
    mine = decisions.c.request_key == request_key
    query = select(*columns).where(mine).order_by(decisions.c.number)
    return [TakenDecision(**row) for row in connection.execute(query).mappings()]


def _resubmit(connection: Connection, entry: Entry, error: str) -> None:
    # The next claim overwrites the request's job; here it stays known, as a failed one does.
    if entry.attempt:
        lost = [sample for sample in entry.stored if sample.outcome in _NO_PICTURE]
        troubles = [f"sample {sample.slot} {sample.outcome}: {sample.error}" for sample in lost]
        why = "; ".join([*filter(None, [entry.error]), *troubles, error])
        keep_attempt(connection, entry, Failure.RESUBMITTED, why)
    connection.execute(
        delete(samples).where(
            samples.c.request_key == entry.request_key, samples.c.outcome.in_(_NO_PICTURE)
        )
    )
    end_request(connection, entry.request_key, Failure.RESUBMITTED, error)
    # Its sets are complete no longer: the schedule that asks for such sets again finds them.
    for dataset, prompt_set in sets_using(connection, [entry.request_key]):
        connection.execute(
            update(prompt_sets)
            .where(prompt_sets.c.dataset == dataset, prompt_sets.c.prompt_set == prompt_set)
            .values(pending=prompt_sets.c.pending + entry.samples)
        )


def concerned(
    connection: Connection, keys: Sequence[str], decision: LedgerDecision, *, lock: bool = False
) -> list[Entry]:
    """Return the requests that a decision would be about; nothing is changed.

    `keys` are request keys, or unique prefixes of at least `MIN_PREFIX` hex digits. With `lock`
    nobody else changes them before the transaction ends.

    Raises:
        DecisionRefused: names each key that cannot be decided about, and its state.
    """
    entries = _named(connection, keys, lock=lock)
    now = _time_by_ledger(connection)
    refusals = [
        f"{entry.request_key[:12]} cannot be {_PAST[decision]}: {refusal}"
        for entry in entries
        if (refusal := _refusal(entry, decision, now))
    ]
    if refusals:
        raise DecisionRefused("\n".join(refusals))
    return entries


_PAST: Mapping[LedgerDecision, str] = {
    LedgerDecision.RESUBMIT: "resubmitted",
    LedgerDecision.FORGET: "forgotten",
    LedgerDecision.WITHDRAW: "withdrawn",
}


def _key(connection: Connection, prefix: str) -> str:
    wanted = prefix.strip().lower()
    if not FIRST_DIGITS.fullmatch(wanted):
        raise DecisionRefused(
            f"{prefix!r} is no request key: give its first {MIN_PREFIX} or more hex digits"
        )
    matching: ColumnElement[bool] = requests.c.request_key.startswith(wanted)
    keys = connection.scalars(select(requests.c.request_key).where(matching).limit(2)).all()
    if not keys:
        raise DecisionRefused(f"{prefix}: the ledger has no request whose key begins like that")
    if len(keys) > 1:
        raise DecisionRefused(f"{prefix}: several requests' keys begin like that; give more digits")
    return str(keys[0])


def _time_by_ledger(connection: Connection) -> dt.datetime:
    # Leases are told by it: by a wrong clock of this machine, what a run is buying seems lost.
    return dt.datetime.now(dt.UTC) + clock_ahead(connection)


def _is_unknown(entry: Entry, now: dt.datetime) -> bool:
    if entry.settled:
        return False
    lapsed = entry.state is State.CLAIMED and not entry.is_live(now)
    return lapsed or entry.state is State.UNKNOWN


def _is_stuck(entry: Entry, now: dt.datetime) -> bool:
    old = entry.submitted_at is not None and entry.submitted_at <= now - STUCK_AFTER
    return entry.state is State.SUBMITTED and old and not entry.is_live(now)


def _refusal(entry: Entry, decision: LedgerDecision, now: dt.datetime) -> str | None:
    """Return why a decision makes no sense in the state that a request is in."""
    if _is_unknown(entry, now):
        return None
    state = plan_state(entry)
    in_state = f"it is {entry.state}" + (f" ({entry.failure})" if entry.failure else "")
    if state is PlanState.IN_FLIGHT:
        if _is_stuck(entry, now):
            return None
        hours = STUCK_AFTER.total_seconds() / 3600
        return (
            f"{in_state}; a run is buying it, or asks for its job again. A job without an end can "
            f"be decided about {hours:g} h after it was submitted, while no run works on it"
        )
    if decision is LedgerDecision.FORGET:
        return None if state is PlanState.TO_BUY else f"{in_state}; no run would buy it again"
    if state is PlanState.TO_BUY:
        return f"{in_state}; the next run buys it anyway"
    lost = any(sample.outcome in _NO_PICTURE for sample in entry.stored)
    if state is PlanState.FAILED or lost:
        return None
    return f"{in_state}; every sample has its picture"
