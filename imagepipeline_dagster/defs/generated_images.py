"""`generated_images`: the purchase. The one stage that costs money; it resumes where it was."""

import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import dagster as dg
import pandas as pd
import pyarrow as pa

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    column_metadata,
    contact_sheet_of,
    found_table,
    markdown_table,
    table_metadata,
)
from imagepipeline_dagster.defs.plan_metadata import plan_figures
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import Made, StageCheck, build_checks
from imagepipeline_dagster.ledger.bought import refuse_emulator
from imagepipeline_dagster.ledger.budget import BudgetReached
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.planning.approval import NotApproved, why_withheld
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest, plan_states_now
from imagepipeline_dagster.purchase.checks import EXPECTATIONS, Expectation, waiting_for_approval
from imagepipeline_dagster.purchase.images import (
    CIRCUMSTANCES,
    GeneratedImage,
    images_of_plan,
    noting_why_withheld,
)
from imagepipeline_dagster.purchase.purchase import Purchase, PurchaseSettings
from imagepipeline_dagster.resources import (
    ImagePipelineResource,
    LedgerResource,
    StorageResource,
)
from imagepipeline_dagster.rows import content_hash, rows_of
from imagepipeline_dagster.storage.contract import Storage

__all__ = ["PurchasedSet", "build_generated_images", "buy_set", "check_generated_images"]

_ROWS_SHOWN = 50


class PurchasedSet(NamedTuple):
    """A set's images, and what its plan's page shows afterwards: what there is to buy now."""

    images: Made[GeneratedImage]
    plan_figures: Mapping[str, Any]


def buy_set(
    dataset: ImageDataset,
    prompt_set: str,
    prompts: Sequence[Prompt],
    plan: Sequence[PlannedRequest],
    *,
    api: ImagePipelineResource,
    ledger: Ledger,
    storage: Storage,
    settings: PurchaseSettings,
    run_id: str,
    log: logging.Logger,
    on_start: Callable[[Purchase], None] = lambda _: None,
    small_sheets: bool = False,
) -> PurchasedSet:
    """Buy what the plan of one prompt set lacks; `on_start` gets the purchase, to interrupt it."""
    started = time.monotonic()
    allowance = dataset.allowance(api.origin)
    if api.emulated:
        refuse_emulator(ledger)
    withheld = why_withheld(
        plan,
        dataset.approval,
        prompt_set=prompt_set,
        dataset=dataset.name,
        ledger=ledger,
        allowance=allowance,
        now=dt.datetime.now(dt.UTC),
    )
    purchase = Purchase(
        plan=plan,
        prompts=prompts,
        dataset=dataset.name,
        run_id=run_id,
        ledger=ledger,
        storage=storage,
        open_client=api.open,
        emulated=api.emulated,
        allowance=allowance,
        settings=replace(settings, max_failure_ratio=dataset.max_failure_ratio),
        on_progress=lambda progress: log.info("%s", progress),
    )
    on_start(purchase)
    report = purchase.carry_out(withheld=withheld)
    spent = allowance.spent(ledger, today=dt.datetime.now(dt.UTC).date())
    images = noting_why_withheld(images_of_plan(prompts, plan, report.entries), withheld)
    outcomes = Counter(image.outcome for image in images)
    mine = Counter(image.outcome for image in images if image.run_id == run_id)
    telemetry.images_ended(mine, dataset=dataset.name, emulated=api.emulated)
    bought, reused = report.bought_and_reused(images, run_id=run_id)
    figures: dict[str, Any] = {
        "requested": len(images),
        "bought": bought,
        "reused": reused,
        "api_calls": report.posts,
        "resumed_jobs": report.resumed,
    }
    log.info(
        "%(requested)d samples: %(bought)d bought, %(reused)d reused; "
        "%(api_calls)d API calls, %(resumed_jobs)d jobs resumed",
        figures,
    )
    cost = allowance.cost(bought)
    if cost is not None:
        figures["cost"] = cost
    if isinstance(report.stopper, NotApproved):
        figures["stopped"] = f"pending: {report.stopper}"
    elif isinstance(report.stopper, BudgetReached):
        figures["stopped"] = str(report.stopper)
    elif report.stopper is not None:
        raise dg.Failure(
            f"the purchase stopped: {report.stopper}. What was bought is kept; "
            "the next run buys only the rest.",
            metadata=figures,
            allow_retries=False,
        )
    made = Made(
        rows=images,
        row_type=GeneratedImage,
        data_version=content_hash(images, leave_out=CIRCUMSTANCES),
        metadata={
            **table_metadata(dataset, "generated_images", len(images), started=started),
            **figures,
            "emulated": api.emulated,
            "outcomes": dg.MetadataValue.md(
                markdown_table(["outcome", "samples"], list(outcomes.items()))
            ),
            "contact_sheet": contact_sheet_of(
                images,
                storage,
                [None if i.outcome == Outcome.GENERATED else i.outcome for i in images],
                small=small_sheets,
            ),
        },
    )
    now = plan_states_now(plan, report.entries)
    return PurchasedSet(made, plan_figures(now, allowance, spent, emulated=api.emulated))


