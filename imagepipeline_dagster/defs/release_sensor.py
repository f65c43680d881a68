"""The sensor that asks for a release once changed sets are quiet.

Declarative automation knows no quiet period, and would look at every partition at each tick.
"""

import hashlib
import time
from collections.abc import Iterator

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.internals import (
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
)
from imagepipeline_dagster.defs.moderated_images import MODERATED_IMAGES_CHECKS
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.under_way import partitions_in_use
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.release.on_change import ChangedSet, ReleasedDataset, watch_changes
from imagepipeline_dagster.release.reading import latest_manifest
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.storage.contract import Storage


def build_release_sensor(
    dataset: ImageDataset, *, status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """Return the sensor, where the dataset is released on change."""
    if not dataset.release.on_change:
        return []

    @dg.sensor(
        name=dataset.named("image_dataset_sensor"),
        job_name=dataset.named("release_image_dataset"),
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=status,
        description="Asks for a release once sets changed and passed their blocking checks, or are "
        f"gone, and all were quiet for {dataset.release.quiet_minutes:g} minutes.",
    )
    @with_resources_of(dataset)
    def image_dataset_sensor(
        context: dg.SensorEvaluationContext, storage: StorageResource
    ) -> dg.SensorResult:
        instance = context.instance
        tick = watch_changes(
            ReleasedDataset(
                newest=lambda: _newest(dataset, instance),
                changed_after=lambda event: _changed_after(dataset, instance, event),
                sets=lambda: _sets(dataset, instance),
                lacks_sets=lambda: _lacks_sets(dataset, instance, storage.open()),
                under_way=lambda: bool(
                    partitions_in_use(instance, dataset.partitions_in(instance))
                ),
                quiet_seconds=60 * dataset.release.quiet_minutes,
                clock=time.time,
            ),
            context.cursor,
        )
        cursor = tick.seen.model_dump_json()
        run = dg.RunRequest(run_key=f"{dataset.name}/release/{cursor}")
        return dg.SensorResult(
            skip_reason=tick.why or None,
            run_requests=[run] if tick.asks else [],
            cursor=cursor,
        )

    return [image_dataset_sensor]


def _newest(dataset: ImageDataset, instance: dg.DagsterInstance) -> float | None:
    """Return when verdicts were last stored or checked."""
    stored = instance.fetch_materializations(dataset.key("moderated_images"), limit=1).records
    checked = instance.event_log_storage.get_latest_asset_check_execution_by_key(_checks(dataset))
    times = [
        *(record.timestamp for record in stored),
        *(record.event.timestamp for record in checked.values() if record.event),
    ]
    return max(times, default=None)


def _checks(dataset: ImageDataset) -> list[dg.AssetCheckKey]:
    """Return the blocking checks of a set's verdicts."""
    key = dataset.key("moderated_images")
    return [
        dg.AssetCheckKey(key, check.name) for check in MODERATED_IMAGES_CHECKS if check.blocking
    ]


def _changed_after(
    dataset: ImageDataset, instance: dg.DagsterInstance, event: int
) -> Iterator[ChangedSet]:
    """Yield the sets whose verdicts were stored or checked after an event."""
    checks: dict[str | None, list[AssetCheckPartitionInfo]] = {}
    storage = instance.event_log_storage
    for check in storage.get_asset_check_partition_info(_checks(dataset), event):
        checks.setdefault(check.partition_key, []).append(check)
    for of_set in checks.values():
        yield ChangedSet(
            event=max(check.latest_check_event_storage_id for check in of_set),
            passes=all(
                check.latest_execution_status is AssetCheckExecutionRecordStatus.SUCCEEDED
                for check in of_set
            ),
        )


def _sets(dataset: ImageDataset, instance: dg.DagsterInstance) -> str:
    """Return a digest of the sets that there are, and of which release is the newest."""
    released = instance.fetch_materializations(dataset.key("image_dataset"), limit=1).records
    newest = [str(record.storage_id) for record in released]
    text = "\n".join([*newest, *sorted(dataset.partitions_in(instance))])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _lacks_sets(dataset: ImageDataset, instance: dg.DagsterInstance, storage: Storage) -> bool:
    """Tell whether the newest release has pictures of sets that are gone."""
    release = latest_manifest(storage, dataset.releases)
    held = set(map(partition_key, release.kept_sets if release else ()))
    return not held <= dataset.partitions_in(instance)
