"""The sensors' looks at a catalogue, each in a process that does nothing else: seconds and memory.

Every function takes and returns what a process can be given, and measures itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import dagster as dg
import sqlalchemy as sa

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.tables.reading import PromptsTable, SourceTables
from imagepipeline_dagster.tables.summaries import newest_time
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.looking import Watch, observe
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.states import PromptSetStates

_DATASET = ImageDataset(watching=Watching(sensor_seconds=1))
# Made as built from just what the tables say, and as reported; the first look asked for some.
_SETTLE = (
    "DELETE FROM ledger_prompt_sets",
    """INSERT INTO ledger_prompt_sets (dataset, prompt_set, requested_prompts,
       requested_embeddings, requested_at, attempt, retries, built_content, built_at, pending)
       SELECT dataset, prompt_set, prompts, embeddings, changed_at, 1, 0, content, changed_at, 0
       FROM ledger_set_contents""",
    "UPDATE ledger_set_contents SET reported = prompts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A catalogue, the ledger that knows it, and a Dagster instance."""

    tables_url: str
    ledger_url: str
    home: Path

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the instance."""
        self.home.mkdir(parents=True, exist_ok=True)
        untold = {"telemetry": {"enabled": False}}
        with dg.DagsterInstance.local_temp(str(self.home), overrides=untold) as instance:
            yield instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds, the MiB that the process grew by, and of how many ticks the longest's seconds."""

    seconds: float
    mib: float
    ticks: int = 1
    longest: float = 0.0


def _spent(work: Callable[[], None]) -> Spent:
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest size so far
    before, started = _mib("VmRSS"), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return Spent(seconds=seconds, mib=_mib("VmHWM") - before, longest=seconds)


def _mib(of: str) -> float:
    # Not getrusage(): its highest size is that of the process which started this one, at least.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{of}:")) / 1024


def pandas_reads(place: Place) -> Spent:
    """Read the table into pandas, and hash it set by set: what one would write."""
    import pandas as pd

    engine = sa.create_engine(parsed_url(place.tables_url))

    def work() -> None:
        frame = pd.read_sql_query("SELECT * FROM prompts", engine)
        rows = pd.util.hash_pandas_object(frame.drop(columns="updated_at"), index=False)
        rows.groupby(frame["prompt_set"]).sum()

    with engine.connect():
        return _spent(work)


class _Patient(Watching):
    tick_seconds: ClassVar[float] = 1000


@contextmanager
def _opened(place: Place) -> Iterator[tuple[PromptsTable, SetContents, PromptSetStates]]:
    ledger = Ledger(place.ledger_url)
    with SourceTables(place.tables_url) as tables, tables.open_prompts() as prompts:
        tables.embeddings()
        yield (
            prompts,
            SetContents(ledger, dataset=_DATASET.name),
            PromptSetStates(ledger, dataset=_DATASET.name),
        )
    ledger.close()


def first_look(place: Place) -> Spent:
    """Look at a catalogue that nothing is known of, tick after tick until every set was read.

    With what the sensor then asks of the ledger.
    """
    lasted: list[float] = []
    options = _DATASET.watching

    def work() -> None:
        watch = Watch()
        while not watch.verified_at:
            started = time.perf_counter()
            newest, now = newest_time(prompts), time.time()
            seen = observe(
                prompts, contents, watch, newest=newest, now=now, options=_DATASET.watching
            )
            number, at_most = len(lasted), options.max_runs_per_tick
            tick = f"first look {number}"
            states.forget(seen.sets if number == 0 else ())
            states.keep_only(seen.sets)
            states.settle()
            states.ask_for(states.wanting_for_prompts(), tick=tick, at_most=at_most)
            contents.record_reported(contents.unreported(tick)[:at_most], tick=tick)
            watch = seen.watch
            lasted.append(time.perf_counter() - started)

    with _opened(place) as (prompts, contents, states):
        spent = _spent(work)
    return Spent(seconds=spent.seconds, mib=spent.mib, ticks=len(lasted), longest=max(lasted))


def settle(place: Place) -> None:
    """Make every set known, built and reported, and give it its partition."""
    ledger = Ledger(place.ledger_url)
    with ledger.engine.begin() as connection:
        for statement in _SETTLE:
            connection.exec_driver_sql(statement)
        names = connection.exec_driver_sql("SELECT prompt_set FROM ledger_set_contents").scalars()
        keys = [partition_key(name) for name in names]
    ledger.close()
    with place.instance() as instance:
        instance.add_dynamic_partitions(_DATASET.named("prompt_set"), keys)


def audit(place: Place) -> Spent:
    """Count each set's rows, find their newest times, and compare both with what is known."""
    with _opened(place) as (prompts, contents, _):
        newest, now = newest_time(prompts), time.time()
        watch = Watch(newest=newest, rows=10**9, verified_at=now)
        return _spent(lambda: _look(prompts, contents, watch, newest, now, _DATASET.watching))


def verify(place: Place) -> Spent:
    """Compare every row with what is known, in slices."""
    with _opened(place) as (prompts, contents, _):
        newest, now = newest_time(prompts), time.time()
        watch = Watch(newest=newest, rows=10**9, audited_at=now)
        return _spent(lambda: _look(prompts, contents, watch, newest, now, _Patient()))


def _look(
    prompts: PromptsTable,
    contents: SetContents,
    watch: Watch,
    newest: str | None,
    now: float,
    options: Watching,
) -> None:
    seen = observe(prompts, contents, watch, newest=newest, now=now, options=options)
    if not seen.all_sets or seen.watch.verifying_since:
        raise AssertionError("not all was looked at")


def ticks(place: Place, *, changed: int, repetitions: int) -> tuple[float, float]:
    """Return the median seconds of a tick without a change, and of one with changed sets."""
    resources = resources_for(
        storage_uri=str(place.home / "data"),
        tables_url=place.tables_url,
        ledger_url=place.ledger_url,
    )
    definitions = build_definitions(_DATASET, resources, start=False)
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("prompts_sensor")
    engine = sa.create_engine(parsed_url(place.tables_url))
    quiet, busy = [], []
    with place.instance() as instance:
        cursor: str | None = None

        def tick() -> tuple[float, int]:
            nonlocal cursor
            started = time.perf_counter()
            with dg.build_sensor_context(
                instance_ref=instance.get_ref(), repository_def=repository, cursor=cursor
            ) as context:
                found = sensor.evaluate_tick(context)
            cursor = found.cursor
            return time.perf_counter() - started, len(found.run_requests or ())

        tick()
        time.sleep(2.1)  # until the clock has gone on, the newest rows are looked at again
        tick()
        for number in range(repetitions):
            quiet += [tick()[0] for _ in range(3)]
            with engine.begin() as connection:
                connection.execute(
                    sa.text(
                        "UPDATE prompts SET prompt = prompt || :n, updated_at = CURRENT_TIMESTAMP"
                        " WHERE prompt_set IN"
                        " (SELECT DISTINCT prompt_set FROM prompts"
                        "  WHERE prompt_set >= :first ORDER BY prompt_set LIMIT :changed)"
                    ),
                    {"n": f" {number}", "first": f"set_{number * changed:06}", "changed": changed},
                )
            seconds, asked = tick()
            if asked != changed:
                raise AssertionError(f"{asked} sets were asked for, not {changed}")
            busy.append(seconds)
            time.sleep(2.1)
            tick()
    return _median(quiet), _median(busy)


def _median(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]
