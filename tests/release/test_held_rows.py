"""Rows of a release that are held encoded."""

from __future__ import annotations

import tracemalloc
from itertools import repeat

from imagepipeline_dagster.release.held_rows import HeldRows, joined
from imagepipeline_dagster.release.parts import in_order
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import kept_row, rejected_row


def test_rows_come_back_as_they_were(storage: LocalFolder) -> None:
    """Rows are the same in the same order, however they were added, and as often as asked for."""
    rows = [*(kept_row(storage, number) for number in range(3)), *map(rejected_row, range(60))]
    held = HeldRows(rows[:2])
    held.append(rows[2])
    held.extend(HeldRows(rows[3:]))
    assert [list(held), list(held), len(held)] == [rows, rows, len(rows)]
    assert held.picture_bytes == sum(row.bytes or 0 for row in rows)
    assert list(held.every(25)) == rows[::25]
    assert rows[7] in held
    assert kept_row(storage, 9) not in held


def test_many_rows_take_little_memory() -> None:
    """Ten thousand rows in order take a quarter of what they take as objects."""
    tracemalloc.start()
    rows = [rejected_row(number, prompt=f"a fox, number {number}") for number in range(10_000)]
    as_objects, _ = tracemalloc.get_traced_memory()
    held = joined(in_order(zip(repeat("train"), rows), shuffled=False)["train"].values())
    del rows
    as_held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 10_000
    assert as_held < as_objects / 4