def check_generated_images(dataset: ImageDataset) -> list[StageCheck]:
    """Return the checks."""

    def no_purchase_waits(
        generated_images: pd.DataFrame, imagepipeline: ImagePipelineResource
    ) -> dg.AssetCheckResult:
        waiting = waiting_for_approval(rows_of(generated_images, GeneratedImage))
        price = dataset.allowance(imagepipeline.origin).price_text(len(waiting))
        return dg.AssetCheckResult(
            passed=not waiting,
            severity=dg.AssetCheckSeverity.WARN,
            description=str(waiting[0].error) if waiting else "nothing waits for a person",
            metadata={"images": len(waiting), **({"price": price} if price else {})},
        )

    return [
        StageCheck(
            name="no_purchase_waits",
            description="Nothing that the plan would buy waits until a person approves it.",
            look=no_purchase_waits,
        ),
        *(_outcome_check(expectation) for expectation in EXPECTATIONS),
    ]


def _outcome_check(expectation: Expectation) -> StageCheck:
    def look(generated_images: pd.DataFrame) -> dg.AssetCheckResult:
        unwanted = generated_images[generated_images["outcome"].isin(expectation.outcomes)]
        columns = ["prompt_id", "call_index", "outcome", "error"]
        rows = unwanted[columns].head(_ROWS_SHOWN).astype(object).fillna("").to_numpy().tolist()
        return dg.AssetCheckResult(
            passed=unwanted.empty,
            severity=dg.AssetCheckSeverity.ERROR,
            description=expectation.verdict(len(unwanted), of=len(generated_images)),
            metadata={"samples": len(unwanted), **found_table("which", columns, rows)},
        )

    return StageCheck(name=expectation.name, description=expectation.description, look=look)


def build_generated_images(dataset: ImageDataset) -> list[Any]:
    """Return the asset and its checks."""

    @dg.asset(
        key=dataset.key("generated_images"),
        ins={
            "prompt_sets": dg.AssetIn(dataset.key("prompt_sets")),
            "generation_requests": dg.AssetIn(dataset.key("generation_requests")),
        },
        partitions_def=dataset.partitions,
        io_manager_key=dataset.resource("io_manager"),
        group_name=dataset.group_name or dataset.named("image_dataset"),
        kinds={"pandas", "parquet"},
        metadata=column_metadata(dataset, "generated_images"),
        pool=dataset.pool or dataset.named("imagepipeline_api"),
        description="The purchase, which costs money: buys what the plan lacks, and nothing else. "
        "A row a sample asked for. The pictures: Partitions, a prompt set, `contact_sheet`.",
    )
    @with_resources_of(dataset)
    def generated_images(
        context: dg.AssetExecutionContext,
        prompt_sets: pd.DataFrame,
        generation_requests: pd.DataFrame,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> dg.MaterializeResult[pa.Table]:
        with ledger.open() as opened:
            purchased = buy_set(
                dataset,
                prompt_set_of(context.partition_key),
                rows_of(prompt_sets, Prompt),
                rows_of(generation_requests, PlannedRequest),
                api=imagepipeline,
                ledger=opened,
                storage=storage.open(),
                settings=imagepipeline.purchase_settings,
                run_id=context.run.run_id,
                log=context.log,
            )
        # The plan's page would go on saying what there was to buy before this.
        context.log_event(
            dg.AssetObservation(
                dataset.key("generation_requests"),
                partition=context.partition_key,
                metadata=purchased.plan_figures,
            )
        )
        return purchased.images.result()

    checks = build_checks(dataset, "generated_images", check_generated_images(dataset))
    return [generated_images, checks]
