"""When a dataset is released whose sets changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagepipeline_dagster.release.on_change import (
    ChangedSet,
    ReleasedDataset,
    ReleaseTick,
    watch_changes,
)

PASSES = ChangedSet(event=8, passes=True)
BLOCKED = ChangedSet(event=9, passes=False)


def _tick(
    *changed: ChangedSet,
    cursor: str | None = None,
    newest: float | None = 1000.0,
    now: float = 1600.0,
    under_way: bool = False,
) -> ReleaseTick:
    """Look at sets that are to be quiet for 10 minutes; verdicts were last stored at 1000."""

    def after(event: int) -> Sequence[ChangedSet]:
        return [each for each in changed if each.event > event]

    return watch_changes(
        ReleasedDataset(
            newest=lambda: newest,
            changed_after=after,
            under_way=lambda: under_way,
            quiet_seconds=600,
            clock=lambda: now,
        ),
        cursor,
    )


@pytest.mark.parametrize(
    ("tick", "asks", "cursor"),
    [
        (_tick(PASSES), True, "8"),
        (_tick(PASSES, now=1599), False, "0"),
        (_tick(PASSES, now=900), False, "0"),
        (_tick(PASSES, under_way=True), False, "0"),
        (_tick(BLOCKED), False, "9"),
        (_tick(PASSES, BLOCKED), True, "9"),
        (_tick(PASSES, cursor="8"), False, "8"),
        (_tick(newest=None), False, "0"),
        (_tick(PASSES, BLOCKED, cursor="8"), False, "9"),
    ],
    ids=[
        *("quiet", "not yet quiet", "a clock that is behind", "a run under way"),
        *("blocked", "one of two blocked", "nothing changed", "nothing there", "blocked later"),
    ],
)
def test_a_release_waits_for_quiet_sets_that_pass(
    tick: ReleaseTick, *, asks: bool, cursor: str
) -> None:
    """A release is asked for once changed sets are quiet, and at least one may be released."""
    assert (tick.asks, tick.cursor) == (asks, cursor)
    assert bool(tick.why) is not asks
