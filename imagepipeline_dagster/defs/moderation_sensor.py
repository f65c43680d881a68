"""What makes verdicts anew without buying: people's decisions, and another policy."""

import datetime as dt
import hashlib
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.moderation.states import VerdictStates
from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
from imagepipeline_dagster.resources import LedgerResource, TablesResource

__all__ = ["build_moderation_overrides"]


def build_moderation_overrides(dataset: ImageDataset, *, start: bool) -> list[Any]:
    """Return the job that moderates a set anew, and the sensor that asks for its runs."""
    job = dg.define_asset_job(
        dataset.named("moderate_prompt_set"),
        selection=dg.AssetSelection.assets(dataset.key("moderated_images")),
        executor_def=dg.in_process_executor,
        description="Moderates one prompt set anew, from the images that are there. Buys nothing.",
    )
    policy = dataset.moderation
    version = hashlib.blake2b(policy.model_dump_json().encode(), digest_size=16).hexdigest()

    @dg.sensor(
        name=dataset.named("moderation_overrides_sensor"),
        job=job,
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if start else dg.DefaultSensorStatus.STOPPED,
        description="Asks for new verdicts on the sets that an override, or another policy, is "
        "about. Buys nothing.",
    )
    @with_resources_of(dataset)
    def moderation_overrides_sensor(
        context: dg.SensorEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SensorResult:
        # Rows are only ever added, so their number and the policy tell whether to look closer.
        cursor = f"{version}/{tables.count_overrides(dataset.overrides)}"
        if cursor == context.cursor:
            return dg.SensorResult(skip_reason="no override and no rule changed")
        keys = context.instance.get_dynamic_partitions(dataset.named("prompt_set"))
        with ledger.open() as opened:
            asked, settled = VerdictStates(opened, dataset=dataset.name).ask(
                policy,
                tables.overrides(dataset.overrides),
                present=[prompt_set_of(key) for key in keys],
                at_most=dataset.watching.max_runs_per_tick,
            )
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        return dg.SensorResult(
            skip_reason=None if asked else "no verdict is to be made anew",
            run_requests=[
                dg.RunRequest(
                    run_key=f"{dataset.name}/moderation/{partition_key(name)}/{basis}/{now}",
                    partition_key=partition_key(name),
                )
                for name, basis in asked.items()
            ],
            # Until every set is as it should be, each tick looks again.
            cursor=cursor if settled else "",
        )

    return [job, moderation_overrides_sensor]
