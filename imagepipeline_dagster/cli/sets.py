"""`imagepipeline-dagster sets …`: prompt sets as partitions, without buying."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import configured_ledger, configured_tables, on_dataset
from imagepipeline_dagster.cli.terminal import Answer, count_of
from imagepipeline_dagster.defs import registration, under_way
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset


@click.group("sets")
def sets_group() -> None:
    """Look after the partitions of prompt sets."""


@sets_group.command("sync", short_help="Bring the partitions in step with the prompts table.")
@on_dataset
def sync(*, dataset: ImageDataset) -> Answer:
    """Add a partition for each prompt set of the table, and remove those of sets that left it.

    Buys nothing. The partitions are those of the Dagster instance in DAGSTER_HOME.
    """
    with (
        under_way.configured_instance(os.environ) as instance,
        configured_tables(dataset) as tables,
    ):
        changes = registration.register_sets(
            dataset,
            tables=tables,
            open_ledger=lambda: configured_ledger(dataset, create=True),
            instance=instance,
        )
    lines = [
        f"{sign} {quoted(key)}"
        for sign, keys in (("+", changes.added), ("-", changes.removed))
        for key in keys
    ]
    if changes.in_use:
        waiting = count_of(len(changes.in_use), "partition")
        lines.append(f"{waiting} more will go once no run and no backfill names them.")
    return Answer(asdict(changes), lines or "The partitions are in step with the prompts table.")
