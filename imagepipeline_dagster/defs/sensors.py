"""The sensors: they watch the tables, keep the partitions in step, and ask for runs."""

import dataclasses
import time
from collections.abc import Iterable, Set

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset, UnresolvedJob
from imagepipeline_dagster.defs.sensor_resources import ledger_of, tables_of
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
from imagepipeline_dagster.tables.fingerprints import SetFingerprint, fingerprint_embeddings
from imagepipeline_dagster.tables.summaries import newest_time
from imagepipeline_dagster.watching.contents import SetContents
from imagepipeline_dagster.watching.looking import (
    FIRST_TICK,
    EmbeddingsWatch,
    Observation,
    Watch,
    new_tick,
    observe,
)
from imagepipeline_dagster.watching.partitions import TooManyGone, partition_changes
from imagepipeline_dagster.watching.states import AskedRun, PromptSetStates

__all__ = ["build_sensors", "run_request"]


def build_sensors(
    dataset: ImageDataset, job: UnresolvedJob, *, status: dg.DefaultSensorStatus
) -> list[dg.SensorDefinition]:
    """Return both sensors."""

    @dg.sensor(
        name=dataset.named("prompts_sensor"),
        job=job,
        minimum_interval_seconds=dataset.sensor_seconds,
        default_status=status,
        description="Adds and removes prompt sets, and asks for runs of those whose rows changed.",
    )
    def prompts_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        source = tables_of(context).watched(dataset.prompts, dataset.embeddings)
        watch, now = Watch.read(context.cursor), time.time()
        newest = newest_time(source)
        if watch.is_quiet(newest, now=now, tiers=dataset.tiers):
            return dg.SkipReason("no row changed")
        tick = f"prompts {watch.tick}"
        present = set(context.instance.get_dynamic_partitions(dataset.named("prompt_set")))
        with ledger_of(context).open() as ledger:
            contents = SetContents(ledger, dataset=dataset.name)
            states = _states(ledger, dataset, "prompts", watch.tick)
            seen = observe(source, contents, watch, newest=newest, now=now, tiers=dataset.tiers)
            added, removed = _partition_changes(dataset, seen, present)
            if seen.all_sets:
                contents.keep_only(seen.sets)
                if unassigned := source.unassigned_count():
                    context.log.warning(
                        "%d rows of the prompts table name no prompt_set", unassigned
                    )
            repeated = {run.prompt_set for run in states.asked_in(tick)}
            # What is new to this instance was never made on it, whatever an older one knew.
            states.forget({prompt_set_of(key) for key in (*added, *removed)} - repeated)
            there = present.union(added).difference(removed)
            if seen.all_sets:
                # A set that was asked for in a tick that got lost may be gone without a partition.
                states.keep_only({prompt_set_of(key) for key in there})
            states.settle()
            waiting = _in_partitions(states.wanting_for_prompts(), there)
            runs = states.ask_for(waiting, tick=tick, at_most=dataset.max_runs_per_tick)
            unreported = _in_partitions(states.unreported(tick), there)
            reported = unreported[: dataset.max_runs_per_tick]
            states.note_reported(reported, tick=tick)
        left = len(waiting) + len(repeated) > len(runs) or len(unreported) > len(reported)
        quiet = not (runs or added or removed)
        return dg.SensorResult(
            skip_reason=f"nothing changed in {seen.watch.rows} rows" if quiet else None,
            run_requests=[run_request(dataset, run) for run in runs],
            dynamic_partitions_requests=[
                dataset.partitions.build_add_request(added),
                dataset.partitions.build_delete_request(removed),
            ],
            asset_events=[
                dg.AssetMaterialization(
                    dataset.key("prompts"),
                    partition=partition_key(each.prompt_set),
                    metadata={"dagster/row_count": each.rows},
                    tags={"dagster/data_version": each.prompts},
                )
                for each in reported
            ],
            cursor=dataclasses.replace(seen.watch, tick=new_tick(), waiting=left).text(),
        )

    @dg.sensor(
        name=dataset.named("embeddings_sensor"),
        job=job,
        minimum_interval_seconds=dataset.sensor_seconds,
        default_status=status,
        description="Asks for runs of the prompt sets whose embeddings changed.",
    )
    def embeddings_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        source = tables_of(context).watched(dataset.prompts, dataset.embeddings)
        watch, now = EmbeddingsWatch.read(context.cursor), time.time()
        embeddings = source.embeddings()
        version = fingerprint_embeddings(embeddings)
        if watch.is_quiet(version, now=now, tiers=dataset.tiers):
            return dg.SkipReason("no embedding changed")
        tick = f"embeddings {watch.tick}"
        there = set(context.instance.get_dynamic_partitions(dataset.named("prompt_set")))
        with ledger_of(context).open() as ledger:
            contents = SetContents(ledger, dataset=dataset.name)
            states = _states(ledger, dataset, "embeddings", watch.tick)
            contents.use_embeddings(embeddings)
            waiting = _in_partitions(states.wanting_for_embeddings(), there)
            some = {each.prompt_set for each in waiting[: dataset.max_runs_per_tick]}
            # Their rows may have changed too: that is to be one run.
            contents.look_at(source, some)
            states.settle()
            wanting = (each for each in states.wanting_for_embeddings() if each.prompt_set in some)
            runs = states.ask_for(wanting, tick=tick, at_most=dataset.max_runs_per_tick)
        event = dg.AssetMaterialization(
            dataset.key("embeddings"), tags={"dagster/data_version": version}
        )
        return dg.SensorResult(
            skip_reason=None if runs else "no prompt set's embeddings changed",
            run_requests=[run_request(dataset, run) for run in runs],
            asset_events=[event] if version != watch.version else [],
            cursor=EmbeddingsWatch(
                tick=new_tick(),
                version=version,
                looked_at=now,
                waiting=len(waiting) > len(some),
            ).text(),
        )

    return [prompts_sensor, embeddings_sensor]


def _states(ledger: Ledger, dataset: ImageDataset, sensor: str, tick: str) -> PromptSetStates:
    states = PromptSetStates(ledger, dataset=dataset.name)
    # A later tick has a cursor, so the first was done with. Where a person resets the sensor, the
    # next first tick is another, and must not repeat what this one asked for.
    if tick != FIRST_TICK:
        states.close_tick(f"{sensor} {FIRST_TICK}")
    return states


def run_request(dataset: ImageDataset, run: AskedRun) -> dg.RunRequest:
    """Return the request for a run that was asked for: always the same, and no other run's."""
    key = partition_key(run.prompt_set)
    # Attempts start anew with a set that came back, or with a new ledger, and Dagster drops a key
    # that it has ever seen: the moment tells them apart.
    asked_at = run.asked_at.isoformat(timespec="milliseconds")
    return dg.RunRequest(
        run_key=f"{dataset.name}/{key}/{run.content}/{run.attempt}/{asked_at}", partition_key=key
    )


def _in_partitions(sets: Iterable[SetFingerprint], there: Set[str]) -> list[SetFingerprint]:
    return [each for each in sets if partition_key(each.prompt_set) in there]


def _partition_changes(
    dataset: ImageDataset, seen: Observation, present: Set[str]
) -> tuple[list[str], list[str]]:
    try:
        return partition_changes(
            seen,
            present,
            table=dataset.prompts.table,
            keep=dataset.on_removed == "keep",
            max_removed_share=dataset.max_removed_share,
        )
    except TooManyGone as error:
        raise dg.Failure(str(error)) from error
