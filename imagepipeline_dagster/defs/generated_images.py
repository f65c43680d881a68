"""`generated_images`: the purchase. The one stage that costs money; it resumes where it was."""

import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    column_metadata,
    contact_sheet_of,
    found_table,
    shown_table,
    table_metadata,
)
from imagepipeline_dagster.defs.plan_metadata import plan_figures
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import SHARD_RETRIES, Made, StageCheck, build_checks
from imagepipeline_dagster.ledger.bought import refuse_emulator
from imagepipeline_dagster.ledger.budget import BudgetReached
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.ledger.sources import SourcePicture
from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
from imagepipeline_dagster.planning.approval import NotApproved, allowed_to_spend, is_not_approved
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import (
    PlanCount,
    PlannedRequest,
    plan_states_now,
    uses_of_plan,
)
from imagepipeline_dagster.planning.shards import Shard, shards_of
from imagepipeline_dagster.purchase.checks import EXPECTATIONS, Expectation, waiting_for_approval
from imagepipeline_dagster.purchase.images import (
    CIRCUMSTANCES,
    GeneratedImage,
    images_of_plan,
    noting_why_withheld,
    samples_asked_for,
)
from imagepipeline_dagster.purchase.means import Means
from imagepipeline_dagster.purchase.purchase import Purchase, PurchaseReport
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource, StorageResource
from imagepipeline_dagster.rows import StoredTable, content_hash

_ROWS_SHOWN = 50


class PurchasedSet(NamedTuple):
    """A set's images, and what its plan comes to afterwards: what there is to buy now."""

    images: Made
    plan: dg.AssetObservation


