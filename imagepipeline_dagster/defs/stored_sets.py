"""The stored tables of all prompt sets, as a release takes them: one set after the other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dagster as dg
import pyarrow as pa

from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.io_manager import table_path
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.release.readiness import AskedFor, StoredSet
from imagepipeline_dagster.rows import StoredTable, arrow_schema, rows_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_STAGES = ("prompt_sets", "moderated_images")
_DATA_VERSION = "dagster/data_version"
_READERS = 8  # a bucket answers each read after tens of milliseconds


def data_versions(
    dataset: ImageDataset, instance: dg.DagsterInstance
) -> dict[str, dict[str, str | None]]:
    """Return the data versions of all sets' tables."""
    partitions = instance.get_dynamic_partitions(dataset.partitions.name or "")
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
    partitions = sorted(
        instance.get_dynamic_partitions(dataset.partitions.name or ""), key=prompt_set_of
    )
    moderated, asked = (
        partial(_table, storage, dataset.key(stage), columns)
        for stage, columns in (
            # Where the bytes are follows from their hash.
            ("moderated_images", [n for n in arrow_schema(ModeratedImage).names if n != "uri"]),
            ("prompt_sets", arrow_schema(AskedFor).names),
        )
    )
    with ThreadPoolExecutor(_READERS) as readers:
        for some in batches(partitions):
            tables = zip(readers.map(moderated, some), readers.map(asked, some), strict=True)
            for samples, prompts in tables:
                if samples is None or not samples.num_rows:
                    continue
                rows = rows_of(samples, ModeratedImage)
                yield StoredSet(
                    name=rows[0].prompt_set,
                    samples=rows,
                    prompts=[] if prompts is None else rows_of(prompts, AskedFor),
                )


def _table(
    storage: Storage, key: dg.AssetKey, columns: list[str], partition: str
) -> pa.Table | None:
    try:
        return StoredTable(storage.read(table_path(key, partition))).columns(*columns)
    except ObjectMissing:
        return None  # it was not made yet
