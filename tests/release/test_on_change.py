"""When a dataset is released whose sets changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagepipeline_dagster.release.on_change import (
    ChangedSet,
    ReleasedDataset,
    ReleaseTick,
    Seen,
    watch_changes,
)

PASSES = ChangedSet(event=8, passes=True)
BLOCKED = ChangedSet(event=9, passes=False)
AT_8 = Seen(event=8)


def _tick(
    *changed: ChangedSet,
    seen: Seen | None = None,
    newest: float | None = 1000.0,
    now: float = 1600.0,
    under_way: bool = False,
    sets: str = "",
    lacks_sets: bool = False,
) -> ReleaseTick:
    """Look at sets that are to be quiet for 10 minutes; verdicts were last stored at 1000."""

    def after(event: int) -> Sequence[ChangedSet]:
        return [each for each in changed if each.event > event]

    return watch_changes(
        ReleasedDataset(
            newest=lambda: newest,
            changed_after=after,
            sets=lambda: sets,
            lacks_sets=lambda: lacks_sets,
            under_way=lambda: under_way,
            quiet_seconds=600,
            clock=lambda: now,
        ),
        seen.model_dump_json() if seen else None,
    )


@pytest.mark.parametrize(
    ("tick", "asks", "event"),
    [
        (_tick(PASSES), True, 8),
        (_tick(PASSES, now=1599), False, 0),
        (_tick(PASSES, now=900), False, 0),
        (_tick(PASSES, under_way=True), False, 0),
        (_tick(BLOCKED), False, 9),
        (_tick(PASSES, BLOCKED), True, 9),
        (_tick(PASSES, seen=AT_8), False, 8),
        (_tick(newest=None), False, 0),
        (_tick(PASSES, BLOCKED, seen=AT_8), False, 9),
    ],
    ids=[
        *("quiet", "not yet quiet", "a clock that is behind", "a run under way"),
        *("blocked", "one of two blocked", "nothing changed", "nothing there", "blocked later"),
    ],
)
def test_a_release_waits_for_quiet_sets_that_pass(
    tick: ReleaseTick, *, asks: bool, event: int
) -> None:
    """A release is asked for once changed sets are quiet, and at least one may be released."""
    assert (tick.asks, tick.seen.event) == (asks, event)
    assert bool(tick.why) is not asks


def test_a_set_that_is_gone_asks_for_one_release() -> None:
    """It waits to be quiet from when it was missed, is asked for once, and returns unasked."""
    whole = Seen(event=8, sets="a b")
    missed = _tick(seen=whole, sets="a", lacks_sets=True, now=5000)
    assert (missed.asks, missed.seen.since) == (False, 5000)
    assert _tick(seen=missed.seen, sets="a b", now=5001).seen == whole
    assert not _tick(seen=missed.seen, sets="a", now=5599).asks
    assert not _tick(seen=missed.seen, sets="a", now=5600, under_way=True).asks
    fewer = _tick(seen=missed.seen, sets="", lacks_sets=True, now=5500)
    assert not _tick(seen=fewer.seen, sets="", now=5600).asks
    asked = _tick(BLOCKED, seen=missed.seen, sets="a", now=5600)
    assert (asked.asks, asked.seen) == (True, Seen(event=9, sets="a", since=5000))
    assert not _tick(seen=asked.seen, sets="a", lacks_sets=True, now=9000).asks
    assert _tick(seen=asked.seen, sets="a c", now=9000).seen == Seen(event=9, sets="a c")


def test_a_set_that_went_twice_asks_twice() -> None:
    """The release that was asked for first may have failed: each time has a cursor of its own."""
    cursors = set[Seen]()
    seen = Seen(event=8, sets="a b")
    for now in (5000, 7000):
        missed = _tick(seen=seen, sets="a", lacks_sets=True, now=now)
        asked = _tick(seen=missed.seen, sets="a", now=now + 600)
        assert asked.asks
        cursors.add(asked.seen)
        seen = _tick(seen=asked.seen, sets="a b", now=now + 700).seen
    assert len(cursors) == 2
