"""The schedules: a daily release, an hourly look at incomplete sets, and canaries."""

import datetime as dt

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.internals import cron_string_iterator
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.sensors import run_request, watched_dataset
from imagepipeline_dagster.resources import LedgerResource, TablesResource
from imagepipeline_dagster.watching.ticks import ask_again


def build_schedules(
    dataset: ImageDataset, *, status: dg.DefaultScheduleStatus
) -> list[dg.ScheduleDefinition]:
    """Return the schedules; that of the canaries where some are pinned."""

    @dg.schedule(
        name=dataset.named("reconcile_schedule"),
        job_name=dataset.named("materialize_prompt_set"),
        cron_schedule="0 * * * *",
        default_status=status,
        description="Asks again for prompt sets that are not built whole, with growing pauses.",
    )
    @with_resources_of(dataset)
    def reconcile_schedule(
        context: dg.ScheduleEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SkipReason | list[dg.RunRequest]:
        tick = f"reconcile {context.scheduled_execution_time.isoformat()}"
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            watched = watched_dataset(
                dataset, tables=source, open_ledger=ledger.open, instance=lambda: context.instance
            )
            runs = ask_again(watched, tick=tick)
        requests = [run_request(dataset, run) for run in runs]
        return requests or dg.SkipReason("every prompt set is built, under way, or was just tried")

    image_dataset_schedule = dg.ScheduleDefinition(
        name=dataset.named("image_dataset_schedule"),
        job_name=dataset.named("release_image_dataset"),
        cron_schedule=dataset.release_cron,
        default_status=status,
        description="Publishes a release a day, if anything in it changed.",
    )
    canaries_schedule = dg.ScheduleDefinition(
        name=dataset.named("canaries_schedule"),
        job_name=dataset.named("buy_canaries"),
        cron_schedule=dataset.canaries.cron,
        default_status=status,
        description="Buys the canaries again, to see whether the hosted model drifted.",
    )
    schedules = [reconcile_schedule, image_dataset_schedule]
    return [*schedules, canaries_schedule] if dataset.canaries.images else schedules


def next_ticks(dataset: ImageDataset, *, now: dt.datetime) -> dict[str, dt.datetime]:
    """Return when each schedule ticks next, if it runs."""
    at = now.timestamp()
    return {
        each.name: next(iter(cron_string_iterator(at, str(each.cron_schedule), "UTC")))
        for each in build_schedules(dataset, status=dg.DefaultScheduleStatus.STOPPED)
    }
