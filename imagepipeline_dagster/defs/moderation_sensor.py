"""Verdicts made anew without buying: after people's decisions, or under another policy."""

import time
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.moderation.ticks import ModeratedDataset, watch_verdicts
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.resources import LedgerResource, TablesResource


def build_moderation_overrides(
    dataset: ImageDataset, *, status: dg.DefaultSensorStatus
) -> tuple[Any, dg.SensorDefinition]:
    """Return the job that moderates a set anew, and the sensor that asks for its runs."""
    job = dg.define_asset_job(
        dataset.named("moderate_prompt_set"),
        selection=dg.AssetSelection.assets(dataset.key("moderated_images")),
        executor_def=dg.in_process_executor,
        description="Moderates one prompt set anew, from the images that are there. Buys nothing.",
    )

    @dg.sensor(
        name=dataset.named("moderation_overrides_sensor"),
        job=job,
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=status,
        description="Asks for new verdicts on the sets that an override, or another policy, is "
        "about. Buys nothing.",
    )
    @with_resources_of(dataset)
    def moderation_overrides_sensor(
        context: dg.SensorEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SensorResult | dg.SkipReason:
        tick = watch_verdicts(
            ModeratedDataset(
                name=dataset.name,
                policy=dataset.moderation,
                count_overrides=lambda: tables.count_overrides(dataset.overrides),
                overrides=lambda: tables.overrides(dataset.overrides),
                open_ledger=ledger.open,
                partitions=lambda: set(
                    context.instance.get_dynamic_partitions(dataset.named("prompt_set"))
                ),
                max_runs=dataset.watching.max_runs_per_tick,
                clock=time.time,
            ),
            context.cursor,
        )
        if tick is None:
            return dg.SkipReason("no override and no rule changed")
        asked_at = tick.asked_at.isoformat(timespec="milliseconds")
        return dg.SensorResult(
            skip_reason=None if tick.runs else "no verdict is to be made anew",
            run_requests=[
                dg.RunRequest(
                    run_key=f"{dataset.name}/moderation/{key}/{basis}/{asked_at}", partition_key=key
                )
                for name, basis in tick.runs.items()
                for key in [partition_key(name)]
            ],
            cursor=tick.cursor,
        )

    return job, moderation_overrides_sensor
