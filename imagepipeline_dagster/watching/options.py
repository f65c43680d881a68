"""How the tables are watched: how often, how closely, and what a tick may ask for."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from imagepipeline_dagster.options import Options, bounded


class Watching(Options):
    """How the sensors of a dataset watch its tables."""

    few_sets: ClassVar[int] = 500
    """A tick that suspects more sets than these compares every row."""

    slice_rows: ClassVar[int] = 50_000
    """Rows that are compared at a time."""

    tick_seconds: ClassVar[float] = 20
    """After so long a tick begins no further slice."""

    sensor_seconds: int = bounded(30, "Least time between two ticks of a sensor, seconds.", low=1)
    audit_seconds: float = bounded(
        300,
        "Seconds between two counts of each set's rows, which show deletions and rows that were "
        "committed late. Each tick looks at the newest `updated_at`.",
        low=0,
    )
    verify_seconds: float = bounded(
        3600,
        "Seconds between two comparisons of every row, which show what changed without a new "
        "`updated_at`.",
        low=0,
    )
    small_table_rows: int = bounded(
        10_000, "A table of at most so many rows is compared whole at each tick.", low=0
    )
    max_runs_per_tick: int = bounded(25, "Runs that one tick asks for at most.", low=1)
    sets_per_run: int = bounded(
        100,
        "Sets that one run makes at most, where more wait than four ticks ask runs for; 1: each "
        "set has a run of its own.",
        low=1,
    )
    on_removed: Literal["remove", "keep"] = Field(
        "remove", description="What becomes of the partition of a set that left the tables."
    )
    max_removed_share: float = bounded(
        0.5, "A tick that would remove more of the partitions than this refuses.", low=0, high=1
    )
