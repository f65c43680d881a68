"""What an API account allows, kept by processes that share nothing but the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.api.pacing import RequestPace
from imagepipeline_dagster.ledger.records import Lease, Owner
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import shares
from imagepipeline_dagster.ledger.shares import AccountLimits, Demand, Share, record_share
from imagepipeline_dagster.ledger.steps import record_release
from imagepipeline_dagster.purchase import places as places_module
from imagepipeline_dagster.purchase.places import AccountShare, Places
from imagepipeline_dagster.purchase.state import RunState
from tests.purchase.forking import Order
from tests.purchase.test_purchase_crash import (
    MakeOrder,
    Vendor,
    Workers,
    forking,
    make_order,
    vendor_process,
    workers,
)
from tests.waiting import until

__all__ = ["forking", "make_order", "workers"]

LIMIT = 6


@pytest.fixture
def slow_vendor() -> Iterator[Vendor]:
    """A vendor whose jobs take long enough to overlap."""
    with vendor_process(0.2) as started:
        yield started


def orders_of(
    number: int, make: MakeOrder, vendor: Vendor, values: Mapping[str, object]
) -> list[Order]:
    """Return orders of so many prompt sets, each larger than its share of the account."""
    usual = {"calls": 40, "max_in_flight": LIMIT, "account_max_in_flight": LIMIT, **values}
    return [make(vendor, prompt_set=f"set-{n}", **usual) for n in range(number)]


def test_four_processes_keep_the_accounts_limit_and_use_it(
    postgres_url: str, slow_vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """The vendor never sees more jobs in flight than the limit, and sees as many as that."""
    values = {"ledger_url": postgres_url, "calls": 16}
    orders = orders_of(4, make_order, slow_vendor, values)

    codes = workers.run(*orders)

    assert codes == [0, 0, 0, 0]
    stats = slow_vendor.stats
    assert stats.posts_accepted == 64
    assert stats.bought_twice == ()
    assert stats.peak_in_flight == LIMIT


@pytest.mark.slow
def test_a_killed_process_frees_its_share(
    postgres_url: str, slow_vendor: Vendor, workers: Workers, make_order: MakeOrder
) -> None:
    """What it held is the others' once its lease is over, and its set is bought by a later run."""
    values = {"ledger_url": postgres_url, "lease_seconds": 3, "calls": 60}
    dies, lives = orders_of(2, make_order, slow_vendor, values)
    killed, _ = workers.start(dies, lives)
    until(lambda: slow_vendor.stats.posts_accepted >= 20, what="twenty jobs")
    os.kill(killed, signal.SIGKILL)

    codes = workers.wait()
    rest = dies.buyer().buy(dies.prompts(), account_max_in_flight=LIMIT, lease_seconds=3)

    assert codes == [-signal.SIGKILL, 0]
    stats = slow_vendor.stats
    assert stats.bought_twice == ()
    assert stats.peak_in_flight == LIMIT
    assert rest.outcomes["generated"] + rest.outcomes["unknown"] == 60


@pytest.mark.parametrize(
    "limits",
    [
        {"account_requests_per_second": 25.0},
        pytest.param({"requests_per_second": 25.0, "beside_others": True}, id="shards of one run"),
    ],
)
def test_processes_keep_a_rate_together(
    ledger_url: str,
    slow_vendor: Vendor,
    workers: Workers,
    make_order: MakeOrder,
    limits: Mapping[str, object],
) -> None:
    """The requests of two processes, POSTs and GETs, stay below the account's or the run's rate."""
    values = {"ledger_url": ledger_url, "calls": 10, "account_max_in_flight": None, **limits}
    orders = orders_of(2, make_order, slow_vendor, values)
    started = time.monotonic()

    assert workers.run(*orders) == [0, 0]

    stats = slow_vendor.stats
    rate = (stats.posts_received + stats.status_requests) / (time.monotonic() - started)
    assert rate <= 25
    assert stats.posts_accepted == 20


@pytest.fixture
def lease() -> Callable[[], Lease]:
    """Return leases, each of a process of its own, in alphabetical order."""
    names = cycle("abcdefgh")
    return lambda: Lease(Owner(f"{next(names)}/1/x"), 30)


def shared(ledger: Ledger, lease: Lease, demand: Demand, **limits: float) -> Share:
    """Renew a share of one account."""
    account = AccountLimits(
        account="https://api.example",
        max_in_flight=int(limits["places"]) if "places" in limits else None,
        requests_per_second=limits.get("rate"),
    )
    with ledger.engine.begin() as connection:
        return record_share(connection, account, demand, lease=lease)