class _BoughtShard(NamedTuple):
    report: PurchaseReport
    images: list[GeneratedImage]
    plan: list[PlannedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetToBuy:
    """What a set's purchase is made of, for each of its shards the same.

    Attributes:
        prompts: the table of its prompts.
        plan: the table of its calls.
        means: what it is bought with.
        on_start: gets each purchase before it begins, to interrupt it.
    """

    dataset: ImageDataset
    prompt_set: str
    prompts: StoredTable
    plan: StoredTable
    means: Means
    log: logging.Logger
    on_start: Callable[[Purchase], None] = lambda _: None

    @property
    def shards(self) -> list[Shard]:
        """The parts that are bought one at a time, or each by a step of its own."""
        return shards_of(self.prompts.num_rows, shard_rows=self.dataset.shard_rows)

    def as_approved(self) -> tuple[Self, NotApproved | None]:
        """Return the same within what a person approved, and why nothing may be bought now."""
        if self.means.emulated:
            refuse_emulator(self.means.ledger)
        allowed = allowed_to_spend(
            self.plan.rows(PlannedRequest),
            self.dataset.approval,
            prompt_set=self.prompt_set,
            dataset=self.dataset.name,
            ledger=self.means.ledger,
            allowance=self.means.allowance,
            now=dt.datetime.now(dt.UTC),
        )
        if isinstance(allowed, NotApproved):
            return self, allowed
        return replace(self, means=replace(self.means, allowance=allowed)), None

    def buy(self, shard: Shard, *, withheld: Exception | None, beside_others: bool) -> _BoughtShard:
        """Buy what a shard lacks; others of this run may be bought at the same time."""
        prompts, plan = shard.rows(self.prompts, Prompt), shard.plan(self.prompts, self.plan)
        purchase = Purchase(
            plan=plan,
            uses=uses_of_plan(plan, prompts, dataset=self.dataset.name, run_id=self.means.run_id),
            means=self.means,
            beside_others=beside_others,
            on_progress=lambda progress: self.log.info("%s", progress),
        )
        self.on_start(purchase)
        report = purchase.carry_out(withheld=withheld)
        if is_not_approved(report.stopper):
            withheld = report.stopper
        images = noting_why_withheld(
            images_of_plan(prompts, plan, report.entries, report.sources), withheld
        )
        return _BoughtShard(report, images, plan_states_now(plan, report.entries))


def buy_set(to_buy: SetToBuy, *, small_sheets: bool = False) -> PurchasedSet:
    """Buy what the plan of one prompt set lacks, shard by shard."""
    started = time.monotonic()
    to_buy, withheld = to_buy.as_approved()
    dataset, means, allowance = to_buy.dataset, to_buy.means, to_buy.means.allowance
    stoppers, plan = [], PlanCount()
    figures, outcomes, of_this_run = Counter[str](), Counter[str](), Counter[str]()
    sources: dict[str, SourcePicture] = {}
    counted: set[str] = set()

    def images_bought() -> Iterator[GeneratedImage]:
        for shard in to_buy.shards:
            bought = to_buy.buy(shard, withheld=withheld, beside_others=False)
            figures.update(
                bought.report.figures(bought.images, run_id=means.run_id, counted=counted)
            )
            counted.update(call.request_key for call in bought.plan)
            plan.add(bought.plan)
            sources.update(bought.report.sources)
            outcomes.update(image.outcome for image in bought.images)
            of_this_run.update(i.outcome for i in bought.images if i.run_id == means.run_id)
            yield from bought.images
            if bought.report.stopper is not None:
                stoppers.append(bought.report.stopper)
                if _is_failure(bought.report.stopper):
                    return

    table = StoredTable.of(images_bought(), GeneratedImage)
    images = table.rows(GeneratedImage)
    telemetry.images_ended(of_this_run, dataset=dataset.name, emulated=means.emulated)
    told: dict[str, Any] = dict(figures)
    to_buy.log.info(
        "%(requested)d samples: %(bought)d bought, %(reused)d reused; "
        "%(api_calls)d API calls, %(resumed_jobs)d jobs resumed",
        told,
    )
    if (cost := allowance.cost(figures["bought"])) is not None:
        told["cost"] = cost
    if stoppers:
        if _is_failure(stoppers[-1]):
            raise _failure(stoppers[-1], told)
        pending = "pending: " if is_not_approved(stoppers[0]) else ""
        told["stopped"] = f"{pending}{stoppers[0]}"
    made = Made(
        table=table,
        data_version=content_hash(images, leave_out=CIRCUMSTANCES),
        metadata={
            **table_metadata(len(images), started=started),
            **told,
            "emulated": means.emulated,
            "outcomes": shown_table(["outcome", "samples"], list(outcomes.items())),
            **_source_figures(sources.values()),
            "contact_sheet": contact_sheet_of(
                (
                    (image, None if image.outcome == Outcome.GENERATED else image.outcome)
                    for image in images
                ),
                means.storage,
                count=len(images),
                small=small_sheets,
            ),
        },
    )
    spent = allowance.spent(means.ledger, today=means.ledger.today())
    # The plan's page would go on saying what there was to buy before this.
    plan_now = dg.AssetObservation(
        dataset.key("generation_requests"),
        partition=partition_key(to_buy.prompt_set),
        metadata=plan_figures(plan.summary, allowance, spent, emulated=means.emulated),
    )
    return PurchasedSet(made, plan_now)


def _source_figures(sources: Collection[SourcePicture]) -> dict[str, Any]:
    """Return how many links led to pictures that are kept, and why others did not."""
    # Behind the question mark may stand what opens a link: no event has that.
    lost = [(it.link.partition("?")[0], it.error) for it in sources if not it.is_kept]
    kept = {"source_pictures": len(sources) - len(lost)} if sources else {}
    return kept | found_table("source_pictures_not_kept", ["link", "why"], lost[:_ROWS_SHOWN])


def _is_failure(stopper: Exception | None) -> bool:
    return stopper is not None and not isinstance(stopper, NotApproved | BudgetReached)


def _failure(stopper: Exception | None, figures: Mapping[str, Any]) -> dg.Failure:
    return dg.Failure(
        f"the purchase stopped: {stopper}. What was bought is kept; "
        "the next run buys only the rest.",
        metadata=figures,
        allow_retries=False,
    )


@StageCheck.of()
def no_purchase_waits(
    generated_images: StoredTable, imagepipeline: ImagePipelineResource, dataset: ImageDataset
) -> dg.AssetCheckResult:
    """Nothing that the plan would buy waits until a person approves it."""
    waiting = waiting_for_approval(generated_images.rows(GeneratedImage))
    if not waiting:
        return dg.AssetCheckResult(
            passed=True, description="nothing waits for a person", metadata={"images": 0}
        )
    images = samples_asked_for(waiting)
    price = dataset.allowance(imagepipeline.origin).price_text(images)
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        # The UI reads a description as Markdown, and a text of the metadata as it is.
        description=f"images that wait until a person approves their plan: {images}",
        metadata={
            "images": images,
            "to_approve": str(waiting[0].error),
            **({"price": price} if price else {}),
        },
    )


def _outcome_check(expectation: Expectation) -> StageCheck:
    def look(generated_images: StoredTable) -> dg.AssetCheckResult:
        outcomes = pa.array([str(outcome) for outcome in expectation.outcomes])
        columns = ["prompt_id", "call_index", "outcome", "error"]
        images = generated_images.columns(*columns)
        unwanted = images.filter(pc.is_in(images.column("outcome"), value_set=outcomes))
        rows = [
            ["" if row[name] is None else row[name] for name in columns]
            for row in unwanted.slice(0, _ROWS_SHOWN).to_pylist()
        ]
        return dg.AssetCheckResult(
            passed=not unwanted.num_rows,
            severity=dg.AssetCheckSeverity.ERROR,
            description=expectation.verdict(unwanted.num_rows, of=images.num_rows),
            metadata={"samples": unwanted.num_rows, **found_table("which", columns, rows)},
        )

    return StageCheck(name=expectation.name, description=expectation.description, look=look)


