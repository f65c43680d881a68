"""`imagepipeline-dagster sets …`: prompt sets as partitions, without buying."""

from __future__ import annotations

import os

import click

from imagepipeline_dagster.cli.configured import (
    chosen_dataset,
    configured_ledger,
    configured_tables,
    dataset_option,
)
from imagepipeline_dagster.cli.terminal import count_of, plain_errors, printable

__all__ = ["sets_group"]


@click.group("sets", short_help="Register prompt sets as partitions.")
def sets_group() -> None:
    """Look after the partitions of prompt sets."""


@sets_group.command("sync", short_help="Bring the partitions in step with the prompts table.")
@dataset_option
def sync(*, dataset: str | None) -> None:
    """Add a partition for each prompt set of the table, and remove those of sets that left it.

    Buys nothing. The partitions are those of the Dagster instance in DAGSTER_HOME.
    """
    from imagepipeline_dagster.defs.registration import register_sets
    from imagepipeline_dagster.defs.under_way import configured_instance

    with plain_errors():
        chosen = chosen_dataset(dataset)
        with (
            configured_instance(os.environ) as instance,
            configured_tables(chosen) as tables,
        ):
            changes = register_sets(
                chosen,
                tables=tables,
                open_ledger=lambda: configured_ledger(create=True),
                instance=instance,
            )
    for sign, keys in (("+", changes.added), ("-", changes.removed)):
        for key in keys:
            click.echo(f"{sign} {printable(key)}")
    if changes.in_use:
        waiting = count_of(len(changes.in_use), "partition")
        click.echo(f"{waiting} more will go once no run and no backfill names them.")
    if not (changes.added or changes.removed or changes.in_use):
        click.echo("The partitions are in step with the prompts table.")
