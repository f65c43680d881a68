"""The sensors that tell people what they should know, by a hook of the project's own."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import dagster as dg

from imagepipeline_dagster.alerts.alert import News, Notify, Telling, tell
from imagepipeline_dagster.alerts.runs import news_of_run
from imagepipeline_dagster.alerts.standing import standing_news
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.plans import forecast_of_sets
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import STAGES
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.approval import waits_for_person
from imagepipeline_dagster.planning.forecast import SetPlan
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource, TablesResource
from imagepipeline_dagster.tables.summaries import summarise_sets
from imagepipeline_dagster.watching.states import PromptSetStates

_JOBS = (
    *("materialize_prompt_set", "materialize_batch", "moderate_prompt_set"),
    *("release_image_dataset", "register_prompt_sets", "plan_prompt_sets", "approve_plan"),
    "buy_canaries",
)
_APART = ("image_dataset", "hub_dataset", "drift_canaries")  # assets without partitions
_RUNS = 50  # of a tick
_ENDS: tuple[Literal[dg.DagsterEventType.RUN_SUCCESS, dg.DagsterEventType.RUN_FAILURE], ...] = (
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
)
_TROUBLE = {
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


def build_alerts(
    dataset: ImageDataset,
    notify: Notify,
    *,
    ui_url: str | None = None,
    nearly: float = 0.8,
    interval_seconds: int = 60,
    start: bool = True,
) -> list[dg.SensorDefinition]:
    """Return the sensors that tell of failed runs and checks, and of how the dataset stands.

    Each alert is told once until it changes. If `notify` raises, the alert is told at a later tick.

    Args:
        dataset: what the alerts are about; its definitions are in the same code location.
        notify: tells an `Alert` to people, as `slack_webhook(…)` does.
        ui_url: address of Dagster's UI, for the links.
        nearly: the share of the budget from which on a person is told, 0 to 1.
        interval_seconds: seconds between two looks.
        start: whether the sensors run from the beginning.
    """
    status = dg.DefaultSensorStatus.RUNNING if start else dg.DefaultSensorStatus.STOPPED
    ticking = {"minimum_interval_seconds": interval_seconds, "default_status": status}
    return [
        _standing_alerts(dataset, notify, ui_url=ui_url, nearly=nearly, ticking=ticking),
        _run_alerts(dataset, notify, ui_url=ui_url, ticking=ticking),
    ]


def _standing_alerts(
    dataset: ImageDataset,
    notify: Notify,
    *,
    ui_url: str | None,
    nearly: float,
    ticking: Mapping[str, Any],
) -> dg.SensorDefinition:
    @dg.sensor(
        **ticking,
        name=dataset.named("standing_alerts_sensor"),
        description="Tells people of a budget that is nearly reached, of unknown requests, and of "
        "plans that wait for approval.",
    )
    @with_resources_of(dataset)
    def standing_alerts_sensor(
        context: dg.SensorEvaluationContext,
        tables: TablesResource,
        ledger: LedgerResource,
        imagepipeline: ImagePipelineResource,
    ) -> dg.SensorResult:
        with ledger.open() as opened:
            standing = standing_news(
                opened,
                _waiting(dataset, tables, opened, origin=imagepipeline.origin),
                dataset=dataset.name,
                allowance=dataset.allowance(imagepipeline.origin),
                nearly=nearly,
                today=opened.today(),
                link=_page(ui_url, "assets", *dataset.key("generated_images").path),
            )
            news = list(standing)
        telling = tell(news, json.loads(context.cursor or "{}"), notify)
        return _result(telling, json.dumps(telling.said))

    return standing_alerts_sensor


def _run_alerts(
    dataset: ImageDataset, notify: Notify, *, ui_url: str | None, ticking: Mapping[str, Any]
) -> dg.SensorDefinition:
    @dg.sensor(
        **ticking,
        name=dataset.named("run_alerts_sensor"),
        description="Tells people of this dataset's runs that failed, and of checks that did.",
    )
    def run_alerts_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        if context.cursor is None:
            # Runs that ended before are history.
            return dg.SensorResult(cursor=json.dumps({"after": _newest(instance), "said": {}}))
        cursor = json.loads(context.cursor)
        ends = _ends_after(instance, cursor["after"])
        runs = [(end, _news_of(dataset, instance, run_id, ui_url)) for end, run_id in ends]
        mine = [(end, news) for end, news in runs if news is not None]
        telling = tell([news for _, news in mine], cursor["said"], notify)
        after = ends[-1][0] if ends else cursor["after"]
        if telling.error is not None:
            after = mine[telling.done][0] - 1  # the next look begins with what nobody was told of
        return _result(telling, json.dumps({"after": after, "said": telling.said}))

    return run_alerts_sensor


def _waiting(
    dataset: ImageDataset, tables: TablesResource, ledger: Ledger, *, origin: str
) -> list[SetPlan]:
    """Return the plans that wait for a person.

    Of a large table only those sets are planned that are not whole as far as the ledger knows.
    """
    if dataset.approval.required == "never":
        return []
    allowance, now = dataset.allowance(origin), dt.datetime.now(dt.UTC)
    with tables.open(dataset.prompts, dataset.embeddings) as source:
        with source.open_prompts() as prompts:
            rows = {of_set.prompt_set: of_set.rows for of_set in summarise_sets(prompts)}
        names = sorted(rows)
        if sum(rows.values()) > dataset.watching.small_table_rows:
            states = PromptSetStates(ledger, dataset=dataset.name)
            whole = states.all().keys() - states.not_whole()
            names = [name for name in names if name not in whole]
        plans = forecast_of_sets(names, source, dataset, ledger, origin=origin).sets
    return [
        plan
        for plan in plans
        if waits_for_person(dataset.approval, ledger, plan.wanted(dataset.name, allowance), now=now)
    ]


def _newest(instance: dg.DagsterInstance) -> int:
    """Return the number of the last end of a run."""
    newest = [instance.fetch_run_status_changes(end, limit=1).records for end in _ENDS]
    return max((record.storage_id for records in newest for record in records), default=0)


def _ends_after(instance: dg.DagsterInstance, number: int) -> list[tuple[int, str]]:
    """Return the ends of runs after the one of this number, each with its run's id, in order."""
    ends = [
        (record.storage_id, record.event_log_entry.run_id)
        for end in _ENDS
        for record in instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(end, after_storage_id=number),
            limit=_RUNS,
            ascending=True,
        ).records
    ]
    return sorted(ends)[:_RUNS]


