"""Which partitions Dagster is busy with: those of queued and running runs, and of backfills."""

from __future__ import annotations

from collections.abc import Set

import dagster as dg

# Dagster exports no name for backfills.
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)

__all__ = ["partitions_in_use"]

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_GOING_ON = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]


def partitions_in_use(instance: dg.DagsterInstance, present: Set[str]) -> set[str]:
    """Return those of the partitions `present` that a run or a backfill under way names.

    Other definitions may use the same partitions, so whose the run is does not matter. A run of a
    range of partitions is taken to name them all.
    """
    used: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNDER_WAY)):
        if "dagster/asset_partition_range_start" in run.tags:
            return set(present)
        used.add(run.tags.get("dagster/partition", ""))
    for backfill in instance.get_backfills(BulkActionsFilter(statuses=_GOING_ON)):
        used.update(_partitions_of(backfill, present))
    return used & present


def _partitions_of(backfill: PartitionBackfill, present: Set[str]) -> Set[str]:
    if backfill.asset_backfill_data is None:
        # A backfill of a job has names; one that an older Dagster wrote may be about any.
        return present if backfill.partition_names is None else set(backfill.partition_names)
    target = backfill.asset_backfill_data.target_subset
    return {
        key
        for subset in target.partitions_subsets_by_asset_key.values()
        for key in subset.get_partition_keys()
    }
