"""The Dagster definitions: one file a stage, named after its asset, in the order of the flow.

`source_tables` → `prompt_sets` → `generation_requests` → `generated_images` → `moderated_images` →
`image_dataset`; then what starts runs: `sensors`, `moderation_sensor` and `schedules`; and what
comes before paying: `registration` of the sets, `plans` and their approval.
`status` says how a dataset stands. `dataset` holds what they share; `metadata`, `plan_metadata` and
`moderation_metadata` what they show. `moderation_checks` stand beside their asset,
`sensor_resources` keeps ticks cheap, and `under_way` says what Dagster is busy with.
`build_definitions` puts one dataset together.
"""

import warnings
from collections.abc import Mapping

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.generated_images import build_generated_images
from imagepipeline_dagster.defs.generation_requests import build_generation_requests
from imagepipeline_dagster.defs.image_dataset import (
    RELEASE_IO_MANAGER,
    build_image_dataset,
    release_io_manager,
)
from imagepipeline_dagster.defs.moderated_images import build_moderated_images
from imagepipeline_dagster.defs.moderation_sensor import build_moderation_overrides
from imagepipeline_dagster.defs.plans import build_plan_jobs, build_purchase_of_approved
from imagepipeline_dagster.defs.prompt_sets import build_prompt_sets
from imagepipeline_dagster.defs.registration import build_registration
from imagepipeline_dagster.defs.schedules import build_schedules
from imagepipeline_dagster.defs.sensors import build_sensors
from imagepipeline_dagster.defs.source_tables import build_source_tables
from imagepipeline_dagster.moderation.moderating import check_policy

__all__ = ["ImageDataset", "build_definitions"]

_STAGES = ("prompt_sets", "generation_requests", "generated_images", "moderated_images")


def build_definitions(
    dataset: ImageDataset, resources: Mapping[str, object], *, start: bool
) -> dg.Definitions:
    """Return a dataset's definitions: seven assets with checks, jobs, sensors and schedules.

    `start` says whether the sensors and schedules run from the beginning; a person can switch each
    of them in the UI.

    Raises:
        ClassifierMissing, HashesMissing: the moderation policy needs what is not installed.
    """
    job = dg.define_asset_job(
        dataset.named("materialize_prompt_set"),
        selection=dg.AssetSelection.assets(*(dataset.key(stage) for stage in _STAGES)),
        # The chain is linear: a process a step would only cost its start.
        executor_def=dg.in_process_executor,
        description="Plans, buys and moderates one prompt set.",
    )
    release_job = dg.define_asset_job(
        dataset.named("release_image_dataset"),
        selection=dg.AssetSelection.assets(dataset.key("image_dataset")),
        executor_def=dg.in_process_executor,
        description="Publishes the kept images of all prompt sets, if anything changed.",
    )
    check_policy(dataset.moderation)
    moderation_job, *moderation_sensors = build_moderation_overrides(dataset, start=start)
    with warnings.catch_warnings():
        # Checks of dynamic partitions work, and are marked as a preview.
        warnings.filterwarnings("ignore", "Specifying a partitions_def", dg.PreviewWarning)
        definitions = [
            *build_prompt_sets(dataset),
            *build_generation_requests(dataset),
            *build_generated_images(dataset),
            *build_moderated_images(dataset),
            *build_image_dataset(dataset),
        ]
    checks = [each for each in definitions if isinstance(each, dg.AssetChecksDefinition)]
    sensor_status = dg.DefaultSensorStatus.RUNNING if start else dg.DefaultSensorStatus.STOPPED
    schedule_status = (
        dg.DefaultScheduleStatus.RUNNING if start else dg.DefaultScheduleStatus.STOPPED
    )
    return dg.Definitions(
        assets=[
            *build_source_tables(dataset),
            *(each for each in definitions if each not in checks),
        ],
        asset_checks=checks,
        jobs=[
            job,
            release_job,
            moderation_job,
            build_registration(dataset),
            *build_plan_jobs(dataset),
        ],
        sensors=[
            *build_sensors(dataset, status=sensor_status),
            build_purchase_of_approved(dataset, status=sensor_status),
            *moderation_sensors,
        ],
        schedules=build_schedules(dataset, status=schedule_status),
        resources={
            **resources,
            dataset.named(RELEASE_IO_MANAGER): release_io_manager(dataset),
        },
    )
