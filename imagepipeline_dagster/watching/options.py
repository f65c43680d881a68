"""How the tables are watched: how often, how closely, and what a tick may ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from imagepipeline_dagster.options import Options, bounded
from imagepipeline_dagster.watching.looking import Tiers


class Watching(Options):
    """How the sensors of a dataset watch its tables."""

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

    @property
    def tiers(self) -> Tiers:
        """How often the tables are looked at how closely."""
        return Tiers(
            audit_seconds=self.audit_seconds,
            verify_seconds=self.verify_seconds,
            small_table_rows=self.small_table_rows,
        )
