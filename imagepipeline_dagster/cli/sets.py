"""`imagepipeline-dagster sets …`: prompt sets as partitions, without buying."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import configured_ledger, configured_tables, on_dataset
from imagepipeline_dagster.cli.terminal import count_of, echo_json
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset


@click.group("sets", short_help="Register prompt sets as partitions.")
def sets_group() -> None:
    """Look after the partitions of prompt sets."""


@sets_group.command("sync", short_help="Bring the partitions in step with the prompts table.")
@on_dataset
def sync(*, as_json: bool, dataset: ImageDataset) -> None:
    """Add a partition for each prompt set of the table, and remove those of sets that left it.

    Buys nothing. The partitions are those of the Dagster instance in DAGSTER_HOME.
    """
    from imagepipeline_dagster.defs.registration import register_sets
    from imagepipeline_dagster.defs.under_way import configured_instance

    with (
        configured_instance(os.environ) as instance,
        configured_tables(dataset) as tables,
    ):
        changes = register_sets(
            dataset,
            tables=tables,
            open_ledger=lambda: configured_ledger(dataset, create=True),
            instance=instance,
        )
    if as_json:
        echo_json(asdict(changes))
        return
    for sign, keys in (("+", changes.added), ("-", changes.removed)):
        for key in keys:
            click.echo(f"{sign} {quoted(key)}")
    if changes.in_use:
        waiting = count_of(len(changes.in_use), "partition")
        click.echo(f"{waiting} more will go once no run and no backfill names them.")
    if not (changes.added or changes.removed or changes.in_use):
        click.echo("The partitions are in step with the prompts table.")
