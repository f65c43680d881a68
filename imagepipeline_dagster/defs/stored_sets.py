"""The stored tables of all prompt sets, as a release takes them: one set after the other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.io_manager import table_path
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.release.readiness import AskedFor, StoredSet
from imagepipeline_dagster.rows import RowT, StoredTable, arrow_schema, rows_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_STAGES = ("prompt_sets", "moderated_images")
_DATA_VERSION = "dagster/data_version"
_READ_AHEAD = 64  # sets


def data_versions(
    dataset: ImageDataset, instance: dg.DagsterInstance
) -> dict[str, dict[str, str | None]]:
    """Return the data versions of all sets' tables."""
    partitions = dataset.partitions_in(instance)
    versions: dict[str, dict[str, str | None]] = {}
    for stage in _STAGES:
        # The instance itself would ask for one partition after the other.
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            dataset.key(stage), dg.DagsterEventType.ASSET_MATERIALIZATION, [_DATA_VERSION]
        )
        versions[stage] = {key: tags.get(key, {}).get(_DATA_VERSION) for key in partitions}
    return versions


def stored_sets(
    dataset: ImageDataset, instance: dg.DagsterInstance, storage: Storage
) -> Iterator[StoredSet]:
    """Yield the sets that have verdicts, sorted by name; few of them are held at once."""
    partitions = sorted(dataset.partitions_in(instance), key=prompt_set_of)
    read = partial(_stored_set, dataset, storage)
    with ThreadPoolExecutor(storage.reads_at_once) as readers:
        for start in range(0, len(partitions), _READ_AHEAD):
            yield from filter(None, readers.map(read, partitions[start : start + _READ_AHEAD]))


def _stored_set(dataset: ImageDataset, storage: Storage, partition: str) -> StoredSet | None:
    asked_path, moderated_path = (table_path(dataset.key(stage), partition) for stage in _STAGES)
    moderated = _rows(storage, moderated_path, ModeratedImage)
    if not moderated:
        return None
    return StoredSet(
        name=moderated[0].prompt_set,
        samples=moderated,
        prompts=_rows(storage, asked_path, AskedFor),
    )


def _rows(storage: Storage, path: str, row_type: type[RowT]) -> list[RowT]:
    # Where the bytes are follows from their hash.
    columns = [name for name in arrow_schema(row_type).names if name != "uri"]
    try:
        return rows_of(StoredTable(storage.read(path)).columns(*columns), row_type)
    except ObjectMissing:
        return []  # it was not made yet
