"""Ticks as functions of the tables, the ledger, the partitions, the cursor and the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.partitions import TooManyGone
from imagepipeline_dagster.watching.ticks import (
    PromptsTick,
    WatchedDataset,
    ask_again,
    batch_sizes,
    watch_embeddings,
    watch_prompts,
)
from tests.watching.watched import Watched

OPTIONS = Watching(
    audit_seconds=100,
    verify_seconds=1000,
    small_table_rows=0,
    max_runs_per_tick=2,
    sets_per_run=3,
)


class Daemon(Watched):
    """Who ticks: it keeps the cursors, the partitions and the time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.partitions: set[str] = set()
        self.in_use: set[str] = set()
        self.cursor: str | None = None
        self.last: PromptsTick | None = None
        self.opened = 0
        self.watched = WatchedDataset(
            name="images",
            tables=self.tables,
            open_ledger=self._open_ledger,
            partitions=lambda: self.partitions,
            partitions_in_use=lambda: self.in_use,
            options=OPTIONS,
            clock=lambda: self.now,
        )

    def _open_ledger(self) -> nullcontext[Ledger]:
        self.opened += 1
        return nullcontext(self.ledger)

    def rests(self, *, after: float) -> bool:
        """Tick, do what it asks of the partitions, and tell whether it found nothing to do."""
        self.now += after
        self.last = watch_prompts(self.watched, self.cursor)
        if self.last is not None:
            self.cursor = self.last.cursor
            self.partitions = (self.partitions | set(self.last.added)) - set(self.last.removed)
        return self.last is None

    def tick(self, *, after: float = 0) -> PromptsTick:
        """Tick, and return what there was to do."""
        self.rests(after=after)
        assert self.last is not None
        return self.last


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on empty tables."""
    opened = Daemon(tmp_path)
    yield opened
    opened.close()


def asked(tick: PromptsTick) -> list[str]:
    """Return the sets whose runs a tick asks for."""
    return [run.prompt_set for runs in tick.runs for run in runs]


def test_a_tick_asks_for_so_many_runs_and_the_next_for_the_rest(daemon: Daemon) -> None:
    """New sets get partitions at once, and runs as many as a tick may ask for."""
    daemon.add("a", "b", "c")

    first = daemon.tick()

    assert (first.added, first.removed, first.rows) == (["a", "b", "c"], [], 3)
    assert [asked(first), asked(daemon.tick(after=1)), asked(daemon.tick(after=1))] == [
        ["a", "b"],
        ["c"],
        [],
    ]


def test_a_tick_opens_the_prompts_table_once(daemon: Daemon) -> None:
    """Counting, comparing and listing every set is one connection, where no row has to be read."""
    daemon.add("a", "b", "c")
    daemon.tick()
    connections = []
    sa.event.listen(daemon.tables._engine, "checkout", lambda *_: connections.append(1))

    daemon.tick(after=1001)

    assert len(connections) == 1


def test_a_trouble_of_the_ledger_is_not_the_tables(daemon: Daemon) -> None:
    """What goes wrong in the ledger during a tick is not told as an error of the user's tables."""
    daemon.add("a")
    with daemon.ledger.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ledger_set_contents")

    with pytest.raises(sa.exc.OperationalError, match="ledger_set_contents"):
        daemon.tick()


def test_a_partition_in_use_goes_at_a_later_tick(daemon: Daemon) -> None:
    """A set that left the table keeps its partition while a run or a backfill names it."""
    daemon.add("a", "b")
    daemon.tick()
    daemon.sql("DELETE FROM prompts WHERE prompt_set = 'a'")
    daemon.in_use = {"a", "b"}

    waiting = daemon.tick(after=101)
    daemon.in_use = set()
    gone = daemon.tick(after=101)

    assert (waiting.removed, waiting.in_use, waiting.runs) == ([], ["a"], [])
    assert (gone.removed, gone.in_use) == (["a"], [])


def test_a_table_that_lost_most_sets_stops_the_tick(daemon: Daemon) -> None:
    """Nothing is forgotten by a tick that refuses to remove so much."""
    daemon.add("a", "b", "c", "d")
    daemon.tick()
    daemon.sql("DELETE FROM prompts")

    with pytest.raises(TooManyGone):
        daemon.tick(after=101)

    assert daemon.partitions == {"a", "b", "c", "d"}


