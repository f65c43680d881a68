"""Figures that are promised, beside those that were measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A promised figure with its bound, at most so much or at least, and the measured one."""

    what: str
    bound: float
    measured: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise is kept, to the digits shown."""
        shown = round(self.measured, 2)
        return shown >= self.bound if self.at_least else shown <= self.bound


def table_of_verdicts(verdicts: Iterable[Verdict]) -> Table:
    """Return the verdicts for the terminal."""
    table = Table(title="promised and measured", expand=False)
    table.add_column("", no_wrap=True)
    for heading in ("promised", "measured", "met"):
        table.add_column(heading, justify="right")
    for verdict in verdicts:
        table.add_row(
            verdict.what,
            f"{'≥' if verdict.at_least else '≤'} {verdict.bound:g} {verdict.unit}",
            f"{verdict.measured:.2f} {verdict.unit}",
            "[green]yes" if verdict.met else "[red]no",
        )
    return table