def _news_of(
    dataset: ImageDataset, instance: dg.DagsterInstance, run_id: str, ui_url: str | None
) -> News | None:
    """Return what is to be told of a run; None where it is not about this dataset."""
    run = instance.get_run_by_id(run_id)
    if run is None:
        return None
    stages = {dataset.key(stage) for stage in (*STAGES, *_APART)}
    is_mine = run.job_name in set(map(dataset.named, _JOBS))
    if not is_mine and stages.isdisjoint(run.asset_selection or ()):
        return None
    errors, checks = [], []
    for record in instance.get_records_for_run(run_id, of_type=_TROUBLE).records:
        event = record.event_log_entry.get_dagster_event()
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                name = evaluation.asset_check_key.to_user_string()
                checks.append(f"{name}: {evaluation.description or evaluation.severity.value}")
        elif event.is_step_failure and (error := event.step_failure_data.error) is not None:
            errors.append((error.cause or error).message.strip())
        else:
            errors.append(event.message or "The run failed.")
    return news_of_run(
        run_id=run_id,
        job=run.job_name,
        what=run.tags.get("dagster/partition", dataset.name),
        # That of the step says more than that of the run, which comes after it.
        error=errors[0] if errors else None,
        failed_checks=checks,
        link=_page(ui_url, "runs", run_id),
    )


def _page(ui_url: str | None, *path: str) -> str | None:
    return None if ui_url is None else "/".join([ui_url.rstrip("/"), *map(quote, path)])


def _result(telling: Telling, cursor: str) -> dg.SensorResult:
    if telling.error is not None and not telling.told:
        raise dg.Failure(f"Nobody could be told: {telling.error}") from None
    reason = f"{telling.told} alerts told"
    if telling.error is not None:
        reason += f"; another one could not be: {telling.error}"
    return dg.SensorResult(skip_reason=reason, cursor=cursor)
