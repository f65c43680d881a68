"""`generation_requests`: the plan: what would be bought, what is reused, and why."""

import datetime as dt
import time
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import found_table, markdown_table, table_metadata
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest, plan_prompt_set, summarise_plan
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource
from imagepipeline_dagster.rows import arrow_table, content_hash, rows_of

__all__ = ["build_generation_requests"]


def build_generation_requests(dataset: ImageDataset) -> list[Any]:
    """Return the asset."""

    @dg.asset(
        key=dataset.key("generation_requests"),
        ins={"prompt_sets": dg.AssetIn(dataset.key("prompt_sets"))},
        partitions_def=dataset.partitions,
        group_name=dataset.named("image_dataset"),
        kinds={"pandas", "parquet"},
        description="The plan, free of charge: each API call that the set needs, whether it would "
        "be bought or is reused, and why. Look here before paying.",
    )
    def generation_requests(
        context: dg.AssetExecutionContext,
        prompt_sets: pd.DataFrame,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
    ) -> dg.MaterializeResult[pa.Table]:
        started = time.monotonic()
        allowance = dataset.allowance(imagepipeline.origin)
        with ledger.open() as opened:
            plan = plan_prompt_set(
                rows_of(prompt_sets, Prompt),
                prompt_set=prompt_set_of(context.partition_key),
                dataset=dataset.name,
                ledger=opened,
                origin=imagepipeline.origin,
                samples_per_call=dataset.samples_per_call,
            )
            spent = allowance.spent(opened, today=dt.datetime.now(dt.UTC).date())
        summary = summarise_plan(plan)
        to_buy = summary.images[PlanState.TO_BUY]
        cost = allowance.cost(to_buy)
        return dg.MaterializeResult(
            value=arrow_table(plan, PlannedRequest),
            # Neither states nor reasons: the plan is the same before and after its purchase.
            data_version=dg.DataVersion(content_hash(plan, leave_out={"state", "reason"})),
            metadata={
                **table_metadata(PlannedRequest, len(plan), started=started),
                "images_to_buy": to_buy,
                "images_reused": summary.images[PlanState.REUSED],
                "images_unknown": summary.images[PlanState.UNKNOWN],
                **({} if cost is None else {"cost": cost}),
                "spent": dg.MetadataValue.md(
                    markdown_table(
                        ["period", "images", "money"],
                        # What was bought without a price says nothing about money.
                        [
                            (p, s.images, "" if cost is None else f"{s.money:,.2f}")
                            for p, s in spent.items()
                        ],
                    )
                ),
                "plan": dg.MetadataValue.md(
                    markdown_table(
                        ["state", "API calls", "images"],
                        [
                            (s, calls, summary.images[s])
                            for s, calls in summary.calls.items()
                            if calls
                        ],
                    )
                ),
                **found_table(
                    "why", ["reason", "images to buy"], list(summary.to_buy_by_reason.items())
                ),
            },
        )

    return [generation_requests]
