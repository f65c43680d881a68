"""How far a long import or export is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["OnProgress", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows that were `done` ("read", "compared", "written"), `of` how many if that is known."""

    done: str
    rows: int
    of: int | None = None


OnProgress = Callable[[Progress], object]
"""Called every 2,000 rows or so, and at the end of each step."""
