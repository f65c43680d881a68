"""`generation_requests`: the plan: what would be bought, what is reused, and why."""

import time

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import column_metadata, table_metadata
from imagepipeline_dagster.defs.plan_metadata import plan_figures, refused_rows, requests_to_buy
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import Made
from imagepipeline_dagster.ledger.bought import refuse_emulator
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import (
    PlannedRequest,
    plan_fingerprint,
    plan_prompt_set,
    summarise_plan,
)
from imagepipeline_dagster.planning.shards import shards_of
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource
from imagepipeline_dagster.rows import StoredTable


def plan_set(
    dataset: ImageDataset,
    prompt_set: str,
    prompts: StoredTable,
    *,
    api: ImagePipelineResource,
    ledger: Ledger,
) -> Made:
    """Plan what the purchase of one prompt set would do; `prompts` are its rows."""
    started = time.monotonic()
    allowance = dataset.allowance(api.origin)
    if api.emulated:
        refuse_emulator(ledger)
    calls = (
        call
        for shard in shards_of(prompts.num_rows, shard_rows=dataset.shard_rows)
        for call in plan_prompt_set(
            shard.rows(prompts, Prompt),
            prompt_set=prompt_set,
            dataset=dataset.name,
            ledger=ledger,
            origin=api.origin,
            samples_per_call=dataset.samples_per_call,
        )
    )
    table = StoredTable.of(calls, PlannedRequest)
    plan = table.rows(PlannedRequest)
    spent = allowance.spent(ledger, today=ledger.today())
    fingerprint = plan_fingerprint(plan)
    return Made(
        table=table,
        # Neither states nor reasons: the plan is the same before and after its purchase.
        data_version=fingerprint,
        metadata={
            **table_metadata(len(plan), started=started),
            **plan_figures(summarise_plan(plan), allowance, spent, emulated=api.emulated),
            **requests_to_buy(plan, allowance),
            **refused_rows(prompts.rows(Prompt)),
            "fingerprint": fingerprint,
            **({} if api.emulated or ledger.warning is None else {"warning": ledger.warning}),
        },
    )


def build_generation_requests(dataset: ImageDataset) -> list[dg.AssetsDefinition]:
    """Return the asset."""

    @dg.asset(
        key=dataset.key("generation_requests"),
        ins={"prompt_sets": dg.AssetIn(dataset.key("prompt_sets"))},
        partitions_def=dataset.partitions,
        io_manager_key=dataset.resource("io_manager"),
        kinds={"arrow", "parquet"},
        metadata=column_metadata(dataset, "generation_requests"),
        description="The plan, free of charge: each API call that the set needs, whether it would "
        "be bought or is reused, and why. Look here before paying.",
    )
    @with_resources_of(dataset)
    def generation_requests(
        context: dg.AssetExecutionContext,
        prompt_sets: StoredTable,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
    ) -> dg.Output[StoredTable]:
        with ledger.open() as opened:
            return plan_set(
                dataset,
                prompt_set_of(context.partition_key),
                prompt_sets,
                api=imagepipeline,
                ledger=opened,
            ).output(context)

    return [generation_requests]