def test_shares_never_add_up_to_more_than_the_limit(
    ledger: Ledger, lease: Callable[[], Lease]
) -> None:
    """A second process gets a place only when the first has one less; then both have a half."""
    first, second = lease(), lease()

    assert shared(ledger, first, Demand(0, 10), places=10).places == 10
    assert shared(ledger, second, Demand(0, 10), places=10).places == 0
    # Its jobs go on, and it starts none until five of them have ended.
    assert shared(ledger, first, Demand(10, 10), places=10).places == 5
    assert shared(ledger, second, Demand(0, 10), places=10).places == 0
    assert shared(ledger, first, Demand(5, 10), places=10).places == 5
    assert shared(ledger, second, Demand(0, 10), places=10).places == 5


def account_share(ledger: Ledger, lease: Lease, *, renewal_seconds: float = 1.0) -> AccountShare:
    """Return what keeps the share of one run at an account of four places."""
    return AccountShare(
        limits=AccountLimits(
            account="https://api.example", max_in_flight=4, requests_per_second=None
        ),
        ledger=ledger,
        lease=lease,
        places=Places(4),
        pace=RequestPace(0.0),
        state=RunState(max_failure_ratio=0.5),
        renewal_seconds=renewal_seconds,
    )


@pytest.mark.parametrize(("renewal_seconds", "at_most"), [(1.0, 1.8), (0.25, 0.9)])
def test_who_comes_later_soon_has_a_place(
    ledger: Ledger, lease: Callable[[], Lease], renewal_seconds: float, at_most: float
) -> None:
    """A run that has all places gives some back at its next look, and the newcomer looks often."""

    async def seconds_until_the_second_has_one() -> float:
        async with asyncio.TaskGroup() as tasks:
            keepers = []
            for _ in range(2):
                share = account_share(ledger, lease(), renewal_seconds=renewal_seconds)
                keepers.append(tasks.create_task(share.keep()))
                began = time.monotonic()
                await share.places.take(waiting=9)
            for keeper in keepers:
                keeper.cancel()
        return time.monotonic() - began

    assert asyncio.run(seconds_until_the_second_has_one()) < at_most


def test_a_ledger_without_shares_stops_the_run(
    ledger: Ledger, lease: Callable[[], Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for no place that nobody can give: it stops, and ends what is paid."""
    monkeypatch.setattr(places_module, "PATIENCE_SECONDS", 0.1)
    share = account_share(ledger, lease())
    with ledger.engine.begin() as connection:
        shares.drop(connection)

    async def take_one() -> None:
        keeper = asyncio.create_task(share.keep())
        await asyncio.wait_for(share.places.take(waiting=1), 5)
        await keeper

    asyncio.run(take_one())

    assert "ledger_shares" in str(share.state.stopper)


@pytest.mark.slow
def test_who_waits_longer_asks_less_often(ledger: Ledger, lease: Callable[[], Lease]) -> None:
    """A run for which nothing is free looks often at first, and then once a second."""
    shared(ledger, lease(), Demand(4, 4), places=4)
    looks: list[float] = []
    sa.event.listen(ledger.engine, "commit", lambda _: looks.append(time.monotonic()))

    async def wait_in_vain() -> None:
        share = account_share(ledger, lease())
        keeper = asyncio.create_task(share.keep())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(share.places.take(waiting=9), 7)
        keeper.cancel()

    began = time.monotonic()
    asyncio.run(wait_in_vain())

    assert sum(at < began + 1 for at in looks) >= 3
    assert sum(at >= began + 4 for at in looks) <= 4


def test_what_one_does_not_want_is_anothers(ledger: Ledger, lease: Callable[[], Lease]) -> None:
    """A process that needs two of ten places leaves eight."""
    little, much = lease(), lease()

    assert shared(ledger, little, Demand(0, 2), places=10).places == 2
    assert shared(ledger, much, Demand(0, 20), places=10).places == 8


def test_a_share_ends_with_its_lease_or_its_run(ledger: Ledger, lease: Callable[[], Lease]) -> None:
    """A process that is gone holds nothing: at once where it ended well, else after its lease."""
    ended, killed, waits = lease(), Lease(lease().owner, -1), lease()
    shared(ledger, ended, Demand(0, 10), places=10)
    with ledger.engine.begin() as connection:
        record_release(connection, ended.owner)
    shared(ledger, killed, Demand(0, 10), places=10)

    assert shared(ledger, waits, Demand(0, 10), places=10).places == 10


def test_rates_never_add_up_to_more_than_the_limit(
    ledger: Ledger, lease: Callable[[], Lease]
) -> None:
    """The rate follows the places that each process can use, and is never given twice."""
    first, second = lease(), lease()

    assert shared(ledger, first, Demand(0, 6), rate=8.0).requests_per_second == 8
    assert shared(ledger, second, Demand(0, 2), rate=8.0).requests_per_second == 0
    assert shared(ledger, first, Demand(6, 6), rate=8.0).requests_per_second == 6
    assert shared(ledger, second, Demand(0, 2), rate=8.0).requests_per_second == 2