def test_a_tick_without_a_change_opens_no_ledger(daemon: Daemon) -> None:
    """Once everything was looked at, a tick asks the table one thing, and nobody else."""
    daemon.add("a")
    daemon.tick()
    while not daemon.rests(after=3):
        pass
    before = daemon.opened

    assert daemon.rests(after=1)
    assert daemon.opened == before


def test_an_embedding_s_change_asks_for_the_sets_that_use_it(daemon: Daemon) -> None:
    """A set that does not name the embedding is left alone."""
    daemon.sql("INSERT INTO embeddings (embedding_id, version) VALUES ('boat', '1')")
    daemon.add("a", embedding="boat")
    daemon.add("b")
    daemon.tick()
    before = watch_embeddings(daemon.watched, None)
    daemon.sql("UPDATE embeddings SET version = '2'")
    daemon.sql("INSERT INTO embeddings (embedding_id, version) VALUES ('unused', '1')")

    after = watch_embeddings(daemon.watched, before.cursor if before else None)

    assert before is not None
    assert after is not None
    assert [run.prompt_set for [run] in after.runs] == ["a"]
    assert after.version != before.version
    assert watch_embeddings(daemon.watched, after.cursor) is None


def test_what_came_to_nothing_is_asked_for_again_once_nobody_is_at_it(daemon: Daemon) -> None:
    """After the pause, by the tick's clock, and not while a run names it; some at each tick."""
    daemon.add("a", "b", "c", "d")
    daemon.tick()
    daemon.tick(after=1)
    daemon.now = time.time()

    assert ask_again(daemon.watched, tick="one") == []
    daemon.now += 31 * 60
    daemon.in_use = {"a"}
    assert [run.prompt_set for run in ask_again(daemon.watched, tick="two")] == ["b", "c"]
    assert [run.prompt_set for run in ask_again(daemon.watched, tick="three")] == ["d"]


def test_a_large_backlog_is_put_together_into_runs(daemon: Daemon) -> None:
    """Where more sets wait than four ticks ask runs for, a run makes several; then each its own."""
    daemon.add(*"abcdefghi")

    first, second, third = daemon.tick(), daemon.tick(after=1), daemon.tick(after=1)

    assert [[run.prompt_set for run in runs] for runs in first.runs] == [list("abc"), list("def")]
    assert [[run.prompt_set for run in runs] for runs in second.runs] == [["g"], ["h"]]
    assert asked(third) == ["i"]


def test_sets_whose_pauses_a_person_ends_are_put_together_into_runs(daemon: Daemon) -> None:
    """After an outage a person hands all sets that failed to the sensors, which batch them."""
    names = list("abcdefghi")
    daemon.add(*names)
    while not daemon.rests(after=1):
        pass
    daemon.watched.states(daemon.ledger).end_pauses(names)

    tick = daemon.tick(after=101)

    assert [[run.prompt_set for run in runs] for runs in tick.runs] == [list("abc"), list("def")]


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([10] * 7, [3, 3]),
        ([1500, 400, 400, 400], [2, 2]),
        ([5000, 5000, 5000], [1, 1]),
        ([], []),
    ],
)
def test_batches_are_planned_by_size(rows: list[int], sizes: list[int]) -> None:
    """A run has few large sets or many small ones, and a tick so many runs at most."""
    assert batch_sizes(rows, OPTIONS) == sizes


def test_a_time_that_hides_others_is_told_at_each_audit(daemon: Daemon) -> None:
    """A row dated ahead hides newer rows from the ticks: each audit names it until it is mended."""
    daemon.add("a", "b")
    daemon.sql("UPDATE prompts SET updated_at = '2099-01-01 00:00:00' WHERE prompt_set = 'b'")
    first = daemon.tick()
    assert daemon.rests(after=5) or daemon.last is None or daemon.last.misleading is None
    audit = daemon.tick(after=100)
    assert first.misleading == audit.misleading
    assert "updated_at of 'b' / '1' is '2099-01-01 00:00:00', in the future" in str(
        audit.misleading
    )
    daemon.sql("UPDATE prompts SET updated_at = '2026-05-01 12:00:00' WHERE prompt_set = 'b'")
    assert daemon.tick(after=100).misleading is None
