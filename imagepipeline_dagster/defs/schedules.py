"""The schedules: a daily release, and an hourly look at the sets that are not complete."""

import datetime as dt

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset, UnresolvedJob
from imagepipeline_dagster.defs.sensors import run_request
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.resources import LedgerResource, TablesResource
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.states import PromptSetStates

__all__ = ["build_schedules"]

_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_schedules(
    dataset: ImageDataset,
    job: UnresolvedJob,
    release_job: UnresolvedJob,
    *,
    status: dg.DefaultScheduleStatus,
) -> list[dg.ScheduleDefinition]:
    """Return both schedules."""

    @dg.schedule(
        name=dataset.named("reconcile_schedule"),
        job=job,
        cron_schedule="0 * * * *",
        default_status=status,
        description="Asks again for prompt sets that are not built whole, with growing pauses.",
    )
    def reconcile_schedule(
        context: dg.ScheduleEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SkipReason | list[dg.RunRequest]:
        there = set(context.instance.get_dynamic_partitions(dataset.named("prompt_set")))
        busy = _partitions_under_way(context.instance, dataset.named("materialize_prompt_set"))
        now = dt.datetime.now(dt.UTC)
        tick = f"reconcile {context.scheduled_execution_time.isoformat()}"
        with tables.open(dataset.prompts, dataset.embeddings) as source, ledger.open() as opened:
            states = PromptSetStates(opened, dataset=dataset.name)
            overdue = [
                state
                for state in states.overdue(now=now)
                if partition_key(state.prompt_set) in there - busy
            ]
            # What they say may have changed since the sensors looked.
            SetContents(opened, dataset=dataset.name).look_at(
                source, [state.prompt_set for state in overdue]
            )
            runs = states.ask_again(overdue, now=now, tick=tick, at_most=dataset.max_runs_per_tick)
        requests = [run_request(dataset, run) for run in runs]
        return requests or dg.SkipReason("every prompt set is built, under way, or was just tried")

    image_dataset_schedule = dg.ScheduleDefinition(
        name=dataset.named("image_dataset_schedule"),
        job=release_job,
        cron_schedule="0 6 * * *",
        default_status=status,
        description="Publishes a release a day, if anything in it changed.",
    )
    return [reconcile_schedule, image_dataset_schedule]


def _partitions_under_way(instance: dg.DagsterInstance, job_name: str) -> set[str]:
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=_UNDER_WAY))
    return {key for run in runs if (key := run.tags.get("dagster/partition"))}
