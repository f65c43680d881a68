"""Rows that are refused before anything is paid, as commands name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.terminal import count_of, printable
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.planning.forecast import Refusal


_SHOWN = 20


def show_refusals(refusals: Sequence[Refusal], count: int) -> None:
    """Print which rows are refused before anything is paid, and why; `count` is how many."""
    if not count:
        return
    click.echo(f"Refused before paying: {count_of(count, 'row')}.")
    for refusal in refusals[:_SHOWN]:
        row = quoted(refusal.prompt_set, refusal.prompt_id)
        click.echo(f"  {row}: {printable(refusal.problems)}")
    if count > len(refusals[:_SHOWN]):
        click.echo(f"  … and {count - len(refusals[:_SHOWN]):,} more")
