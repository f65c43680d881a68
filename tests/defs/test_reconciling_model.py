"""Whatever happens to tables, sensors and runs: after quiet, what is built is desired."""

from __future__ import annotations

import datetime as dt
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import dagster as dg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.tables.fingerprints import SetFingerprint, fingerprint_sets
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.states import PromptSetStates
from tests.pipeline import SENSORS, Pipeline, open_pipeline
from tests.states import states_in

SETS = st.sampled_from(["a", "b/c", "%2E", ""])
IDS = st.sampled_from(["1", "2"])
TEXTS = st.sampled_from(["a boat", "a raft"])
LOOKS = st.sampled_from([None, "look", "unknown"])


class Hasty(Watching):
    """Verifies a slice a tick, and takes two sets for many."""

    few_sets: ClassVar[int] = 1
    slice_rows: ClassVar[int] = 1
    tick_seconds: ClassVar[float] = 0


class Catalogue(RuleBasedStateMachine):
    """The tables, somebody who edits them, and a daemon that does not do everything right."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        folder = Path(tempfile.mkdtemp(prefix="imagepipeline-model-"))
        self.closing.callback(shutil.rmtree, folder)
        # Intervals of a clock that the test moves.
        watching = Hasty(
            audit_seconds=100,
            verify_seconds=1000,
            small_table_rows=0,
            max_runs_per_tick=2,
            max_removed_share=1.0,
        )
        dataset = ImageDataset(watching=watching)
        self.pipeline: Pipeline = self.closing.enter_context(open_pipeline(folder, dataset=dataset))
        self.now = 1_800_000_000.0
        clock = SimpleNamespace(time=lambda: self.now)
        self.closing.enter_context(mock.patch("imagepipeline_dagster.defs.sensors.time", clock))
        self.ledger = Ledger(self.pipeline.ledger_url)
        self.closing.callback(self.ledger.close)
        self.states = PromptSetStates(self.ledger, dataset=dataset.name)
        self.desired: dict[str, SetFingerprint] = {}
        self.run_keys: set[str] = set()
        self.queue: list[str] = []
        self.changes: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def teardown(self) -> None:
        """Compare at the end of each history."""
        try:
            self.settle()
        finally:
            self.closing.close()

    @initialize()
    def begin(self) -> None:
        """The catalogue has a set and an embedding that people know."""
        self.execute("INSERT INTO embeddings (embedding_id, version) VALUES ('look', '1')")
        self.insert("a", "1", "a boat", "look", lag=0)

    # Somebody edits the tables

    @rule(name=SETS, row=IDS, text=TEXTS, look=LOOKS, lag=st.sampled_from([0, 0, 0, 50]))
    def insert(self, name: str, row: str, text: str, look: str | None, *, lag: float) -> None:
        """A row comes, or is replaced; it may be committed late."""
        self.execute(
            "INSERT OR REPLACE INTO prompts (prompt_set, prompt_id, prompt, embeddings, updated_at)"
            " VALUES (?, ?, ?, ?, ?)",
            *(name, row, text, look, self.time(lag)),
        )

    @rule(name=SETS, text=TEXTS, stamped=st.booleans())
    def edit(self, name: str, text: str, *, stamped: bool) -> None:
        """A set's rows get another text, by somebody who minds `updated_at` or does not."""
        if stamped:
            self.execute(
                "UPDATE prompts SET prompt = ?, updated_at = ? WHERE prompt_set = ?",
                *(text, self.time(), name),
            )
        else:
            self.execute("UPDATE prompts SET prompt = ? WHERE prompt_set = ?", text, name)

    @rule(name=SETS)
    def touch(self, name: str) -> None:
        """Rows are saved again as they are."""
        self.execute("UPDATE prompts SET updated_at = ? WHERE prompt_set = ?", self.time(), name)

    @rule(name=SETS, row=IDS)
    def delete(self, name: str, row: str) -> None:
        """A row goes, and with the last one its set."""
        self.execute("DELETE FROM prompts WHERE prompt_set = ? AND prompt_id = ?", name, row)

    @rule(before=SETS, after=SETS)
    def rename(self, before: str, after: str) -> None:
        """A set is called otherwise, or falls in with another."""
        self.execute(
            "UPDATE OR IGNORE prompts SET prompt_set = ? WHERE prompt_set = ?", after, before
        )

    @rule(look=st.sampled_from(["look", "unknown"]), version=st.sampled_from(["1", "2"]))
    def train(self, look: str, version: str) -> None:
        """An embedding is trained again, or becomes known."""
        self.execute(
            "INSERT OR REPLACE INTO embeddings (embedding_id, version) VALUES (?, ?)", look, version
        )

    # The daemon

    @rule(seconds=st.sampled_from([0.5, 3, 30, 150, 1100]))
    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.now += seconds

    @rule(sensor=st.sampled_from(SENSORS))
    def tick(self, sensor: str) -> None:
        """A sensor ticks."""
        self.launch(self.pipeline.tick(sensor))

    @rule(sensor=st.sampled_from(SENSORS))
    def tick_twice(self, sensor: str) -> None:
        """The daemon ends before it keeps the cursor, and comes back to the same tick."""
        cursor = self.pipeline.cursors.get(sensor)
        self.launch(self.pipeline.tick(sensor))
        self.pipeline.cursors[sensor] = cursor
        self.launch(self.pipeline.tick(sensor))

    @rule(sensor=st.sampled_from(SENSORS))
    def lose_a_tick(self, sensor: str) -> None:
        """The daemon ends before it does anything of what the sensor says."""
        cursor = self.pipeline.cursors.get(sensor)
        self.pipeline.evaluate(sensor)
        self.pipeline.cursors[sensor] = cursor

    @rule(sensor=st.sampled_from(SENSORS))
    def reset(self, sensor: str) -> None:
        """A person resets a sensor."""
        self.pipeline.cursors.pop(sensor, None)

    @rule(works=st.sampled_from([True, True, False]))
    def run(self, *, works: bool) -> None:
        """The oldest run in the queue comes to its end."""
        if not self.queue:
            return
        name = self.queue.pop(0)
        self.runs[name] += 1
        if works and name in self.desired:
            self.states.record_built(name, content=self.desired[name].content, pending=0)
        else:
            self.failures[name] += 1

    @invariant()
    def cursors_are_short(self) -> None:
        """A cursor is kept with every tick."""
        assert all(len(cursor or "") < 1000 for cursor in self.pipeline.cursors.values())

    # What came of it

    def settle(self) -> None:
        """Let everything be done that is still to do, and compare."""
        for _ in range(12):
            self.now += 1100
            for sensor in SENSORS:
                self.tick(sensor)
            while self.queue:
                self.run(works=True)
            self.reconcile()
            while self.queue:
                self.run(works=True)
        states = states_in(self.ledger, dataset=self.pipeline.dataset.name)
        built = {name: state.built_content for name, state in states.items()}
        assert built == {name: says.content for name, says in self.desired.items()}
        assert len(self.pipeline.partitions) == len(self.desired)
        for name, runs in self.runs.items():
            assert runs <= self.changes[name] + self.failures[name], name

    def reconcile(self) -> None:
        """The schedule finds that nobody was asked for in a day."""
        with self.ledger.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE ledger_prompt_sets SET requested_at = '2020-01-01 00:00:00.000000'"
                " WHERE requested_at IS NOT NULL"
            )
        self.launch(self.pipeline.reconcile(at=dt.datetime.fromtimestamp(self.now, dt.UTC)))

    def launch(self, requests: list[dg.RunRequest]) -> None:
        """Queue the runs whose key was never seen, as the daemon does."""
        for request in requests:
            if request.run_key not in self.run_keys:
                self.run_keys.add(str(request.run_key))
                self.queue.append(prompt_set_of(str(request.partition_key)))

    def time(self, lag: float = 0) -> str:
        """Return the time as a database writes it, to the second."""
        return f"{dt.datetime.fromtimestamp(self.now - lag, dt.UTC):%Y-%m-%d %H:%M:%S}"

    def execute(self, statement: str, *values: Any) -> None:  # noqa: ANN401 - bound
        """Edit the tables, and count which sets say something else since."""
        with sqlite3.connect(self.pipeline.tables_url.removeprefix("sqlite:///")) as connection:
            connection.execute(statement, values)
        connection.close()
        with SourceTables(self.pipeline.tables_url) as tables:
            after = fingerprint_sets(tables.iter_prompts(), tables.embeddings())
        for name in {*after, *self.desired}:
            if after.get(name) != self.desired.get(name):
                self.changes[name] += 1
        self.desired = after


@pytest.mark.slow
class TestCatalogue(Catalogue.TestCase):  # type: ignore[misc,valid-type]
    """Inserts, edits, touches, deletions, renames, embeddings, failures, resets, lost ticks."""

    settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
