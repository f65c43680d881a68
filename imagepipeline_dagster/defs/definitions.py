"""A dataset's definitions, put together."""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from imagepipeline_dagster.defs.batches import build_batch_job
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.drift_canaries import build_drift_canaries
from imagepipeline_dagster.defs.generated_images import build_generated_images
from imagepipeline_dagster.defs.generation_requests import build_generation_requests
from imagepipeline_dagster.defs.hub_dataset import build_hub_dataset
from imagepipeline_dagster.defs.image_dataset import (
    RELEASE_IO_MANAGER,
    build_image_dataset,
    release_io_manager,
)
from imagepipeline_dagster.defs.moderated_images import build_moderated_images
from imagepipeline_dagster.defs.moderation_sensor import build_moderation_overrides
from imagepipeline_dagster.defs.plans import (
    build_approval_job,
    build_plan_job,
    build_purchase_of_approved,
)
from imagepipeline_dagster.defs.prompt_sets import build_prompt_sets
from imagepipeline_dagster.defs.registration import build_registration
from imagepipeline_dagster.defs.release_sensor import build_release_sensor
from imagepipeline_dagster.defs.resource_keys import bound_resources, with_io_manager_of
from imagepipeline_dagster.defs.schedules import build_schedules
from imagepipeline_dagster.defs.sensors import build_embeddings_sensor, build_prompts_sensor
from imagepipeline_dagster.defs.source_tables import build_source_tables
from imagepipeline_dagster.defs.stage import STAGES
from imagepipeline_dagster.moderation.moderating import check_policy
from imagepipeline_dagster.release.columns import FORMAT_VERSION
from imagepipeline_dagster.resources import ImagePipelineResource

# Raised where a stage makes something else of the same input: Dagster then shows all that was made
# as out of date. A new version of the package alone is no reason.
_CODE_VERSION = "1"


def build_definitions(
    dataset: ImageDataset,
    resources: Mapping[str, object],
    *,
    start: bool,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Return a dataset's definitions: seven assets with checks, jobs, sensors and schedules.

    `start` says whether the sensors and schedules run from the beginning; a person can switch each
    of them in the UI. `executor` runs the steps of the jobs. The stages follow one another: in one
    process they cost no start of another. Any other executor gets the shards of a large set.

    Raises:
        ClassifierMissing, HashesMissing: the moderation policy needs what is not installed.
    """
    check_policy(dataset.moderation)
    bound = bound_resources(dataset, resources)
    # Where no step runs beside another, shards would be steps more and nothing else.
    stages = _stages(dataset, in_shards=executor.name != dg.in_process_executor.name)
    checks = [stage for stage in stages if isinstance(stage, dg.AssetChecksDefinition)]
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [
        *build_source_tables(dataset),
        *(stage for stage in stages if stage not in checks),
    ]
    set_job, *other_jobs = _asset_jobs(dataset, executor)
    set_jobs = [set_job, build_batch_job(dataset, bound, executor)]
    status = "RUNNING" if start else "STOPPED"
    sensor_status = dg.DefaultSensorStatus(status)
    moderation_job, moderation_sensor = build_moderation_overrides(dataset, status=sensor_status)
    return dg.Definitions(
        assets=_described(dataset, assets, resources["imagepipeline"]),
        asset_checks=checks,
        jobs=[
            *set_jobs,
            *other_jobs,
            moderation_job,
            build_registration(dataset),
            build_plan_job(dataset),
            build_approval_job(dataset),
        ],
        sensors=[
            build_prompts_sensor(dataset, jobs=set_jobs, status=sensor_status),
            build_embeddings_sensor(dataset, jobs=set_jobs, status=sensor_status),
            build_purchase_of_approved(dataset, status=sensor_status),
            moderation_sensor,
            *build_release_sensor(dataset, status=sensor_status),
        ],
        schedules=build_schedules(dataset, status=dg.DefaultScheduleStatus(status)),
        resources={
            **bound,
            dataset.resource(RELEASE_IO_MANAGER): release_io_manager(dataset),
        },
    )


def _stages(dataset: ImageDataset, *, in_shards: bool) -> list[dg.AssetsDefinition]:
    """Return the assets that this package makes, in the order of the flow, with their checks."""
    with warnings.catch_warnings():
        # Checks of dynamic partitions work, and are marked as a preview.
        warnings.filterwarnings("ignore", "Specifying a partitions_def", dg.PreviewWarning)
        return [
            with_io_manager_of(dataset, definition)
            for definition in (
                *build_prompt_sets(dataset),
                *build_generation_requests(dataset),
                *build_generated_images(dataset, in_shards=in_shards),
                *build_moderated_images(dataset, in_shards=in_shards),
                *build_image_dataset(dataset),
                *build_hub_dataset(dataset),
                *build_drift_canaries(dataset),
            )
        ]


def _asset_jobs(dataset: ImageDataset, executor: dg.ExecutorDefinition) -> list[Any]:
    """Return the jobs that materialize assets; that of the prompt sets comes first."""
    release = ["image_dataset", *(["hub_dataset"] if dataset.release.publish_to else [])]
    canaries = ["drift_canaries"] if dataset.canaries.images else []
    return [
        dg.define_asset_job(
            dataset.named(name),
            selection=dg.AssetSelection.assets(*map(dataset.key, assets)),
            executor_def=executor,
            description=about,
        )
        for name, assets, about in (
            ("materialize_prompt_set", STAGES, "Plans, buys and moderates one prompt set."),
            (
                "release_image_dataset",
                release,
                "Publishes the kept images of all prompt sets, if anything changed.",
            ),
            (
                "buy_canaries",
                canaries,
                "Buys the canaries again, and compares: whether the hosted model drifted.",
            ),
        )
        if assets
    ]


def _described(
    dataset: ImageDataset,
    assets: Iterable[dg.AssetsDefinition | dg.AssetSpec],
    api: object,
) -> list[Any]:
    """Return the assets in their group, with what a team says of all, and who serves them."""
    name, address = "unknown", "an API of its own"
    if isinstance(api, ImagePipelineResource):
        name, address = _emulator_or_host(api), api.served_by
    tags = {**dataset.tags, "imagepipeline/api": name}
    group = dataset.group_name or dataset.named("image_dataset")

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        grouped = spec.replace_attributes(group_name=group)
        more = grouped.merge_attributes(tags=tags, owners=list(dataset.owners))
        if spec.key in sources:
            return more
        # A group has no description in Dagster.
        about = f"{spec.description}\n\nPictures come from {address}."
        code = str(FORMAT_VERSION) if spec.key == dataset.key("image_dataset") else _CODE_VERSION
        return more.replace_attributes(code_version=code, description=about)

    sources = {dataset.key("prompts"), dataset.key("embeddings")}
    return list(dg.map_asset_specs(described, assets))


def _emulator_or_host(api: ImagePipelineResource) -> str:
    host = "emulator" if api.emulated else urlsplit(api.served_by).hostname or "unknown"
    # Dagster takes no other tag: an address has colons, and a cloud's names may be longer.
    return re.sub(r"[^\w.-]+", "_", host, flags=re.ASCII)[:63]
