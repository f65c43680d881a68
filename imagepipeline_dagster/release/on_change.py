"""What one tick about a release does: it says whether sets that changed are to be released now.

A burst of changed sets makes one release: it waits until the sets are quiet. A set that a blocking
check stops asks for none, until the check is run again and passes. A set that is gone asks for one
too: nothing says when it went, so it is quiet from the tick that first missed it. A release is
asked for once: one that fails is left to the schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError


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
        sets: returns what stands for the sets that there are, and for the newest release.
        lacks_sets: tells whether the newest release has sets that are gone; it takes longer.
        under_way: tells whether a run of a set is queued or going on.
        quiet_seconds: how long nothing may have changed.
        clock: returns the seconds since 1970.
    """

    newest: Callable[[], float | None]
    changed_after: Callable[[int], Iterable[ChangedSet]]
    sets: Callable[[], str]
    lacks_sets: Callable[[], bool]
    under_way: Callable[[], bool]
    quiet_seconds: float
    clock: Callable[[], float]


class Seen(BaseModel, frozen=True):
    """What earlier ticks saw, as the cursor holds it.

    Attributes:
        event: the newest one that was looked at.
        sets: those that no release is to be asked for, because of any that are gone.
        without: those that a release is to be asked for, as some are gone; empty where none are.
        since: when these, or the last such ones, were first seen, in seconds since 1970.
    """

    event: int = 0
    sets: str = ""
    without: str = ""
    since: float = 0

    @classmethod
    def of(cls, cursor: str | None) -> Seen:
        """Return what a cursor holds: nothing where an earlier version wrote it."""
        try:
            return cls.model_validate_json(cursor or "{}")
        except ValidationError:
            return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTick:
    """Whether a release is asked for, why not, and what the next tick is to know."""

    asks: bool = False
    why: str = ""
    seen: Seen


def watch_changes(dataset: ReleasedDataset, cursor: str | None) -> ReleaseTick:
    """Ask for a release once sets have changed or gone, and then been quiet."""
    seen = _with_sets(Seen.of(cursor), dataset)
    newest = dataset.newest()
    quiet = dataset.clock() - max(newest or 0, seen.since)
    # Asked first: in a burst of thousands of sets it is the cheapest.
    if quiet < dataset.quiet_seconds:
        why = f"the sets are quiet for {quiet:.0f} of {dataset.quiet_seconds:.0f} seconds"
        return ReleaseTick(why=why, seen=seen)
    changed = [] if newest is None else list(dataset.changed_after(seen.event))
    if not changed and not seen.without:
        return ReleaseTick(why="no set changed", seen=seen)
    if dataset.under_way():
        return ReleaseTick(why="a run of a set is under way", seen=seen)
    last = max((each.event for each in changed), default=seen.event)
    # With when it was missed: Dagster starts no second run for a cursor that it has seen.
    after = Seen(event=last, sets=seen.without or seen.sets, since=seen.since)
    if not seen.without and not any(each.passes for each in changed):
        return ReleaseTick(why="no set that changed passed its blocking checks", seen=after)
    return ReleaseTick(asks=True, seen=after)


def _with_sets(seen: Seen, dataset: ReleasedDataset) -> Seen:
    """Return what was seen with the sets as they are now."""
    sets = dataset.sets()
    if sets == seen.without:
        return seen
    if sets != seen.sets and dataset.lacks_sets():
        return Seen(event=seen.event, sets=seen.sets, without=sets, since=dataset.clock())
    return Seen(event=seen.event, sets=sets)
