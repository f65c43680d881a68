"""Which prompt sets want a run, on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagepipeline_dagster.generation.ledger import Ledger
from imagepipeline_dagster.generation.reconciling import (
    PromptSetState,
    PromptSetStates,
    is_built,
    retry_due,
)
from imagepipeline_dagster.tables.fingerprints import SetFingerprint

FIRST = SetFingerprint("spring", 3, "rows-1", "embeddings-1")
EDITED = SetFingerprint("spring", 3, "rows-2", "embeddings-1")
RETRAINED = SetFingerprint("spring", 3, "rows-1", "embeddings-2")


@pytest.fixture
def states(ledger: Ledger) -> PromptSetStates:
    """The states of one dataset."""
    return PromptSetStates(ledger, dataset="images")


def state_of(states: PromptSetStates) -> PromptSetState:
    """Return the state of the one set."""
    return states.all()["spring"]


def test_a_change_is_asked_for_once(states: PromptSetStates) -> None:
    """A new set, an edit and a new embedding each want one run, numbered from 1."""
    assert states.all() == {}
    assert wants_run_for_prompts(FIRST, None)
    assert not wants_run_for_embeddings(FIRST, None)
    assert states.ask(FIRST) == 1
    assert states.ask(FIRST) is None
    assert not wants_run_for_prompts(FIRST, state_of(states))
    assert wants_run_for_prompts(EDITED, state_of(states))
    assert wants_run_for_embeddings(RETRAINED, state_of(states))
    assert not wants_run_for_prompts(RETRAINED, state_of(states))
    assert states.ask(EDITED) == 2
    assert states.ask(EDITED, again=True) == 3


def test_one_of_many_processes_asks(states: PromptSetStates) -> None:
    """Two sensors that see the same change at once ask for one run."""
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: states.ask(FIRST), range(8)))
    assert sorted(number for number in numbers if number is not None) == [1]


def test_what_is_built_wants_nothing(states: PromptSetStates) -> None:
    """A set that was built by hand, without any sensor, is not built again."""
    states.note_built("spring", content=FIRST.content, pending=0)
    assert is_built(FIRST, state_of(states))
    assert not wants_run_for_prompts(FIRST, state_of(states))
    assert not wants_run_for_embeddings(FIRST, state_of(states))
    assert wants_run_for_prompts(EDITED, state_of(states))


def test_a_change_that_is_taken_back_and_made_again_is_seen(states: PromptSetStates) -> None:
    """What is built counts as asked for, so that a later change differs from it."""
    states.ask(FIRST)
    states.note_built("spring", content=FIRST.content, pending=0)
    states.ask(EDITED)
    assert not wants_run_for_prompts(FIRST, state_of(states))

    states.settle([FIRST], states.all())

    assert wants_run_for_prompts(EDITED, state_of(states))
    assert states.ask(EDITED) == 3


def test_an_incomplete_set_is_asked_for_again_with_growing_pauses(states: PromptSetStates) -> None:
    """Half an hour, an hour, two … and a day at most, from the last time it was asked for."""
    states.ask(FIRST)
    pauses = []
    for _ in range(9):
        state = state_of(states)
        assert state.requested_at is not None
        hours = [
            step / 2
            for step in range(1, 60)
            if retry_due(FIRST, state, now=state.requested_at + dt.timedelta(hours=step / 2))
        ]
        pauses.append(hours[0])
        states.ask(FIRST, again=True)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 24, 24, 24]

    states.ask(EDITED)
    assert state_of(states).retries == 0


def test_a_set_with_open_samples_is_due_and_a_whole_one_is_not(states: PromptSetStates) -> None:
    """Built from the right content is not enough while samples are pending."""
    states.ask(FIRST)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    states.note_built("spring", content=FIRST.content, pending=2)
    assert retry_due(FIRST, state_of(states), now=later)
    states.note_built("spring", content=FIRST.content, pending=0)
    assert not retry_due(FIRST, state_of(states), now=later)
    assert retry_due(EDITED, state_of(states), now=later)


def test_a_set_that_left_and_comes_back_is_new(states: PromptSetStates, ledger: Ledger) -> None:
    """What is known of a vanished set goes with it, for its dataset alone."""
    other = PromptSetStates(ledger, dataset="other")
    states.ask(FIRST)
    other.ask(FIRST)
    states.forget(["spring", "never known"])
    assert states.all() == {}
    assert states.ask(FIRST) == 1
    assert other.ask(FIRST) is None
