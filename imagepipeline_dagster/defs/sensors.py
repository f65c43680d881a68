"""The sensors: they read a cursor, and hand on what a tick found."""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.batches import run_config_of
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.sensor_resources import ledger_of, tables_of
from imagepipeline_dagster.defs.under_way import partitions_in_use
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.tables.fingerprints import SetFingerprint
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.watching.partitions import TooManyGone
from imagepipeline_dagster.watching.states import AskedRun
from imagepipeline_dagster.watching.ticks import WatchedDataset, watch_embeddings, watch_prompts


def build_prompts_sensor(
    dataset: ImageDataset, *, jobs: Sequence[Any], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Return the sensor of the prompts, which asks for runs of these jobs: of one set, of many."""

    @dg.sensor(
        name=dataset.named("prompts_sensor"),
        jobs=jobs,
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=status,
        description="Adds and removes prompt sets, and asks for runs of those whose rows changed.",
    )
    def prompts_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            tick = watch_prompts(_watched(context, dataset), context.cursor)
        except TooManyGone as error:
            raise dg.Failure(str(error)) from error
        if tick is None:
            return dg.SkipReason("no row changed")
        if tick.unassigned:
            context.log.warning("%d rows of the prompts table name no prompt_set", tick.unassigned)
        if tick.misleading:
            context.log.warning(
                "%s: newer rows are noticed by the audit, and not by a tick", tick.misleading
            )
        if tick.in_use:
            context.log.info(
                "%d prompt sets left the table; their partitions go once no run and no backfill "
                "under way names them",
                len(tick.in_use),
            )
        return dg.SensorResult(
            skip_reason=f"nothing changed in {tick.rows} rows" if tick.is_quiet else None,
            run_requests=[_request_of(dataset, runs) for runs in tick.runs],
            dynamic_partitions_requests=[
                dataset.partitions.build_add_request(tick.added),
                dataset.partitions.build_delete_request(tick.removed),
            ],
            asset_events=[_report_of(dataset, content) for content in tick.reported],
            cursor=tick.cursor,
        )

    return prompts_sensor


def build_embeddings_sensor(
    dataset: ImageDataset, *, jobs: Sequence[Any], status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Return the sensor of the embeddings, which asks for runs of the same jobs."""

    @dg.sensor(
        name=dataset.named("embeddings_sensor"),
        jobs=jobs,
        minimum_interval_seconds=dataset.watching.sensor_seconds,
        default_status=status,
        description="Asks for runs of the prompt sets whose embeddings changed.",
    )
    def embeddings_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        tick = watch_embeddings(_watched(context, dataset), context.cursor)
        if tick is None:
            return dg.SkipReason("no embedding changed")
        event = dg.AssetMaterialization(
            dataset.key("embeddings"), tags={"dagster/data_version": tick.version or ""}
        )
        return dg.SensorResult(
            skip_reason=None if tick.runs else "no prompt set's embeddings changed",
            run_requests=[_request_of(dataset, runs) for runs in tick.runs],
            asset_events=[event] if tick.version else [],
            cursor=tick.cursor,
        )

    return embeddings_sensor


def _watched(context: dg.SensorEvaluationContext, dataset: ImageDataset) -> WatchedDataset:
    return watched_dataset(
        dataset,
        tables=tables_of(context, dataset).watched(dataset.prompts, dataset.embeddings),
        # Opened at the first use: a tick without a change needs neither ledger nor instance.
        open_ledger=lambda: ledger_of(context, dataset).open(),
        instance=lambda: context.instance,
    )


def watched_dataset(
    dataset: ImageDataset,
    *,
    tables: SourceTables,
    open_ledger: Callable[[], AbstractContextManager[Ledger]],
    instance: Callable[[], dg.DagsterInstance],
) -> WatchedDataset:
    """Return a dataset as its ticks see it."""
    return WatchedDataset(
        name=dataset.name,
        tables=tables,
        open_ledger=open_ledger,
        partitions=lambda: dataset.partitions_in(instance()),
        partitions_in_use=lambda: partitions_in_use(instance(), dataset.partitions_in(instance())),
        options=dataset.watching,
        clock=time.time,
    )


def run_request(dataset: ImageDataset, run: AskedRun) -> dg.RunRequest:
    """Return the request for a run that was asked for: always the same, and no other run's."""
    key = partition_key(run.prompt_set)
    # Attempts start anew with a set that came back, or with a new ledger, and Dagster drops a key
    # that it has ever seen: the moment tells them apart.
    asked_at = run.asked_at.isoformat(timespec="milliseconds")
    return dg.RunRequest(
        run_key=f"{dataset.name}/{key}/{run.content}/{run.attempt}/{asked_at}",
        partition_key=key,
        job_name=dataset.named("materialize_prompt_set"),
    )


def _request_of(dataset: ImageDataset, runs: Sequence[AskedRun]) -> dg.RunRequest:
    """Return the request for a run of one set, or of several."""
    if len(runs) == 1:
        return run_request(dataset, runs[0])
    keys = "\n".join(str(run_request(dataset, run).run_key) for run in runs)
    return dg.RunRequest(
        run_key=f"{dataset.name} {hashlib.sha256(keys.encode()).hexdigest()}",
        job_name=dataset.named("materialize_batch"),
        run_config=run_config_of(dataset, [run.prompt_set for run in runs]),
    )


def _report_of(dataset: ImageDataset, content: SetFingerprint) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        dataset.key("prompts"),
        partition=partition_key(content.prompt_set),
        metadata={"dagster/partition_row_count": content.rows},
        tags={"dagster/data_version": content.prompts},
    )
