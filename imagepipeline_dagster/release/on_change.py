"""What one tick about a release does: it says whether sets that changed are to be released now.

A burst of changed sets makes one release: it waits until the sets are quiet. A set that a blocking
check stops asks for none, until the check is run again and passes. A release is asked for once: one
that fails is left to the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedSet:
    """A set whose verdicts were stored, or checked.

    Attributes:
        event: number of the newest event about it; later events have higher ones.
        passes: whether it passed its blocking checks.
    """

    event: int
    passes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedDataset:
    """A dataset as its ticks about releases see it.

    Attributes:
        newest: returns when verdicts were last stored or checked, in seconds since 1970; None where
            there are none.
        changed_after: returns the sets that were stored or checked after an event.
        under_way: tells whether a run of a set is queued or going on.
        quiet_seconds: how long nothing may have changed.
        clock: returns the seconds since 1970.
    """

    newest: Callable[[], float | None]
    changed_after: Callable[[int], Iterable[ChangedSet]]
    under_way: Callable[[], bool]
    quiet_seconds: float
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTick:
    """Whether a release is asked for, why not, and the cursor for the next tick."""

    asks: bool = False
    why: str = ""
    cursor: str


def watch_changes(dataset: ReleasedDataset, cursor: str | None) -> ReleaseTick:
    """Ask for a release once sets have changed, and then been quiet."""
    after = int(cursor or 0)
    newest = dataset.newest()
    quiet = dataset.clock() - (newest or 0)
    # Asked first: in a burst of thousands of sets it is the cheapest.
    if quiet < dataset.quiet_seconds:
        why = f"the sets are quiet for {quiet:.0f} of {dataset.quiet_seconds:.0f} seconds"
        return ReleaseTick(why=why, cursor=str(after))
    changed = [] if newest is None else list(dataset.changed_after(after))
    if not changed:
        return ReleaseTick(why="no set changed", cursor=str(after))
    if dataset.under_way():
        return ReleaseTick(why="a run of a set is under way", cursor=str(after))
    seen = str(max(each.event for each in changed))
    if not any(each.passes for each in changed):
        return ReleaseTick(why="no set that changed passed its blocking checks", cursor=seen)
    return ReleaseTick(asks=True, cursor=seen)
