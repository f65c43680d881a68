"""What a tick that saw these sets does to the partitions."""

from __future__ import annotations

import pytest

from imagepipeline_dagster.watching.looking import Observation, Watch
from imagepipeline_dagster.watching.options import Watching
from imagepipeline_dagster.watching.partitions import TooManyGone, partition_changes


def changes(
    sets: tuple[str, ...],
    present: str,
    *,
    all_sets: bool = True,
    options: Watching = Watching(),  # noqa: B008 - it cannot be changed
) -> tuple[list[str], list[str]]:
    """Return the changes where half of the sets may go."""
    seen = Observation(Watch(), sets, all_sets)
    found = partition_changes(seen, set(present), options=options, table="prompts")
    return found.added, found.removed


def test_sets_come_and_go() -> None:
    """New sets are added under their keys, and those that are gone are removed."""
    assert changes(("a", "", "d"), "abc") == (["%28empty%29", "d"], ["b", "c"])


def test_nothing_goes_unless_all_sets_were_seen_and_it_may() -> None:
    """A tick that saw only some sets removes none, and neither does one that keeps them."""
    assert changes(("d",), "abc", all_sets=False) == (["d"], [])
    assert changes(("d",), "abc", options=Watching(on_removed="keep")) == (["d"], [])


def test_too_many_at_once_are_refused() -> None:
    """More than two and more than the share are not removed, and the message says what to do."""
    assert changes((), "ab") == ([], ["a", "b"])
    assert changes(("a", "b", "c"), "abcdef") == ([], ["d", "e", "f"])
    with pytest.raises(TooManyGone, match=r"^4 of 6 .* 'prompts'\. .*max_removed_share=1\.0"):
        changes(("a", "b"), "abcdef")
    any_share = Watching(max_removed_share=1.0)
    assert changes((), "abcdef", options=any_share) == ([], list("abcdef"))
