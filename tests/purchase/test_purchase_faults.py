"""Every fault of the emulator, alone and mixed, and what the purchase makes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import stamina
from sqlalchemy.engine.default import DefaultDialect

from imagepipeline_dagster.emulator import EmulatorServer, Fault, FaultKind, Operation, faults
from imagepipeline_dagster.ledger.budget import Allowance, Budget, Period
from imagepipeline_dagster.ledger.records import MAX_JOBS_PER_REQUEST
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.purchase.means import PurchaseSettings
from tests.buying import (
    Bought,
    Buyer,
    assert_bytes_are_the_vendors,
    assert_each_sample_has_one_outcome,
    assert_nothing_bought_twice,
    numbered_rows,
    prompts_of,
    times_accepted,
)
from tests.conftest import StartEmulator

# Each is quick; all together they take a while.
pytestmark = pytest.mark.slow

SUBMIT, STATUS, DOWNLOAD = Operation.SUBMIT, Operation.STATUS, Operation.DOWNLOAD

PASSING: dict[str, Fault] = {
    "submit throttled": Fault(kind="rate_limited", times=2, retry_after_seconds=0),
    "submit refused for now": Fault(kind="server_error", times=2, status=503),
    "submit broken": Fault(kind="server_error", times=1, status=500),
    "submit broken after accepting": Fault(
        kind="server_error", times=1, status=502, after_accepting=True
    ),
    "submit refused after accepting": Fault(
        kind="server_error", times=1, status=503, after_accepting=True
    ),
    "submit redirected to the job": Fault(kind="redirect_to_job", times=2),
    "submit in an envelope": Fault(kind="envelope", times=2),
    "no quota for a moment": Fault(kind="out_of_quota", times=1),
    "submit answer dropped": Fault(kind="dropped_answer", times=1),
    "submit answered by a page": Fault(kind="html_page", times=1, after_accepting=True),
    "job fails once": Fault(kind="job_failure", times=1),
    "job refused as unsafe": Fault(kind="job_failure", times=1, message="NSFW content detected"),
    "fewer links": Fault(kind="fewer_links", times=1),
    "no links": Fault(kind="fewer_links", times=1, missing=2),
    "black": Fault(kind="black_image", times=1),
    "status throttled": Fault(
        kind="rate_limited", operation=STATUS, times=3, retry_after_seconds=0
    ),
    "status broken": Fault(kind="server_error", operation=STATUS, times=3, status=500),
    "status dropped": Fault(kind="dropped_answer", operation=STATUS, times=3),
    "status is a page": Fault(kind="html_page", operation=STATUS, times=3),
    "status is a page for a while": Fault(kind="html_page", operation=STATUS, seconds=1.0),
    "status about another job": Fault(kind="other_job", times=3),
    "links not listed at first": Fault(kind="missing_links", times=3),
    "lists empty at first": Fault(kind="empty_links", times=3),
    "links of files at first": Fault(kind="useless_links", times=3),
    "status word unknown": Fault(kind="unknown_status", times=3),
    "download throttled": Fault(
        kind="rate_limited", operation=DOWNLOAD, times=2, retry_after_seconds=0
    ),
    "download broken": Fault(kind="server_error", operation=DOWNLOAD, times=2),
    "download dropped": Fault(kind="dropped_answer", operation=DOWNLOAD, times=2),
    "download is a page": Fault(kind="html_page", operation=DOWNLOAD, times=1),
    "download is a page for a while": Fault(kind="html_page", operation=DOWNLOAD, seconds=1.5),
    "link late for a while": Fault(kind="late_link", seconds=1.5),
    "link expired": Fault(kind="expired_link", times=2),
    "truncated once": Fault(kind="truncated_bytes", times=1),
    "corrupt once": Fault(kind="corrupt_bytes", times=1),
}
ALL_COME = {"generated": 6}
ONE_CALL_IS_LOST = {"generated": 4, "unknown": 2}
OUTCOMES: dict[str, dict[str, int]] = {
    "submit broken": ONE_CALL_IS_LOST,
    "submit broken after accepting": ONE_CALL_IS_LOST,
    "submit refused after accepting": ONE_CALL_IS_LOST,
    "submit answer dropped": ONE_CALL_IS_LOST,
    "submit answered by a page": ONE_CALL_IS_LOST,
    "job refused as unsafe": {"generated": 4, "vendor_filtered": 2},
    "fewer links": {"generated": 5, "vendor_filtered": 1},
    "no links": {"generated": 4, "vendor_filtered": 2},
}

LASTING: dict[str, tuple[Fault, str]] = {
    "job fails for good": (Fault(kind="job_failure"), "failed"),
    "answers never come": (Fault(kind="dropped_answer"), "unknown"),
    "taken and refused": (Fault(kind="server_error", status=503, after_accepting=True), "unknown"),
    "lists are empty": (Fault(kind="empty_links"), "vendor_filtered"),
    "links of files": (Fault(kind="useless_links"), "expired"),
    "links are dead": (Fault(kind="expired_link"), "expired"),
    "always truncated": (Fault(kind="truncated_bytes"), "undecodable"),
    "always corrupt": (Fault(kind="corrupt_bytes"), "undecodable"),
    "always a page": (Fault(kind="html_page", operation=DOWNLOAD), "undecodable"),
    "always black": (Fault(kind="black_image"), "generated"),
}


def three_calls_of_two() -> list[Prompt]:
    """Return three prompts of two samples each, which two-sample calls buy."""
    return prompts_of(numbered_rows(3, samples=2))


def bought_in_pairs(buyer: Buyer) -> Buyer:
    """Return the buyer with two samples a call."""
    return dataclasses.replace(buyer, samples_per_call=2)


def with_links_over(buyer: Buyer) -> Buyer:
    """Return the buyer at an API whose links live no longer than their answer."""
    return dataclasses.replace(
        buyer, settings=dataclasses.replace(buyer.settings, link_lifetime_hours=0)
    )


def buy_until_settled(buyer: Buyer, prompts: list[Prompt], *, runs: int = 6) -> Bought:
    """Buy again and again, as a schedule would, until nothing changes that a run may better."""
    bought = buyer.buy(prompts)
    for _ in range(runs):
        if not any(image.is_open for image in bought.images):
            break
        bought = buyer.buy(prompts)
    return bought


@pytest.mark.parametrize("name", PASSING)
def test_a_passing_fault_leaves_every_sample_with_its_outcome(
    name: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """A fault that passes costs no picture that can be had, and no second purchase."""
    fault = PASSING[name]
    emulator.set_faults(fault)
    buyer, prompts = bought_in_pairs(buyer), three_calls_of_two()

    bought = buy_until_settled(buyer, prompts)

    assert emulator.stats.faults[fault.kind] >= 1
    assert bought.outcomes == OUTCOMES.get(name, ALL_COME)
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage, black_too=name == "black")
    assert_nothing_bought_twice(buyer, bought, emulator.stats)


def test_a_page_for_a_minute_costs_no_picture(
    buyer: Buyer, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A maintenance of a minute outlasts one run's patience, and the next run has the pictures."""
    speed, clock, sleep = 12, time.monotonic, asyncio.sleep
    monkeypatch.setattr(faults, "time", SimpleNamespace(monotonic=lambda: speed * clock()))
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(seconds / speed))
    emulator.set_faults(Fault(kind=FaultKind.HTML_PAGE, operation=DOWNLOAD, seconds=60))
    patience = PurchaseSettings().link_patience_seconds
    buyer, prompts = bought_in_pairs(buyer), three_calls_of_two()

    first = buyer.buy(prompts, link_patience_seconds=patience)
    assert first.outcomes["pending"]
    buyer.buy(prompts, link_patience_seconds=patience)
    last = buyer.buy(prompts, link_patience_seconds=patience)

    assert last.outcomes == {"generated": 6}
    assert_nothing_bought_twice(buyer, last, emulator.stats)


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_ends_in_its_outcome_and_is_not_paid_for_again(
    name: str, buyer: Buyer, emulator: EmulatorServer
) -> None:
    """What cannot be had ends in an outcome that says so, and later runs leave it at that."""
    fault, outcome = LASTING[name]
    emulator.set_faults(fault)
    buyer, prompts = bought_in_pairs(with_links_over(buyer)), three_calls_of_two()

    bought = buy_until_settled(buyer, prompts, runs=2)
    posts = emulator.stats.posts_received
    emulator.set_faults()
    later = buyer.buy(prompts)

    assert bought.outcomes == later.outcomes == {outcome: 6}
    assert emulator.stats.posts_received == posts
    assert_each_sample_has_one_outcome(prompts, later)
    assert_bytes_are_the_vendors(later, buyer.storage, black_too=name == "always black")
    assert_nothing_bought_twice(buyer, later, emulator.stats)


