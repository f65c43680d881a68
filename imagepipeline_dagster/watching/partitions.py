"""Which partitions come and go with the prompt sets, and whether so many may go at once."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.watching.looking import Observation
from imagepipeline_dagster.watching.options import Watching

# Removing so few partitions is never taken for a table truncated by accident.
_FEW_SETS = 2


class TooManyGone(CorrectableError):
    """More sets are gone than a slip of the hand should be able to remove; says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionChanges:
    """The partition keys to add and to remove, and those to remove once nobody uses them."""

    added: list[str]
    removed: list[str]
    in_use: list[str]


def partition_changes(
    seen: Observation,
    present: Set[str],
    *,
    options: Watching,
    table: str,
    in_use: Callable[[], Set[str]] = frozenset,
) -> PartitionChanges:
    """Return how the partitions follow the sets of the prompts table, which has this name.

    A partition that a queued or running run or backfill names stays until that is over: Dagster
    cancels a backfill of all sets once a single partition of it is gone. `in_use` returns those.

    Raises:
        TooManyGone: more than the options' share of those present would be removed.
    """
    wanted = {partition_key(name) for name in seen.sets}
    added = sorted(wanted - present)
    gone = present - wanted if seen.all_sets and options.on_removed == "remove" else frozenset()
    if len(gone) > max(_FEW_SETS, options.max_removed_share * len(present)):
        raise TooManyGone(
            f"{len(gone)} of {len(present)} prompt sets are gone from the table "
            f"{table!r}. Nothing was removed: is the table whole? If they are to "
            "go, delete their partitions in the UI, or set max_removed_share=1.0 in the dataset's "
            "`watching`."
        )
    used = in_use() & gone if gone else frozenset()
    return PartitionChanges(added=added, removed=sorted(gone - used), in_use=sorted(used))
