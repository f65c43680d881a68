"""Which partitions come and go with the prompt sets, and whether so many may go at once."""

from __future__ import annotations

from collections.abc import Set

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.watching.looking import Observation

__all__ = ["TooManyGone", "partition_changes"]

# Removing so few partitions is never taken for a table truncated by accident.
_FEW_SETS = 2


class TooManyGone(CorrectableError):
    """More sets are gone than a slip of the hand should be able to remove; says what to do."""


def partition_changes(
    seen: Observation, present: Set[str], *, table: str, keep: bool, max_removed_share: float
) -> tuple[list[str], list[str]]:
    """Return the partition keys to add and to remove; with `keep` none is removed.

    Raises:
        TooManyGone: more than this share of those present would be removed.
    """
    wanted = {partition_key(name) for name in seen.sets}
    added = sorted(wanted - present)
    if not seen.all_sets or keep:
        return added, []
    removed = sorted(present - wanted)
    if len(removed) > max(_FEW_SETS, max_removed_share * len(present)):
        raise TooManyGone(
            f"{len(removed)} of {len(present)} prompt sets are gone from the table "
            f"{table!r}. Nothing was removed: is the table whole? If they are to "
            "go, delete their partitions in the UI, or set max_removed_share=1.0 on the dataset."
        )
    return added, removed
