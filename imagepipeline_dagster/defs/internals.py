"""What this package takes from inside Dagster, since it has no public name: each with its reason.

Nothing else may import from there (ruff's TID251); a new version of Dagster is looked at here.
"""

# Which prompt sets a run was to make: the event that marks a partition as failed.
from dagster._core.events import AssetMaterializationPlannedData

# The partitions of backfills under way: `DagsterInstance.get_backfills` takes and gives these.
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)

# What checks said, of all partitions by one query: what the event log's storage gives.
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
)

# A schedule's next tick, by the rules of the daemon.
from dagster._utils.schedules import cron_string_iterator

# A step context raises it where it has no repository, and says so in no other way.
from dagster_shared.check import CheckError

# The root of a `dg` project, before its modules can be imported: `ComponentTree` imports them.
from dagster_shared.utils.config import discover_config_file

__all__ = [
    "BULK_ACTION_TERMINAL_STATUSES",
    "AssetCheckExecutionRecord",
    "AssetCheckExecutionRecordStatus",
    "AssetCheckPartitionInfo",
    "AssetMaterializationPlannedData",
    "BulkActionStatus",
    "BulkActionsFilter",
    "CheckError",
    "PartitionBackfill",
    "cron_string_iterator",
    "discover_config_file",
]
