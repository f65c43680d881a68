"""What one tick does: it looks, keeps the partitions in step, and says which runs it wants.

A tick is a function of the tables, the ledger, the partitions, the cursor that the tick before it
left, and the time. A tick that finds nothing to do returns None, and opens no more than it must.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
from imagepipeline_dagster.tables.fingerprints import SetFingerprint, fingerprint_embeddings
from imagepipeline_dagster.tables.misleading_times import misleading_time
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.summaries import count_unassigned, newest_time
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.looking import (
    FIRST_TICK,
    EmbeddingsWatch,
    Observation,
    Watch,
    new_tick,
    observe,
)
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.partitions import PartitionChanges, partition_changes
from imagepipeline_dagster.watching.states import AskedRun, PromptSetStates

# A backlog of more ticks than these is worked off many sets a run: a run each would cost more than
# the sets do.
_MANY = 4
# Sets that one tick asks for at most: each takes some hundredths of its sixty seconds.
_MOST_SETS = 1000
# A larger set is a run's work by itself: it would keep the others back.
_ROWS_PER_RUN = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedDataset:
    """A dataset as its ticks see it; what costs time is asked for when it is needed.

    `name` is that of the ledger. `partitions` returns the keys that are there, `partitions_in_use`
    those that a queued or running run or backfill names, and `clock` the seconds since 1970.
    """

    name: str
    tables: SourceTables
    open_ledger: Callable[[], AbstractContextManager[Ledger]]
    partitions: Callable[[], Set[str]]
    partitions_in_use: Callable[[], Set[str]]
    options: Watching
    clock: Callable[[], float]

    def room_for(self, waiting: Sequence[SetFingerprint]) -> int:
        """Return how many of the sets that wait one tick can ask for."""
        if len(waiting) <= _MANY * self.options.max_runs_per_tick:
            return self.options.max_runs_per_tick
        return sum(batch_sizes([desired.rows for desired in waiting], self.options))

    def batches(self, runs: Sequence[AskedRun]) -> list[list[AskedRun]]:
        """Return the sets that were asked for, those of each run together."""
        if len(runs) <= self.options.max_runs_per_tick:
            return [[run] for run in runs]
        rest, sizes = iter(runs), batch_sizes([run.rows for run in runs], self.options)
        return [list(islice(rest, size)) for size in sizes]

    def following(self, seen: Observation, present: Set[str]) -> PartitionChanges:
        """Return how the partitions, of which these are there, follow the sets that were seen."""
        return partition_changes(
            seen,
            present,
            options=self.options,
            table=self.tables.prompts_mapping.table,
            in_use=self.partitions_in_use,
        )

    def states(self, ledger: Ledger) -> PromptSetStates:
        """Return the states of its prompt sets."""
        return PromptSetStates(ledger, dataset=self.name)

    def contents(self, ledger: Ledger) -> SetContents:
        """Return the contents of its prompt sets."""
        return SetContents(ledger, dataset=self.name)


def batch_sizes(rows: Sequence[int], options: Watching) -> list[int]:
    """Return how many of these sets, in their order, each run of a tick makes; the rest waits.

    `rows` are the prompts of each set.
    """
    sizes: list[int] = []
    filled = 0
    for prompts in rows[:_MOST_SETS]:
        if not sizes or sizes[-1] == options.sets_per_run or filled + prompts > _ROWS_PER_RUN:
            if len(sizes) == options.max_runs_per_tick:
                break
            sizes.append(0)
            filled = 0
        sizes[-1] += 1
        filled += prompts
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsTick:
    """What a tick of the prompts table found.

    Attributes:
        runs: the runs that it asks for, each with its sets.
        added: the partition keys that are new.
        removed: the partition keys that go.
        in_use: the partition keys that go once no run and no backfill names them.
        reported: the sets whose rows say what Dagster was not told yet.
        rows: how many rows the table has, as last counted.
        cursor: what the next tick has to know.
        unassigned: how many rows name no prompt set; 0 where nobody looked.
        misleading: which row's time hides newer ones from the ticks, and why; None as well where
            nobody looked, and where the table is so small that each tick compares it whole.
    """

    runs: list[list[AskedRun]]
    added: list[str]
    removed: list[str]
    in_use: list[str]
    reported: list[SetFingerprint]
    rows: int
    cursor: str
    unassigned: int = 0
    misleading: str | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether it asks for nothing."""
        return not (self.runs or self.added or self.removed)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsTick:
    """What a tick of the embeddings table found; `version` is None where no embedding changed."""

    runs: list[list[AskedRun]]
    version: str | None
    cursor: str


def watch_prompts(watched: WatchedDataset, cursor: str | None) -> PromptsTick | None:
    """Look at the prompts table, and say which partitions and runs follow; None where none do.

    Raises:
        TooManyGone: more sets left the table than the options allow.
        TablesError: the table cannot be read.
    """
    with watched.tables.open_prompts() as prompts:
        watch, now = Watch.read(cursor), watched.clock()
        newest = newest_time(prompts)
        if watch.is_quiet(newest, now=now, options=watched.options):
            return None
        present = watched.partitions()
        with watched.open_ledger() as ledger:
            contents = watched.contents(ledger)
            seen = observe(
                prompts, contents, watch, newest=newest, now=now, options=watched.options
            )
            changes = watched.following(seen, present)
            if seen.all_sets:
                contents.keep_only(seen.sets)
            there = (present | set(changes.added)) - set(changes.removed)
            tick = _prompts_tick(watched, ledger, seen, changes, tick=watch.tick, there=there)
        if not seen.all_sets:
            return tick
        # Each tick compares a small table whole, whatever its times say.
        is_large = seen.watch.rows > watched.options.small_table_rows
        moment = dt.datetime.fromtimestamp(now, dt.UTC)
        return dataclasses.replace(
            tick,
            unassigned=count_unassigned(prompts),
            misleading=misleading_time(prompts, now=moment) if is_large else None,
        )


