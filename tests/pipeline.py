"""One image dataset on a temporary Dagster instance, driven as the daemon would drive it."""

from __future__ import annotations

import atexit
import datetime as dt
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import sqlalchemy as sa
from dagster._core.definitions.sensor_definition import SensorExecutionData

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.cli.demo import change_partitions
from imagepipeline_dagster.defs.resource_keys import bound_resources
from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.tables.creating import create_tables
from tests.tables.filling import insert, run_sql

STAGES = ("prompt_sets", "generation_requests", "generated_images", "moderated_images")
SENSORS = ("prompts_sensor", "embeddings_sensor")

_UNTOLD = {"telemetry": {"enabled": False}}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


_BOUND: dict[tuple[int, ...], tuple[object, dict[str, dg.ResourceDefinition]]] = {}


@dataclass(kw_only=True)
class Pipeline:
    """A dataset's definitions, the instance that they run on, and the tables behind them."""

    instance: dg.DagsterInstance
    definitions: dg.Definitions
    dataset: ImageDataset
    resources: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        self.cursors: dict[str, str | None] = {}
        self.repository = self.definitions.get_repository_def()

    # The tables

    @property
    def tables_url(self) -> str:
        """The URL of the two tables."""
        url: str = self.resources["tables"].url
        return url

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger."""
        url: str = self.resources["ledger"].url
        return url

    def sql(self, statement: str, **values: object) -> list[sa.Row[Any]]:
        """Run a statement on the tables' database as somebody would who edits them."""
        return run_sql(self.tables_url, statement, **values)

    def add(self, prompt_set: str | None, prompt_id: str, prompt: str = "", **row: object) -> None:
        """Add a row to the prompts table: a small picture of a boat unless told otherwise."""
        values: dict[str, object] = {
            "prompt_set": prompt_set,
            "prompt_id": prompt_id,
            "prompt": prompt or f"a boat called {prompt_id}",
            "width": 64,
            "height": 64,
            **row,
        }
        insert(self.tables_url, "prompts", values)

    def add_embedding(self, embedding_id: str, **row: object) -> None:
        """Add a row to the embeddings table."""
        insert(self.tables_url, "embeddings", {"embedding_id": embedding_id, "version": "1", **row})

    # The daemon

    @property
    def bound(self) -> dict[str, dg.ResourceDefinition]:
        """The resources under their Dagster keys, the same at each tick as in a code location."""
        parts = (self.dataset, *self.resources.values())
        key = tuple(map(id, parts))
        if key not in _BOUND:
            # With what it is made of: an id is used again once its object is gone.
            _BOUND[key] = (parts, bound_resources(self.dataset, self.resources))
        return _BOUND[key][1]

    def _asked_of(
        self, definition: dg.SensorDefinition | dg.ScheduleDefinition
    ) -> dict[str, dg.ResourceDefinition]:
        # As in a code location nothing else is made; these two, the sensors look up by themselves.
        looked_up = {self.dataset.resource(name) for name in ("tables", "ledger")}
        return {key: self.bound[key] for key in definition.required_resource_keys | looked_up}

    def evaluate(self, sensor: str) -> SensorExecutionData:
        """Evaluate a sensor without doing what it asks for."""
        name = self.dataset.named(sensor)
        definition = self.repository.get_sensor_def(name)
        # By the reference alone it would open another instance for each tick.
        with dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            repository_def=self.repository,
            resources=self._asked_of(definition),
            cursor=self.cursors.get(name),
        ) as context:
            found = definition.evaluate_tick(context)
        self.cursors[name] = found.cursor
        return found

    def tick(self, *sensors: str) -> list[dg.RunRequest]:
        """Evaluate sensors, do what they ask of the partitions; return the runs."""
        asked: list[dg.RunRequest] = []
        for sensor in sensors or SENSORS:
            result = self.evaluate(sensor)
            change_partitions(result.dynamic_partitions_requests or (), self.instance)
            for event in result.asset_events or ():
                self.instance.report_runless_asset_event(event)
            asked += result.run_requests or ()
        return asked

    def reconcile(self, *, at: dt.datetime | None = None) -> list[dg.RunRequest]:
        """Evaluate the reconcile schedule."""
        schedule = self.repository.get_schedule_def(self.dataset.named("reconcile_schedule"))
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=self.repository,
            resources=self._asked_of(schedule),
            scheduled_execution_time=at or dt.datetime.now(dt.UTC),
        ) as context:
            return list(schedule.evaluate_tick(context).run_requests or ())

    def run(self, key: str, *, ok: bool = True) -> dg.ExecuteInProcessResult:
        """Execute the job of one prompt set, which must succeed unless told otherwise."""
        job = self.definitions.resolve_job_def(self.dataset.named("materialize_prompt_set"))
        result = job.execute_in_process(
            instance=self.instance, partition_key=key, run_config=_QUIET, raise_on_error=False
        )
        assert result.success is ok, failure_of(result)
        return result

    def sync(self) -> dict[str, dg.ExecuteInProcessResult]:
        """Tick, and execute the runs that were asked for; return them by partition."""
        return {str(run.partition_key): self.run(str(run.partition_key)) for run in self.tick()}

    def release(self, *, ok: bool = True) -> dg.ExecuteInProcessResult:
        """Execute the job of the release."""
        job = self.definitions.resolve_job_def(self.dataset.named("release_image_dataset"))
        result = job.execute_in_process(
            instance=self.instance, run_config=_QUIET, raise_on_error=False
        )
        assert result.success is ok, failure_of(result)
        return result

    # What came of it

    @property
    def partitions(self) -> list[str]:
        """The partition keys, sorted."""
        return sorted(self.instance.get_dynamic_partitions(self.dataset.named("prompt_set")))

    def table(self, stage: str, key: str) -> pd.DataFrame:
        """Return a stage's stored table."""
        with self.definitions.get_asset_value_loader(self.instance) as loader:
            frame = loader.load_asset_value(self.dataset.key(stage), partition_key=key)
        assert isinstance(frame, pd.DataFrame)
        return frame

    def ledger_rows(self) -> list[dict[str, Any]]:
        """Return the ledger's requests."""
        return [dict(row._mapping) for row in self.ledger_sql("SELECT * FROM ledger_requests")]

    def ledger_sql(self, statement: str, **values: object) -> list[sa.Row[Any]]:
        """Run a statement on the ledger's database as somebody would who mends it."""
        return run_sql(self.ledger_url, statement, **values)


