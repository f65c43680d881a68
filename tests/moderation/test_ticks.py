"""Which sets a tick asks new verdicts for."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import VerdictStates, basis_of
from imagepipeline_dagster.moderation.ticks import ModeratedDataset, watch_verdicts
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision

POLICY = ModerationPolicy()
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def a_dataset(ledger: Ledger, overrides: Sequence[Override] = ()) -> ModeratedDataset:
    """Return a dataset of the sets `spring` and `autumn`, at noon."""
    return ModeratedDataset(
        name="images",
        policy=POLICY,
        count_overrides=lambda: len(overrides),
        overrides=lambda: overrides,
        open_ledger=lambda: contextlib.nullcontext(ledger),
        partitions=lambda: {"spring", "autumn"},
        max_runs=5,
        clock=NOON.timestamp,
    )


def on_prompt(prompt_set: str) -> Override:
    """Return a person's decision about a prompt of a set."""
    return Override(
        decision=OverrideDecision.REJECT,
        reviewer="ada",
        reason="off brand",
        decided_at=NOON,
        prompt_set=prompt_set,
        prompt_id="teapot",
    )


def build(ledger: Ledger, prompt_set: str, *overrides: Override) -> None:
    """Record that a set was moderated under these overrides."""
    basis = basis_of(POLICY, prompt_set, overrides)
    VerdictStates(ledger, dataset="images").record_built(prompt_set, basis)


def test_a_decision_asks_for_its_set_until_the_set_is_moderated(ledger: Ledger) -> None:
    """A set is asked for once, again after half an hour, and not once its verdicts are made."""
    build(ledger, "spring")
    build(ledger, "autumn")
    decision = on_prompt("spring")
    at_noon = a_dataset(ledger, [decision])
    later = replace(at_noon, clock=(NOON + dt.timedelta(minutes=31)).timestamp)

    first = watch_verdicts(at_noon, None)
    assert first is not None
    assert first.runs == {"spring": basis_of(POLICY, "spring", [decision])}
    again = watch_verdicts(at_noon, first.cursor)
    assert again is not None
    assert again.runs == {}
    overdue = watch_verdicts(later, again.cursor)
    assert overdue is not None
    assert list(overdue.runs) == ["spring"]

    build(ledger, "spring", decision)
    settled = watch_verdicts(later, overdue.cursor)
    assert settled is not None
    assert settled.runs == {}
    assert watch_verdicts(later, settled.cursor) is None


def test_a_tick_asks_for_as_many_sets_as_it_may(ledger: Ledger) -> None:
    """What one tick has no room for is asked for by the next; a set without verdicts never is."""
    dataset = replace(a_dataset(ledger, [on_prompt("spring"), on_prompt("autumn")]), max_runs=1)
    unmoderated = watch_verdicts(dataset, None)
    assert unmoderated is not None
    assert unmoderated.runs == {}
    build(ledger, "spring")
    build(ledger, "autumn")

    first = watch_verdicts(dataset, None)
    assert first is not None
    second = watch_verdicts(dataset, first.cursor)
    assert second is not None

    assert [*first.runs, *second.runs] == ["autumn", "spring"]