def _prompts_tick(
    watched: WatchedDataset,
    ledger: Ledger,
    seen: Observation,
    changes: PartitionChanges,
    *,
    tick: str,
    there: Set[str],
) -> PromptsTick:
    """Ask for what is wanted of the sets that are there; a repeated tick asks for the same."""
    states, contents = watched.states(ledger), watched.contents(ledger)
    _close_first_tick(states, "prompts", tick)
    name = f"prompts {tick}"
    repeated = {run.prompt_set for run in states.asked_in(name)}
    # A set that is new to this instance was never made on it, whatever an older one knew.
    states.forget(_prompt_sets((*changes.added, *changes.removed)) - repeated)
    if seen.all_sets:
        # A set that was asked for in a tick that got lost may be gone without a partition.
        states.keep_only(_prompt_sets(there))
    states.settle()
    waiting = _in_partitions(states.wanting_for_prompts(), there)
    at_most = max(watched.room_for(waiting), len(repeated))
    runs = states.ask_for(waiting, tick=name, at_most=at_most)
    unreported = _in_partitions(contents.unreported(name), there)
    reported = unreported[: max(watched.options.max_runs_per_tick, at_most)]
    contents.record_reported(reported, tick=name)
    is_left = len(waiting) + len(repeated) > len(runs) or len(unreported) > len(reported)
    return PromptsTick(
        runs=watched.batches(runs),
        added=changes.added,
        removed=changes.removed,
        in_use=changes.in_use,
        reported=reported,
        rows=seen.watch.rows,
        cursor=dataclasses.replace(seen.watch, tick=new_tick(), waiting=is_left).text(),
    )


def watch_embeddings(watched: WatchedDataset, cursor: str | None) -> EmbeddingsTick | None:
    """Look at the embeddings table, and say which runs follow; None where nothing changed.

    Raises:
        TablesError: a table cannot be read.
    """
    watch, now = EmbeddingsWatch.read(cursor), watched.clock()
    embeddings = watched.tables.embeddings()
    version = fingerprint_embeddings(embeddings)
    if watch.is_quiet(version, now=now, options=watched.options):
        return None
    there = watched.partitions()
    with watched.open_ledger() as ledger:
        contents, states = watched.contents(ledger), watched.states(ledger)
        _close_first_tick(states, "embeddings", watch.tick)
        contents.use_embeddings(embeddings)
        waiting = _in_partitions(states.wanting_for_embeddings(), there)
        at_most = watched.room_for(waiting)
        chosen = {desired.prompt_set for desired in waiting[:at_most]}
        # Their rows may have changed too: that is to be one run.
        with watched.tables.open_prompts() as prompts:
            contents.look_at(prompts, chosen)
        states.settle()
        wanting = [
            desired for desired in states.wanting_for_embeddings() if desired.prompt_set in chosen
        ]
        runs = states.ask_for(wanting, tick=f"embeddings {watch.tick}", at_most=at_most)
    next_watch = EmbeddingsWatch(
        tick=new_tick(), version=version, looked_at=now, waiting=len(waiting) > len(chosen)
    )
    return EmbeddingsTick(
        runs=watched.batches(runs),
        version=version if version != watch.version else None,
        cursor=next_watch.text(),
    )


def follow_sets(watched: WatchedDataset) -> PartitionChanges:
    """Return how the partitions follow all sets that the table has now; no run is asked for.

    Raises:
        TooManyGone: more sets left the table than the options allow.
        TablesError: the table cannot be read.
    """
    seen = Observation(Watch(), tuple(watched.tables.prompt_sets()), all_sets=True)
    changes = watched.following(seen, watched.partitions())
    with watched.open_ledger() as ledger:
        # As in a tick: what is new to this instance was never made on it.
        watched.states(ledger).forget(_prompt_sets((*changes.added, *changes.removed)))
    return changes


def ask_again(watched: WatchedDataset, *, tick: str) -> list[AskedRun]:
    """Ask again for the sets that are not built whole, after their pauses; `tick` names the tick.

    Raises:
        TablesError: a table cannot be read.
    """
    now = dt.datetime.fromtimestamp(watched.clock(), dt.UTC)
    with watched.open_ledger() as ledger:
        states = watched.states(ledger)
        free = watched.partitions() - watched.partitions_in_use()
        overdue = [name for name in states.overdue(now=now) if partition_key(name) in free]
        # Their rows may have changed since the sensors looked.
        with watched.tables.open_prompts() as prompts:
            watched.contents(ledger).look_at(prompts, overdue)
        return states.ask_again(
            overdue, now=now, tick=tick, at_most=watched.options.max_runs_per_tick
        )


def _close_first_tick(states: PromptSetStates, sensor: str, tick: str) -> None:
    # A later tick has a cursor, so the first was done with. Where a person resets the sensor, the
    # next first tick is another, and must not repeat what this one asked for.
    if tick != FIRST_TICK:
        states.close_tick(f"{sensor} {FIRST_TICK}")


def _in_partitions(sets: Iterable[SetFingerprint], there: Set[str]) -> list[SetFingerprint]:
    return [desired for desired in sets if partition_key(desired.prompt_set) in there]


def _prompt_sets(keys: Iterable[str]) -> set[str]:
    return {prompt_set_of(key) for key in keys}