def random_fault(chance: random.Random) -> Fault:
    """Return a fault that strikes now and then, wherever its kind can."""
    anywhere = ("rate_limited", "server_error", "dropped_answer", "html_page")
    place = {kind: chance.choice(list(Operation)) for kind in anywhere}
    kind = chance.choice(list(FaultKind))
    hides_acceptance = kind in (FaultKind.SERVER_ERROR, FaultKind.HTML_PAGE)
    after_accepting = hides_acceptance and chance.random() < 0.5
    return Fault(
        kind=kind,
        operation=place.get(kind),
        times=chance.randint(1, 8),
        probability=chance.choice([0.2, 0.5, 1.0]),
        retry_after_seconds=0,
        status=400 if kind is FaultKind.REFUSED else chance.choice([500, 502, 503, 504]),
        after_accepting=after_accepting,
        missing=chance.randint(1, 3),
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_mixture_of_faults_loses_nothing_and_buys_nothing_twice(
    seed: int, start_emulator: StartEmulator, buyer: Buyer
) -> None:
    """After enough runs every sample has one outcome, whatever went wrong on the way."""
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    faults = tuple(random_fault(chance) for _ in range(chance.randint(2, 6)))
    vendor = start_emulator(faults=faults, seed=seed, answer_at_once=seed % 4 == 3)
    buyer = dataclasses.replace(buyer, base_url=vendor.url, samples_per_call=3)
    prompts = prompts_of(
        [
            *numbered_rows(4, samples=3),
            *(dataclasses.replace(row, prompt_id=f"q{row.prompt_id}") for row in numbered_rows(3)),
        ]
    )

    buy_until_settled(buyer, prompts, runs=4)
    vendor.set_faults()
    bought = buyer.buy(prompts)
    posts = vendor.stats.posts_received
    again = buyer.buy(prompts)

    assert vendor.stats.posts_received == posts
    assert again.outcomes == bought.outcomes
    assert_each_sample_has_one_outcome(prompts, bought)
    assert_bytes_are_the_vendors(bought, buyer.storage, black_too=True)
    assert_nothing_bought_twice(buyer, bought, vendor.stats)
    assert vendor.stats.downloads_with_key == 0
    for key, count in times_accepted(bought.plan, vendor.stats).items():
        assert count <= max(bought.entries[key].attempt, 1) <= MAX_JOBS_PER_REQUEST


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_that_nobody_confirms_is_counted_once(
    buyer: Buyer, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """A database that ends connections makes no budget smaller, be the commit made or not."""
    commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit
    ends = itertools.cycle((True, False))

    def ending(self: DefaultDialect, connection: Any) -> None:  # noqa: ANN401 - the driver's own
        lost = threading.current_thread().name == "ledger-writer" and next(ends)
        if committed or not lost:
            commit(self, connection)
        if lost:
            raise sqlite3.OperationalError("the connection was closed")

    monkeypatch.setattr(DefaultDialect, "do_commit", ending)
    emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, operation=SUBMIT, probability=0.5))
    allowance = Allowance(scope="images", budget=Budget(images=100))
    stamina.set_testing(True, attempts=3)
    try:
        bought = buyer.buy(prompts_of(numbered_rows(12)), allowance=allowance)
    finally:
        stamina.set_testing(False)
        monkeypatch.undo()

    assert bought.outcomes.keys() == {"generated", "pending"}
    with buyer.open_ledger() as ledger:
        spent = allowance.spent(ledger, today=ledger.today())
    assert spent[Period.TOTAL].images == emulator.stats.posts_accepted == bought.report.posts