@cache
def _empty_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="imagepipeline-home-"))
    atexit.register(shutil.rmtree, home)
    with dg.DagsterInstance.local_temp(str(home), overrides=_UNTOLD) as instance:
        instance.add_dynamic_partitions("none", ["none"])
        instance.get_runs()
        instance.all_logs("")  # the events of no run have a database of their own
    return home


def api_of(emulator: EmulatorServer) -> ImagePipelineResource:
    """Return the resource that buys from an emulator as from the vendor, and asks early."""
    return ImagePipelineResource(
        api_key=emulator.settings.api_key, base_url=emulator.url, poll_min_seconds=0.02
    )


@contextmanager
def open_pipeline(
    folder: Path,
    *,
    dataset: ImageDataset | None = None,
    samples: bool = False,
    api: ImagePipelineResource | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
    **options: Any,  # noqa: ANN401 - those of `resources_for`
) -> Iterator[Pipeline]:
    """Give a dataset on empty tables (or the samples) and an instance of its own."""
    resources = resources_for(**{"storage_uri": str(folder / "data"), **options})
    # Asks early: the emulator is quick, and so are the tests then.
    resources["imagepipeline"] = api or ImagePipelineResource(
        poll_min_seconds=0.02, poll_max_seconds=0.2
    )
    if not samples:
        create_tables(resources["tables"].url)
    chosen = dataset or ImageDataset()
    home = folder / "home"
    # Making an instance's databases takes a second, copying them does not.
    shutil.copytree(_empty_home(), home)
    with dg.DagsterInstance.local_temp(str(home), overrides=_UNTOLD) as instance:
        yield Pipeline(
            instance=instance,
            definitions=build_definitions(chosen, resources, start=True, executor=executor),
            dataset=chosen,
            resources=resources,
            folder=folder,
        )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Return what the steps that failed said."""
    errors = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            errors.append(data.error_display_string)
    return "\n".join(errors)


def figures(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Return the metadata of a run's materializations, later stages over earlier ones."""
    return {
        name: value.value
        for event in result.get_asset_materialization_events()
        for name, value in event.materialization.metadata.items()
    }


def metadata_of(result: dg.ExecuteInProcessResult, stage: str) -> Mapping[str, dg.MetadataValue]:
    """Return the metadata of one stage's materialization."""
    (event,) = result.asset_materializations_for_node(stage)
    return event.metadata


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the data version of each stage in a run."""
    return {
        str(event.asset_key.path[-1]): event.materialization.tags["dagster/data_version"]
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.materialization.tags
    }


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return a run's check evaluations by name."""
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def partition_keys(requests: Sequence[dg.RunRequest]) -> list[str]:
    """Return the partitions of run requests, sorted."""
    return sorted(str(request.partition_key) for request in requests)