GENERATED_IMAGES_CHECKS = (no_purchase_waits, *map(_outcome_check, EXPECTATIONS))


def build_generated_images(dataset: ImageDataset, *, in_shards: bool) -> list[dg.AssetsDefinition]:
    """Return the asset and its checks.

    The asset is a graph of one step, which buys what the plan lacks and stores the table. With
    `in_shards`, those of a large set are steps of their own before it, which the executor can run
    side by side.
    """
    buy_rest = _op_for_set(dataset)

    @dg.graph_asset(
        key=dataset.key("generated_images"),
        ins={
            "prompt_sets": dg.AssetIn(dataset.key("prompt_sets")),
            "generation_requests": dg.AssetIn(dataset.key("generation_requests")),
        },
        partitions_def=dataset.partitions,
        kinds={"imagepipeline", "parquet"},
        metadata=column_metadata(dataset, "generated_images"),
        description="The purchase, which costs money: buys what the plan lacks, and nothing else. "
        "A row a sample asked for. The pictures: Partitions, a prompt set, `contact_sheet`.",
    )
    def generated_images(prompt_sets: Any, generation_requests: Any) -> Any:  # noqa: ANN401
        tables = prompt_sets, generation_requests
        if not in_shards:
            return buy_rest(*tables)
        buy_shard = _op_for_shard(dataset)
        shards = _op_that_names_shards(dataset)(*tables)
        bought = shards.map(lambda shard: buy_shard(*tables, shard=shard))
        return buy_rest(*tables, bought=bought.collect())

    checks = build_checks(dataset, "generated_images", GENERATED_IMAGES_CHECKS)
    return [generated_images, checks]


def _op_that_names_shards(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("shards_to_buy"),
        out=dg.DynamicOut(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        description="Names the shards of a large set that something of is to be bought.",
    )
    def shards_to_buy(
        prompt_sets: StoredTable, generation_requests: StoredTable
    ) -> Iterator[dg.DynamicOutput[None]]:
        shards = shards_of(prompt_sets.num_rows, shard_rows=dataset.shard_rows)
        for shard in shards if len(shards) > 1 else []:
            if shard.buys(prompt_sets, generation_requests):
                yield dg.DynamicOutput(None, mapping_key=shard.key)

    return shards_to_buy


def _op_for_shard(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("buy_shard"),
        ins={"shard": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        pool=dataset.api_pool,
        retry_policy=SHARD_RETRIES,
        description="Buys what one shard lacks. Where it dies, it is tried again alone.",
    )
    @with_resources_of(dataset)
    def buy_shard(
        context: dg.OpExecutionContext,
        prompt_sets: StoredTable,
        generation_requests: StoredTable,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> None:
        shard = Shard.of_key(str(context.get_mapping_key()))
        with ledger.open() as opened:
            means = dataset.means(imagepipeline, opened, storage.open(), run_id=context.run_id)
            to_buy = _set_of_step(context, dataset, prompt_sets, generation_requests, means)
            to_buy, withheld = to_buy.as_approved()
            bought = to_buy.buy(shard, withheld=withheld, beside_others=True)
        figures = bought.report.figures(bought.images, run_id=context.run_id)
        if _is_failure(bought.report.stopper):
            raise _failure(bought.report.stopper, figures)
        context.add_output_metadata(figures)

    return buy_shard


def _op_for_set(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("buy_set"),
        ins={"bought": dg.In(dg.Nothing)},
        out=dg.Out(io_manager_key=dataset.resource("io_manager")),
        pool=dataset.api_pool,
        description="Buys what the plan lacks, and stores the table.",
    )
    @with_resources_of(dataset)
    def buy_rest(
        context: dg.AssetExecutionContext,
        prompt_sets: StoredTable,
        generation_requests: StoredTable,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> dg.Output[StoredTable]:
        with ledger.open() as opened:
            run_id = context.run.run_id
            means = dataset.means(imagepipeline, opened, storage.open(), run_id=run_id)
            to_buy = _set_of_step(context, dataset, prompt_sets, generation_requests, means)
            purchased = buy_set(to_buy)
        context.log_event(purchased.plan)
        return purchased.images.output(context)

    return buy_rest


def _set_of_step(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    dataset: ImageDataset,
    prompts: StoredTable,
    plan: StoredTable,
    means: Means,
) -> SetToBuy:
    return SetToBuy(
        dataset=dataset,
        prompt_set=prompt_set_of(context.partition_key),
        prompts=prompts,
        plan=plan,
        means=means,
        log=context.log,
    )
