"""`generated_images`: the purchase. The one stage that costs money; it resumes where it was."""

from collections import Counter
from dataclasses import replace
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    contact_sheet_of,
    found_table,
    markdown_table,
    table_metadata,
)
from imagepipeline_dagster.generation.budget import BudgetReached
from imagepipeline_dagster.generation.images import (
    CIRCUMSTANCES,
    GeneratedImage,
    Outcome,
    images_of_plan,
)
from imagepipeline_dagster.generation.planning import PlannedRequest
from imagepipeline_dagster.generation.prompts import Prompt
from imagepipeline_dagster.generation.purchase import Purchase
from imagepipeline_dagster.resources import (
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
)
from imagepipeline_dagster.rows import arrow_table, content_hash, rows_of

__all__ = ["build_generated_images"]

_ROWS_SHOWN = 50


def build_generated_images(dataset: ImageDataset) -> list[Any]:
    """Return the asset and its checks."""

    @dg.asset(
        key=dataset.key("generated_images"),
        ins={
            "prompt_sets": dg.AssetIn(dataset.key("prompt_sets")),
            "generation_requests": dg.AssetIn(dataset.key("generation_requests")),
        },
        partitions_def=dataset.partitions,
        group_name=dataset.named("image_dataset"),
        kinds={"pandas", "parquet"},
        pool=dataset.pool,
        description="The purchase, which costs money: buys what the plan lacks, and nothing else. "
        "A row a sample asked for. The pictures: Partitions, a prompt set, `contact_sheet`.",
    )
    def generated_images(
        context: dg.AssetExecutionContext,
        prompt_sets: pd.DataFrame,
        generation_requests: pd.DataFrame,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> dg.MaterializeResult[pa.Table]:
        prompts = rows_of(prompt_sets, Prompt)
        plan = rows_of(generation_requests, PlannedRequest)
        keys = [call.request_key for call in plan]
        allowance = dataset.allowance(imagepipeline.origin)
        with ledger.open() as opened:
            before = opened.entries(keys)
            purchase = Purchase(
                plan=plan,
                prompts=prompts,
                dataset=dataset.name,
                run_id=context.run.run_id,
                ledger=opened,
                storage=storage.open(),
                open_client=imagepipeline.open,
                emulated=imagepipeline.emulated,
                allowance=allowance,
                settings=replace(
                    imagepipeline.purchase_settings, max_failure_ratio=dataset.max_failure_ratio
                ),
                on_progress=lambda progress: context.log.info(str(progress)),
            )
            report = purchase.carry_out()
            images = images_of_plan(prompts, plan, opened.entries(keys))
        outcomes = Counter(image.outcome for image in images)
        mine = {image.request_key for image in images if image.run_id == context.run.run_id}
        figures: dict[str, Any] = {
            "requested": len(images),
            # The API took the request: a vendor bills it, whatever came of it.
            "bought": sum(
                image.request_key in mine and image.submitted_at is not None for image in images
            ),
            "reused": sum(
                image.request_key in before and image.request_key not in mine for image in images
            ),
            "api_calls": report.posts,
            "resumed_jobs": report.resumed,
            "seconds": round(report.seconds, 3),
        }
        context.log.info(
            "%(requested)d samples: %(bought)d bought, %(reused)d reused; "
            "%(api_calls)d API calls, %(resumed_jobs)d jobs resumed, %(seconds).1f s",
            figures,
        )
        cost = allowance.cost(figures["bought"])
        if cost is not None:
            figures["cost"] = cost
        if isinstance(report.stopper, BudgetReached):
            figures["stopped"] = str(report.stopper)
        elif report.stopper is not None:
            raise dg.Failure(
                f"the purchase stopped: {report.stopper}. What was bought is kept; "
                "the next run buys only the rest.",
                metadata=figures,
                allow_retries=False,
            )
        return dg.MaterializeResult(
            value=arrow_table(images, GeneratedImage),
            data_version=dg.DataVersion(content_hash(images, leave_out=CIRCUMSTANCES)),
            metadata={
                **table_metadata(GeneratedImage, len(images)),
                **figures,
                "emulated": imagepipeline.emulated,
                "outcomes": dg.MetadataValue.md(
                    markdown_table(["outcome", "samples"], list(outcomes.items()))
                ),
                "contact_sheet": contact_sheet_of(
                    images,
                    storage.open(),
                    [None if i.outcome == Outcome.GENERATED else i.outcome for i in images],
                ),
            },
        )

    @dg.asset_check(
        asset=dataset.key("generated_images"),
        name="images_are_complete",
        partitions_def=dataset.partitions,
        description="Every sample came, was filtered or was refused; none is still open or failed.",
    )
    def images_are_complete(generated_images: pd.DataFrame) -> dg.AssetCheckResult:
        return _check_outcomes(
            generated_images,
            {Outcome.PENDING, Outcome.FAILED, Outcome.EXPIRED},
            "are open or failed",
            advice="materialize the set again; for what stays open see the column `error`",
        )

    @dg.asset_check(
        asset=dataset.key("generated_images"),
        name="no_answer_was_lost",
        partitions_def=dataset.partitions,
        description="Of every request it is known whether it was bought.",
    )
    def no_answer_was_lost(generated_images: pd.DataFrame) -> dg.AssetCheckResult:
        return _check_outcomes(
            generated_images,
            {Outcome.UNKNOWN},
            "may or may not have been bought",
            advice="they are not sent again by themselves; "
            "decide with `imagepipeline-dagster ledger unknown`",
        )

    @dg.asset_check(
        asset=dataset.key("generated_images"),
        name="images_decode",
        partitions_def=dataset.partitions,
        description="No delivered file was something else than a picture.",
    )
    def images_decode(generated_images: pd.DataFrame) -> dg.AssetCheckResult:
        return _check_outcomes(
            generated_images, {Outcome.UNDECODABLE}, "were delivered, and are no pictures"
        )

    return [generated_images, images_are_complete, no_answer_was_lost, images_decode]


def _check_outcomes(
    images: pd.DataFrame, bad: set[Outcome], what_they_are: str, *, advice: str = ""
) -> dg.AssetCheckResult:
    found = images[images["outcome"].isin([outcome.value for outcome in bad])]
    columns = ["prompt_id", "call_index", "outcome", "error"]
    rows = found[columns].head(_ROWS_SHOWN).astype(object).fillna("").to_numpy().tolist()
    return dg.AssetCheckResult(
        passed=found.empty,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(found)} of {len(images)} samples {what_they_are}"
        + (f"; {advice}" if advice and rows else ""),
        metadata={"samples": len(found), **found_table("which", columns, rows)},
    )
