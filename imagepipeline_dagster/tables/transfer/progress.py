"""How far a long import or export is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TypeVar

RowsT = TypeVar("RowsT", bound=Sized)


@dataclass(frozen=True, slots=True)
class RowProgress:
    """Rows that were "read", "compared", "written" …; `of` how many, where that is known."""

    done: str
    rows: int
    of: int | None = None


OnProgress = Callable[[RowProgress], object]
"""Called every 2,000 rows or so, and at the end of each step."""


def counted(
    prompt_sets: Iterable[tuple[str, RowsT]], on_progress: OnProgress
) -> Iterator[tuple[str, RowsT]]:
    """Yield prompt sets with their rows, and tell of the rows that were "planned"."""
    number = 0
    for name, rows in prompt_sets:
        yield name, rows
        number += len(rows)
        on_progress(RowProgress("planned", number))
    on_progress(RowProgress("planned", number, number))
