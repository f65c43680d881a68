"""Plans of several sets, approved by a person: two jobs, and the sensor that asks for purchases."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import found_table, shown_table
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.sensor_resources import ledger_of
from imagepipeline_dagster.ledger.approvals import approvals_since
from imagepipeline_dagster.ledger.budget import Allowance
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.planning.approval import ApprovalRefused, approve_plans
from imagepipeline_dagster.planning.forecast import Forecast, SetPlan, forecast_of
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource, TablesResource
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow


def forecast(
    prompt_sets: Iterable[tuple[str, Sequence[PromptRow]]],
    embeddings: Mapping[str, EmbeddingRow],
    dataset: ImageDataset,
    ledger: Ledger,
    *,
    origin: str,
) -> Forecast:
    """Return what a purchase of prompt sets would buy, as this dataset would."""
    return forecast_of(
        prompt_sets,
        embeddings,
        defaults=dataset.defaults,
        refuses_syntax=dataset.refuse_prompt_syntax,
        samples_per_call=dataset.samples_per_call,
        dataset=dataset.name,
        ledger=ledger,
        origin=origin,
    )


def forecast_of_sets(
    names: Iterable[str],
    tables: SourceTables,
    dataset: ImageDataset,
    ledger: Ledger,
    *,
    origin: str,
) -> Forecast:
    """Return the same for sets as the tables have them now.

    Raises:
        TablesError: a table cannot be read.
    """
    prompt_sets = ((name, tables.prompts(name)) for name in names)
    return forecast(prompt_sets, tables.embeddings(), dataset, ledger, origin=origin)


class ChosenSets(dg.Config):
    """Which prompt sets a job plans."""

    sets: list[str] = Field([], description="Prompt sets; all that the table has, where none is.")


class ApprovalGiven(ChosenSets):
    """What a person approves."""

    up_to: float | None = Field(
        None,
        description="The most that all these plans may cost together, in the price's currency, or "
        "in images where the dataset has no price. Above it nothing is approved.",
    )
    who: str = Field("", description="Who approves.")
    why: str = Field("", description="Why; kept with the approval.")


def build_plan_job(dataset: ImageDataset) -> dg.JobDefinition:
    """Return the job that plans some prompt sets, or all."""

    @dg.op(
        name=dataset.named("plan_sets"),
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        description="Plans prompt sets as the tables and the ledger stand; writes nothing.",
    )
    @with_resources_of(dataset)
    def plan_sets(
        context: dg.OpExecutionContext,
        config: ChosenSets,
        tables: TablesResource,
        ledger: LedgerResource,
        imagepipeline: ImagePipelineResource,
    ) -> None:
        allowance = dataset.allowance(imagepipeline.origin)
        with _planned(config, dataset, tables, ledger, imagepipeline) as (planned, opened):
            spent = allowance.spent(opened, today=opened.today())
        context.add_output_metadata(
            {
                **_total(planned.total, allowance),
                "budget_left": allowance.rest_text(spent) or "no budget limits what is spent",
                "canaries": dataset.canaries_price(allowance) or "none",
                "plans": _plans_table((*planned.sets, planned.total), allowance),
                **_refusals_table(planned.total),
            }
        )

    @dg.job(
        name=dataset.named("plan_prompt_sets"),
        executor_def=dg.in_process_executor,
        description="Says what prompt sets would buy, and for how much, each and all. Free.",
    )
    def plan_prompt_sets() -> None:
        plan_sets()

    return plan_prompt_sets


def build_approval_job(dataset: ImageDataset) -> dg.JobDefinition:
    """Return the job that approves the plans of some prompt sets, or of all."""

    @dg.op(
        name=dataset.named("approve_sets"),
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        description="Approves the plans of prompt sets as they stand; a sensor then buys them.",
    )
    @with_resources_of(dataset)
    def approve_sets(
        context: dg.OpExecutionContext,
        config: ApprovalGiven,
        tables: TablesResource,
        ledger: LedgerResource,
        imagepipeline: ImagePipelineResource,
    ) -> None:
        allowance = dataset.allowance(imagepipeline.origin)
        with _planned(config, dataset, tables, ledger, imagepipeline) as (planned, opened):
            try:
                approved = approve_plans(
                    planned,
                    up_to=config.up_to,
                    who=config.who,
                    why=config.why,
                    dataset=dataset.name,
                    ledger=opened,
                    allowance=allowance,
                    valid_hours=dataset.approval.valid_hours,
                    now=dt.datetime.now(dt.UTC),
                )
            except ApprovalRefused as error:
                raise dg.Failure(str(error), allow_retries=False) from None  # it says it all
        names = {approval.prompt_set for approval in approved}
        context.add_output_metadata(
            {
                **_total(planned.total, allowance),
                "approved": len(approved),
                "plans": _plans_table([of for of in planned.sets if of.name in names], allowance),
            }
        )

    @dg.job(
        name=dataset.named("approve_plan"),
        executor_def=dg.in_process_executor,
        description="Approves the plans of prompt sets, for what they cost now. Name yourself and "
        "the reason in the run's config.",
    )
    def approve_plan() -> None:
        approve_sets()

    return approve_plan


def build_purchase_of_approved(
    dataset: ImageDataset, *, status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Return the sensor that asks for the purchase of what was approved.

    Where purchases wait for a person it runs from the start: the approval is the consent.
    """
    waits = dataset.approval.required != "never"

    @dg.sensor(
        name=dataset.named("approvals_sensor"),
        job_name=dataset.named("materialize_prompt_set"),
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if waits else status,
        description="Asks for the purchase of each prompt set whose plan was approved.",
    )
    def approvals_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not waits:
            return dg.SkipReason("no purchase of this dataset waits for a person")
        now, at_most = dt.datetime.now(dt.UTC), dataset.watching.max_runs_per_tick
        with ledger_of(context, dataset).open() as ledger:
            approvals = approvals_since(
                ledger, context.cursor, dataset=dataset.name, at_most=at_most
            )
        if not approvals:
            return dg.SkipReason("nothing new was approved")
        there = dataset.partitions_in(context.instance)
        newest = {
            key: approval
            for approval in approvals
            if approval.expires_at > now and (key := partition_key(approval.prompt_set)) in there
        }
        return dg.SensorResult(
            skip_reason=None if newest else "what was approved has expired, or has no partition",
            run_requests=[
                dg.RunRequest(
                    run_key=f"{dataset.name}/{key}/approved/{approval.name}", partition_key=key
                )
                for key, approval in newest.items()
            ],
            cursor=approvals[-1].name,
        )

    return approvals_sensor


