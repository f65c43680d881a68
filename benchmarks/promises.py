"""Figures that were measured, beside what is promised of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured figure; a promised one has `at_least` or `at_most`, in the same unit."""

    what: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def promised(self) -> str:
        """The promise in words; empty for a figure that is there to compare with."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def met(self) -> bool:
        """Whether the promise is kept, to three digits; a figure without one always is."""
        shown = float(f"{self.measured:.3g}")
        low = shown if self.at_least is None else self.at_least
        high = shown if self.at_most is None else self.at_most
        return low <= shown <= high


def table_of(figures: Iterable[Figure]) -> Table:
    """Return the figures for the terminal."""
    table = Table(title="promised and measured")
    table.add_column("", no_wrap=True)
    for heading in ("promised", "measured", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        digits = ",.0f" if figure.measured >= 1000 else ".3g"
        measured = f"{figure.measured:{digits}} {figure.unit}"
        met = "[green]yes" if figure.met else "[red]no"
        table.add_row(figure.what, figure.promised, measured, met if figure.promised else "")
    return table


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return the figures for a file, each with whether it keeps its promise."""
    return [{**asdict(figure), "met": figure.met} for figure in figures]
