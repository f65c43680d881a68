"""The sensors: they watch the tables, keep the partitions in step, and ask for runs."""

import datetime as dt
from collections.abc import Callable, Mapping

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset, UnresolvedJob
from imagepipeline_dagster.generation.reconciling import (
    PromptSetState,
    PromptSetStates,
    is_built,
    wants_run_for_embeddings,
    wants_run_for_prompts,
)
from imagepipeline_dagster.resources import LedgerResource, TablesResource
from imagepipeline_dagster.tables.fingerprints import (
    SetFingerprint,
    fingerprint_embeddings,
    fingerprint_sets,
)
from imagepipeline_dagster.tables.names import partition_key, prompt_set_of
from imagepipeline_dagster.tables.reading import SourceTables

__all__ = ["build_sensors", "run_request", "with_partitions"]

# Removing so few partitions is never taken for a table truncated by accident.
_FEW_SETS = 2

_Wants = Callable[[SetFingerprint, PromptSetState | None], bool]


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
    def prompts_sensor(
        context: dg.SensorEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SensorResult:
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            desired = fingerprint_sets(source)
            _report_unassigned(context, source)
        added, removed = _partition_changes(dataset, context.instance, desired)
        with ledger.open() as opened:
            states = PromptSetStates(opened, dataset=dataset.name)
            # What is new to this instance was never made on it, whatever an older one knew.
            states.forget(prompt_set_of(key) for key in (*added, *removed))
            requests, changed = _ask_for_runs(dataset, states, desired, wants_run_for_prompts)
        quiet = not (requests or added or removed)
        return dg.SensorResult(
            skip_reason=f"nothing changed in {len(desired)} prompt sets" if quiet else None,
            run_requests=requests,
            dynamic_partitions_requests=[
                dataset.partitions.build_add_request(added),
                dataset.partitions.build_delete_request(removed),
            ],
            asset_events=[
                dg.AssetMaterialization(
                    dataset.key("prompts"),
                    partition=partition_key(found.prompt_set),
                    metadata={"dagster/row_count": found.rows},
                    tags={"dagster/data_version": found.prompts},
                )
                for found in changed
            ],
        )

    @dg.sensor(
        name=dataset.named("embeddings_sensor"),
        job=job,
        minimum_interval_seconds=dataset.sensor_seconds,
        default_status=status,
        description="Asks for runs of the prompt sets whose embeddings changed.",
    )
    def embeddings_sensor(
        context: dg.SensorEvaluationContext, tables: TablesResource, ledger: LedgerResource
    ) -> dg.SensorResult:
        with tables.open(dataset.prompts, dataset.embeddings) as source:
            desired = with_partitions(dataset, context.instance, fingerprint_sets(source))
            version = fingerprint_embeddings(source.embeddings())
        with ledger.open() as opened:
            states = PromptSetStates(opened, dataset=dataset.name)
            requests, _ = _ask_for_runs(dataset, states, desired, wants_run_for_embeddings)
        event = dg.AssetMaterialization(
            dataset.key("embeddings"), tags={"dagster/data_version": version}
        )
        return dg.SensorResult(
            skip_reason=None if requests else "no prompt set's embeddings changed",
            run_requests=requests,
            asset_events=[event] if version != context.cursor else [],
            cursor=version,
        )

    return [prompts_sensor, embeddings_sensor]


def run_request(dataset: ImageDataset, desired: SetFingerprint, *, attempt: int) -> dg.RunRequest:
    """Return the request for a run of one prompt set; its key is never used again."""
    key = partition_key(desired.prompt_set)
    # Attempts start anew with a set that came back, or with a new ledger, and Dagster drops a key
    # that it has ever seen: the moment tells them apart.
    asked_at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return dg.RunRequest(
        run_key=f"{dataset.name}/{key}/{desired.content}/{attempt}/{asked_at}", partition_key=key
    )


def with_partitions(
    dataset: ImageDataset, instance: dg.DagsterInstance, desired: Mapping[str, SetFingerprint]
) -> dict[str, SetFingerprint]:
    """Return the sets that have a partition: the prompts sensor sees to the others first."""
    present = set(instance.get_dynamic_partitions(dataset.named("prompt_set")))
    return {name: found for name, found in desired.items() if partition_key(name) in present}


def _ask_for_runs(
    dataset: ImageDataset,
    states: PromptSetStates,
    desired: Mapping[str, SetFingerprint],
    wants: _Wants,
) -> tuple[list[dg.RunRequest], list[SetFingerprint]]:
    """Return runs for the sets that want one, as many as a tick may ask for, and those sets."""
    known = states.all()
    states.settle(
        (found for name, found in desired.items() if is_built(found, known.get(name))), known
    )
    wanted = [found for name, found in desired.items() if wants(found, known.get(name))]
    requests, asked = [], []
    for found in wanted[: dataset.max_runs_per_tick]:
        attempt = states.ask(found)
        if attempt is not None:
            requests.append(run_request(dataset, found, attempt=attempt))
            asked.append(found)
    return requests, asked


def _partition_changes(
    dataset: ImageDataset, instance: dg.DagsterInstance, desired: Mapping[str, SetFingerprint]
) -> tuple[list[str], list[str]]:
    """Return the partition keys to add and to remove.

    Raises:
        Failure: more would be removed than a slip of the hand should be able to.
    """
    present = set(instance.get_dynamic_partitions(str(dataset.partitions.name)))
    wanted = {partition_key(name) for name in desired}
    removed = sorted(present - wanted) if dataset.on_removed == "remove" else []
    too_many = dataset.max_removed_share * len(present)
    if len(removed) > max(_FEW_SETS, too_many):
        raise dg.Failure(
            f"{len(removed)} of {len(present)} prompt sets are gone from the table "
            f"{dataset.prompts.table!r}. Nothing was removed: is the table whole? If they are to "
            "go, delete their partitions in the UI, or set max_removed_share=1.0 on the dataset."
        )
    return sorted(wanted - present), removed


def _report_unassigned(context: dg.SensorEvaluationContext, source: SourceTables) -> None:
    if unassigned := source.unassigned_count():
        context.log.warning("%d rows of the prompts table name no prompt_set", unassigned)
