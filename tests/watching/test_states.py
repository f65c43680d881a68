"""Which prompt sets want a run, on SQLite and on PostgreSQL."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, event, insert

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import set_contents
from imagepipeline_dagster.tables.fingerprints import SetFingerprint, fingerprint_used
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.states import PromptSetState, PromptSetStates
from tests.states import states_in

FIRST = SetFingerprint("spring", 3, "rows-1", "embeddings-1")
EDITED = SetFingerprint("spring", 3, "rows-2", "embeddings-1")
RETRAINED = SetFingerprint("spring", 3, "rows-1", "embeddings-2")


@pytest.fixture
def states(ledger: Ledger) -> PromptSetStates:
    """The states of one dataset."""
    return PromptSetStates(ledger, dataset="images")


def state_of(ledger: Ledger) -> PromptSetState:
    """Return the state of the one set."""
    return states_in(ledger, dataset="images")["spring"]


def now_saying(ledger: Ledger, *desired: SetFingerprint) -> None:
    """Keep that the tables of the dataset say just this."""
    now = dt.datetime.now(dt.UTC)
    with ledger.engine.begin() as connection:
        connection.execute(delete(set_contents))
        for number, each in enumerate(desired):
            values = {
                "dataset": "images",
                "prompt_set": each.prompt_set,
                "rows": each.rows,
                "checksum": "",
                "prompts": each.prompts,
                "embeddings": each.embeddings,
                "content": each.content,
                "embedding_ids": [],
                "changed_at": now + dt.timedelta(seconds=number),
            }
            connection.execute(insert(set_contents).values(values))


def wanting(states: PromptSetStates) -> tuple[list[str], list[str]]:
    """Return the sets that want a run for their prompts, and for their embeddings."""
    return (
        [each.prompt_set for each in states.wanting_for_prompts()],
        [each.prompt_set for each in states.wanting_for_embeddings()],
    )


def test_a_change_is_asked_for_once(states: PromptSetStates, ledger: Ledger) -> None:
    """A new set, an edit and a new embedding each want one run, numbered from 1."""
    assert states_in(ledger, dataset="images") == {}
    now_saying(ledger, FIRST)
    assert wanting(states) == (["spring"], [])
    assert states.ask(FIRST) == 1
    assert states.ask(FIRST) is None
    assert wanting(states) == ([], [])
    now_saying(ledger, EDITED)
    assert wanting(states) == (["spring"], [])
    now_saying(ledger, RETRAINED)
    assert wanting(states) == ([], ["spring"])
    assert states.ask(EDITED) == 2
    assert states.ask(EDITED, again=True) == 3


def test_the_longest_wait_comes_first(states: PromptSetStates, ledger: Ledger) -> None:
    """Sets are asked for in the order in which they changed, whatever they are called."""
    names = ["winter", "spring", "autumn"]
    now_saying(ledger, *(SetFingerprint(name, 1, "p", "e") for name in names))

    assert [each.prompt_set for each in states.wanting_for_prompts()] == names
    first = states.ask_for(states.wanting_for_prompts(), tick="one", at_most=2)
    assert [run.prompt_set for run in first] == ["winter", "spring"]
    second = states.ask_for(states.wanting_for_prompts(), tick="two", at_most=2)
    assert [run.prompt_set for run in second] == ["autumn"]


def test_a_repeated_tick_gives_the_same_answer(states: PromptSetStates, ledger: Ledger) -> None:
    """A tick whose answer was lost asks for the same runs; the next one asks for nothing."""
    now_saying(ledger, FIRST)
    first = states.ask_for(states.wanting_for_prompts(), tick="one", at_most=5)

    assert states.ask_for(states.wanting_for_prompts(), tick="one", at_most=5) == first
    assert [run.attempt for run in first] == [1]
    assert states.ask_for(states.wanting_for_prompts(), tick="two", at_most=5) == []
    states.record_built("spring", content=FIRST.content, pending=0)
    assert states.ask_for([], tick="one", at_most=5) == []


def test_what_rows_say_is_reported_once(ledger: Ledger) -> None:
    """New rows are unreported until a tick tells; the same tick, repeated, tells them again."""
    now_saying(ledger, FIRST)
    contents = SetContents(ledger, dataset="images")
    assert [content.prompts for content in contents.unreported("one")] == ["rows-1"]
    contents.record_reported(contents.unreported("one"), tick="one")
    assert [content.prompts for content in contents.unreported("one")] == ["rows-1"]
    assert contents.unreported("two") == []


def test_one_of_many_processes_asks(states: PromptSetStates) -> None:
    """Two sensors that see the same change at once ask for one run."""
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: states.ask(FIRST), range(8)))
    assert sorted(number for number in numbers if number is not None) == [1]


def test_what_is_built_wants_nothing(states: PromptSetStates, ledger: Ledger) -> None:
    """A set that was built by hand, without any sensor, is not built again."""
    states.record_built("spring", content=FIRST.content, pending=0)
    now_saying(ledger, FIRST)
    assert states.not_whole() == []
    assert wanting(states) == ([], [])
    now_saying(ledger, EDITED)
    assert wanting(states)[0] == ["spring"]


def test_a_change_that_is_taken_back_and_made_again_is_seen(
    states: PromptSetStates, ledger: Ledger
) -> None:
    """Once what is built is desired again, nothing counts as asked for."""
    states.ask(FIRST)
    states.record_built("spring", content=FIRST.content, pending=0)
    states.ask(EDITED)
    now_saying(ledger, FIRST)
    assert wanting(states) == ([], [])

    states.settle()

    now_saying(ledger, EDITED)
    assert wanting(states)[0] == ["spring"]
    assert states.ask(EDITED) == 3


def test_a_run_that_comes_too_late_is_made_up_for(states: PromptSetStates, ledger: Ledger) -> None:
    """A run for a change that was taken back meanwhile leaves its set wanting what it was."""
    states.ask(FIRST)
    states.record_built("spring", content=FIRST.content, pending=0)
    states.ask(EDITED)
    now_saying(ledger, FIRST)
    states.settle()

    states.record_built("spring", content=EDITED.content, pending=0)

    assert wanting(states)[0] == ["spring"]


def test_an_incomplete_set_is_asked_for_again_with_growing_pauses(
    states: PromptSetStates, ledger: Ledger
) -> None:
    """Half an hour, an hour, two … and a day at most, from the last time it was asked for."""
    states.ask(FIRST)
    pauses = []
    for _ in range(9):
        state = state_of(ledger)
        assert state.requested_at is not None
        assert state.retry_at is not None
        pauses.append((state.retry_at - state.requested_at) / dt.timedelta(hours=1))
        states.ask(FIRST, again=True)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 24, 24, 24]

    states.ask(EDITED)
    assert state_of(ledger).retries == 0


def test_a_set_with_open_samples_is_due_and_a_whole_one_is_not(
    states: PromptSetStates, ledger: Ledger
) -> None:
    """Built from the right content is not enough while samples are pending."""
    now_saying(ledger, FIRST)
    states.ask(FIRST)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    states.record_built("spring", content=FIRST.content, pending=2)
    assert states.overdue(now=later) == ["spring"]
    states.record_built("spring", content=FIRST.content, pending=0)
    assert states.overdue(now=later) == []
    now_saying(ledger, EDITED)
    assert states.overdue(now=later) == ["spring"]


def test_pauses_start_anew_once_a_set_was_whole(states: PromptSetStates, ledger: Ledger) -> None:
    """Runs that were asked for again are counted until a set is built whole, and no longer."""
    states.ask(FIRST)
    states.ask(FIRST, again=True)
    states.record_built("spring", content=FIRST.content, pending=1)
    assert state_of(ledger).retries == 1
    states.record_built("spring", content=FIRST.content, pending=0)
    assert state_of(ledger).retries == 0


def test_a_set_that_left_and_comes_back_is_new(states: PromptSetStates, ledger: Ledger) -> None:
    """What is known of a vanished set goes with it, for its dataset alone."""
    other = PromptSetStates(ledger, dataset="other")
    states.ask(FIRST)
    other.ask(FIRST)
    states.forget(["spring", "never known"])
    assert states_in(ledger, dataset="images") == {}
    assert states.ask(FIRST) == 1
    assert other.ask(FIRST) is None


def test_many_sets_are_few_statements(states: PromptSetStates, ledger: Ledger) -> None:
    """What becomes of a thousand sets at once is sent at once, wherever the ledger is."""
    many = [SetFingerprint(f"set {number}", 1, "rows", "none") for number in range(1000)]
    now_saying(ledger, *many)
    states.record_built("set 7", content=many[7].content, pending=0)
    contents = SetContents(ledger, dataset="images")
    statements = []

    def note(*arguments: object) -> None:
        statements.append(arguments[2])

    event.listen(ledger.engine, "before_cursor_execute", note)
    contents.record_reported(many, tick="one")
    states.forget(each.prompt_set for each in many)
    contents.use_embeddings({})
    event.remove(ledger.engine, "before_cursor_execute", note)

    assert len(statements) < 20
    assert states_in(ledger, dataset="images") == {}
    assert len(contents.unreported("two")) == 1000
    assert {each.embeddings for each in states.wanting_for_prompts()} == {fingerprint_used([], {})}


def test_what_is_overdue_waited_long_enough(states: PromptSetStates, ledger: Ledger) -> None:
    """A set that is not built whole is overdue after its pause, and asked for under one tick."""
    now_saying(ledger, FIRST)
    states.ask(FIRST)
    now = dt.datetime.now(dt.UTC)
    later = now + dt.timedelta(hours=1)
    assert states.overdue(now=now) == []
    overdue = states.overdue(now=later)
    assert overdue == ["spring"]

    (run,) = states.ask_again(overdue, now=later, tick="hour", at_most=5)

    assert (run.content, run.attempt) == (FIRST.content, 2)
    states.record_built("spring", content=FIRST.content, pending=0)
    assert states.overdue(now=later + dt.timedelta(days=2)) == []