@contextmanager
def _planned(
    config: ChosenSets,
    dataset: ImageDataset,
    tables: TablesResource,
    ledger: LedgerResource,
    api: ImagePipelineResource,
) -> Iterator[tuple[Forecast, Ledger]]:
    """Give the plans of the sets that a run chose, and the ledger that they were made with."""
    with tables.open(dataset.prompts, dataset.embeddings) as source, ledger.open() as opened:
        names = source.prompt_sets()
        unknown = sorted(set(config.sets) - set(names))
        if unknown:
            raise dg.Failure(
                f"the table {dataset.prompts.table!r} has no prompt set {unknown[0]!r}",
                allow_retries=False,
            )
        chosen = dict.fromkeys(config.sets or names)
        yield forecast_of_sets(chosen, source, dataset, opened, origin=api.origin), opened


def _total(total: SetPlan, allowance: Allowance) -> dict[str, Any]:
    price = allowance.price_text(total.to_buy)
    return {"images_to_buy": total.to_buy, **({"price": price} if price else {})}


def _refusals_table(total: SetPlan) -> dict[str, dg.MarkdownMetadataValue]:
    headers = ["prompt set", "prompt_id", "problems"]
    rows = [[row.prompt_set, row.prompt_id, row.problems] for row in total.refusals]
    return found_table("refused_rows", headers, rows)


def _plans_table(plans: Sequence[SetPlan], allowance: Allowance) -> dg.MarkdownMetadataValue:
    headers = ["prompt set", "images to buy", "price", "reused", "unknown", "refused rows", "plan"]
    rows = [
        [
            planned.name,
            planned.to_buy,
            allowance.price_text(planned.to_buy) or "",
            planned.summary.images[PlanState.REUSED],
            planned.summary.images[PlanState.UNKNOWN],
            planned.refused,
            planned.fingerprint,
        ]
        for planned in plans
    ]
    return shown_table(headers, rows)
