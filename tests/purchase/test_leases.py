"""What one run believes of another's lease, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, update

from imagepipeline_dagster import databases
from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind
from imagepipeline_dagster.ledger.decisions import (
    DecisionRefused,
    LedgerDecision,
    decide,
    unknown_requests,
)
from imagepipeline_dagster.ledger.records import Lease, Owner, State
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import requests, samples, spending
from imagepipeline_dagster.moderation.states import overrides_by_set
from imagepipeline_dagster.purchase.refetching import refetch
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.overrides import (
    Override,
    OverrideDecision,
    read_overrides,
    record_overrides,
)
from tests.buying import Buyer, numbered_rows, prompts_of

ELSEWHERE = Owner("another-host/place/1/x")
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def owner(any_buyer: Buyer) -> Buyer:
    """A buyer who bought one picture, whose job another machine works on."""
    any_buyer.buy(prompts_of(numbered_rows(1)))
    return any_buyer


def leave_leased(buyer: Buyer, until: dt.datetime, *, state: State = State.SUBMITTED) -> None:
    """Leave the request as another machine's process does that holds it until then."""
    with buyer.open_ledger() as ledger, ledger.engine.begin() as connection:
        connection.execute(samples.delete())
        theirs = {"owner": ELSEWHERE.name, "lease_until": until, "run_id": "theirs"}
        connection.execute(update(requests).values(state=state, **theirs))


def keep_of(decided_at: dt.datetime) -> Override:
    """Return a person's decision to keep the picture."""
    return Override(
        decision=OverrideDecision.KEEP,
        reviewer="ana",
        reason="art",
        decided_at=decided_at,
        prompt_set="spring",
        prompt_id="p0000",
    )


@pytest.mark.timeout(20)
def test_a_lease_from_a_wrong_clock_blocks_nobody(owner: Buyer, emulator: EmulatorServer) -> None:
    """A machine whose clock was an hour ahead died: the next run goes on with its job at once."""
    leave_leased(owner, dt.datetime.now(dt.UTC) + HOUR)
    again = owner.buy(prompts_of(numbered_rows(1)))
    assert again.outcomes == {"generated": 1}
    assert emulator.stats.posts_accepted == 1


def test_what_a_run_waits_for_is_said(owner: Buyer) -> None:
    """A run with nothing else to do says whose requests it waits for, and until when."""
    leave_leased(owner, dt.datetime.now(dt.UTC) + dt.timedelta(seconds=5))
    progress: list[str] = []
    again = owner.buy(prompts_of(numbered_rows(1)), on_progress=lambda it: progress.append(str(it)))
    assert again.outcomes == {"generated": 1}
    waiting = f"waits for 1 request of run theirs, whose process {ELSEWHERE.name} has them until"
    assert any(waiting in line for line in progress)


def test_pictures_and_decisions_are_told_by_the_databases_clock(
    buyer: Buyer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keep covers what came before it, though each was noted on a machine with a wrong clock."""
    real = databases._now
    buyer = dataclasses.replace(buyer, ledger_url=postgres_url)
    monkeypatch.setattr(databases, "_now", lambda: real() + HOUR)
    bought = buyer.buy(prompts_of(numbered_rows(1)))
    record_overrides(postgres_url, [keep_of(real())])
    [kept], [image] = read_overrides(postgres_url), bought.images

    assert image.completed_at is not None
    for moment in (image.completed_at, kept.decided_at):
        assert abs(moment - real() + HOUR) < dt.timedelta(seconds=30)
    assert kept.covers(image.completed_at)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_keep_covers_what_was_seen_though_tables_and_ledger_have_two_clocks(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: dt.timedelta
) -> None:
    """Tables in SQLite have this machine's clock, and a ledger in PostgreSQL has another."""
    real = databases._now
    now, minute = real(), dt.timedelta(minutes=1)
    monkeypatch.setattr(databases, "_now", lambda: real() - ahead)
    url = f"sqlite:///{tmp_path}/tables.db"
    create_tables(url)
    record_overrides(url, [keep_of(now)])
    with closing(Ledger(postgres_url)) as ledger:
        [kept] = overrides_by_set(ledger, read_overrides(url), dataset="images")["spring"]
    assert kept == read_overrides(url)[0]
    assert kept.covers(now - minute + ahead)
    assert not kept.covers(now + minute + ahead)


def test_leases_are_told_by_the_databases_clock(ledger: Ledger) -> None:
    """A lease is a time of the database's clock, however wrong this machine's is."""
    assert abs(ledger.clock_ahead()) < dt.timedelta(seconds=5)
    behind = Lease(ELSEWHERE, 60.0, ahead=HOUR)
    apart = behind.until() - dt.datetime.now(dt.UTC)
    assert abs(apart - HOUR - dt.timedelta(seconds=60)) < dt.timedelta(seconds=5)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_wrong_clock_lets_nobody_decide_about_what_a_run_is_buying(
    buyer: Buyer, postgres_url: str, monkeypatch: pytest.MonkeyPatch, ahead: dt.timedelta
) -> None:
    """What a run holds by the ledger's clock is neither lost nor late for a person elsewhere."""
    real = databases._now
    buyer = dataclasses.replace(buyer, ledger_url=postgres_url)
    buyer.buy(prompts_of(numbered_rows(1)))
    monkeypatch.setattr(databases, "_now", lambda: real() - ahead)
    held_until = real() + ahead + dt.timedelta(minutes=1)
    with buyer.open_ledger() as ledger:
        for state in (State.CLAIMED, State.SUBMITTED):
            leave_leased(buyer, held_until, state=state)
            with ledger.reading() as connection:
                [key] = connection.scalars(select(requests.c.request_key)).all()
            assert unknown_requests(ledger) == []
            with pytest.raises(DecisionRefused, match="a run is buying it"):
                decide(ledger, [key], LedgerDecision.RESUBMIT, who="mira", why="lost")
            entries = list(ledger.entries([key]).values())
            [refetched] = refetch(entries, buyer.means(ledger))
            assert refetched.trouble == "a run works on it"


def test_links_live_by_the_ledgers_clock(
    buyer: Buyer, postgres_url: str, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a paid picture's links live is told by one clock, whatever a machine's own says."""
    real = databases._now
    buyer = dataclasses.replace(buyer, ledger_url=postgres_url)
    emulator.set_faults(Fault(kind=FaultKind.EXPIRED_LINK))
    monkeypatch.setattr(databases, "_now", lambda: real() + 2 * HOUR)
    bought = [
        buyer.buy(prompts_of(numbered_rows(1)), link_lifetime_hours=1, link_patience_seconds=0)
        for _ in range(2)
    ]

    assert [dict(it.outcomes) for it in bought] == [{"pending": 1}] * 2
    [entry] = bought[0].entries.values()
    assert entry.links_since is not None
    assert abs(entry.links_since - (real() - 2 * HOUR)) < dt.timedelta(seconds=30)


def test_a_budgets_day_is_the_ledgers(
    buyer: Buyer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What machines with different clocks spend counts on one day: that of the database."""
    real, day = databases._now, 24 * HOUR
    buyer = dataclasses.replace(buyer, ledger_url=postgres_url)
    monkeypatch.setattr(databases, "_now", lambda: real() - day)
    before = real() + day
    buyer.buy(prompts_of(numbered_rows(1)))
    with buyer.open_ledger() as ledger, ledger.reading() as connection:
        days = set(connection.scalars(select(spending.c.day)).all())
        shown = ledger.today().isoformat()
    by_ledger = {before.date().isoformat(), (real() + day).date().isoformat()}
    assert days & by_ledger
    assert shown in by_ledger
