"""Prompt sets registered as partitions, without buying anything."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.sensors import watched_dataset
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.resources import LedgerResource, TablesResource
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.watching.partitions import PartitionChanges, TooManyGone
from imagepipeline_dagster.watching.ticks import follow_sets


def register_sets(
    dataset: ImageDataset,
    *,
    tables: SourceTables,
    open_ledger: Callable[[], AbstractContextManager[Ledger]],
    instance: dg.DagsterInstance,
) -> PartitionChanges:
    """Bring an instance's partitions in step with the prompts table, and return what changed.

    Raises:
        TooManyGone: more sets left the table than the dataset lets go at once.
        TablesError: the table cannot be read.
    """
    watched = watched_dataset(
        dataset, tables=tables, open_ledger=open_ledger, instance=lambda: instance
    )
    changes = follow_sets(watched)
    name = dataset.named("prompt_set")
    instance.add_dynamic_partitions(name, changes.added)
    for key in changes.removed:
        instance.delete_dynamic_partition(name, key)
    return changes


def build_registration(dataset: ImageDataset) -> dg.JobDefinition:
    """Return the job that registers the prompt sets of the table."""

    @dg.op(
        name=dataset.named("register_sets"),
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        description="Adds a partition for each prompt set of the table, and removes the others.",
    )
    @with_resources_of(dataset)
    def register(
        context: dg.OpExecutionContext, tables: TablesResource, ledger: LedgerResource
    ) -> None:
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            try:
                changes = register_sets(
                    dataset, tables=source, open_ledger=ledger.open, instance=context.instance
                )
            except TooManyGone as error:
                raise dg.Failure(str(error), allow_retries=False) from None  # it says it all
        context.add_output_metadata(
            {
                "added": len(changes.added),
                "removed": len(changes.removed),
                "removed_later": len(changes.in_use),
            }
        )

    @dg.job(
        name=dataset.named("register_prompt_sets"),
        executor_def=dg.in_process_executor,
        description="Registers the prompt sets of the table as partitions. Free: buys nothing.",
    )
    def register_prompt_sets() -> None:
        register()

    return register_prompt_sets
