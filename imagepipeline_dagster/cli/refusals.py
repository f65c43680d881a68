"""Rows that are refused before anything is paid, as commands name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from imagepipeline_dagster.cli.terminal import count_of
from imagepipeline_dagster.planning.forecast import Refusal
from imagepipeline_dagster.tables.spelling import quoted

_SHOWN = 20


def refusal_lines(refusals: Sequence[Refusal], count: int) -> Iterator[str]:
    """Yield which rows are refused before anything is paid, and why; `count` is how many."""
    if not count:
        return
    shown = refusals[:_SHOWN]
    yield f"Refused before paying: {count_of(count, 'row')}."
    for refusal in shown:
        yield f"  {quoted(refusal.prompt_set, refusal.prompt_id)}: {refusal.problems}"
    if count > len(shown):
        yield f"  … and {count - len(shown):,} more"
