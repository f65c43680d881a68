"""What Dagster is busy with: the partitions of queued and running runs, and of backfills."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import dagster as dg

from imagepipeline_dagster.defs.batches import sets_of_run
from imagepipeline_dagster.defs.internals import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.partition_names import partition_key

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_GOING_ON = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]


class InstanceMissing(CorrectableError):
    """Nothing says which Dagster instance is meant; says what to set."""


def configured_instance(variables: Mapping[str, str]) -> dg.DagsterInstance:
    """Return the instance that DAGSTER_HOME names; close it, or use it in a `with` block.

    Raises:
        InstanceMissing: the variable is not set, or names no folder.
    """
    home = variables.get("DAGSTER_HOME", "")
    if not home or not Path(home).is_dir():
        trouble = f"is {home!r}, which is no folder" if home else "is not set"
        raise InstanceMissing(
            f"DAGSTER_HOME {trouble}: set it to the folder of the Dagster instance that your "
            "Dagster runs with."
        )
    return dg.DagsterInstance.from_config(str(Path(home).absolute()))


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
        used.update(map(partition_key, sets_of_run(run.run_config)))
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
