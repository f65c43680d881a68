"""Which sets a tick asks new verdicts for."""

from __future__ import annotations

import datetime as dt

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import VerdictStates, basis_of
from imagepipeline_dagster.moderation.ticks import VerdictsTick, watch_verdicts
from imagepipeline_dagster.tables.overrides import Override
from tests.moderation.judging import NOON, decided

POLICY = ModerationPolicy()


def tick(
    ledger: Ledger, *overrides: Override, now: dt.datetime = NOON, max_runs: int = 5
) -> VerdictsTick:
    """Look once at a dataset of the sets `spring` and `autumn`."""
    return watch_verdicts(
        ledger,
        POLICY,
        overrides,
        dataset="images",
        present={"spring", "autumn"},
        max_runs=max_runs,
        now=now,
    )


def on_prompt(prompt_set: str) -> Override:
    """Return a person's decision about a prompt of a set."""
    return decided("reject", prompt_set=prompt_set, prompt_id="teapot")


def build(ledger: Ledger, prompt_set: str, *overrides: Override) -> None:
    """Record that a set was moderated under these overrides."""
    basis = basis_of(POLICY, prompt_set, overrides)
    VerdictStates(ledger, dataset="images").record_built(prompt_set, basis)


def test_a_decision_asks_for_its_set_until_the_set_is_moderated(ledger: Ledger) -> None:
    """A set is asked for once, again after half an hour, and not once its verdicts are made."""
    build(ledger, "spring")
    build(ledger, "autumn")
    decision = on_prompt("spring")
    later = NOON + dt.timedelta(minutes=31)

    assert tick(ledger, decision).runs == {"spring": basis_of(POLICY, "spring", [decision])}
    again = tick(ledger, decision)
    assert (again.runs, again.settled) == ({}, False)
    assert list(tick(ledger, decision, now=later).runs) == ["spring"]

    build(ledger, "spring", decision)
    settled = tick(ledger, decision, now=later)
    assert (settled.runs, settled.settled) == ({}, True)


def test_a_tick_asks_for_as_many_sets_as_it_may(ledger: Ledger) -> None:
    """What one tick has no room for is asked for by the next; a set without verdicts never is."""
    decisions = on_prompt("spring"), on_prompt("autumn")
    assert tick(ledger, *decisions).runs == {}
    build(ledger, "spring")
    build(ledger, "autumn")

    first, second = (tick(ledger, *decisions, max_runs=1) for _ in range(2))

    assert [*first.runs, *second.runs] == ["autumn", "spring"]
