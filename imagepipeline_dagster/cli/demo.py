"""`imagepipeline-dagster demo`: sample tables become a dataset, an edit buys just what it touches.

It does in one process what the daemon does in several: it evaluates the sensors, applies what they
ask of the partitions, executes their runs on the real instance, and publishes the release. It is
always on the emulator: nothing is ever bought.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import dagster as dg
from rich import box
from rich.console import Console
from rich.table import Table

import imagepipeline_dagster as package
from imagepipeline_dagster import environment
from imagepipeline_dagster.cli.terminal import plain_errors
from imagepipeline_dagster.tables import samples

# What a stage's metadata is called, and what the table calls it.
_COLUMNS = {
    "requested": "requested",
    "reused": "reused",
    "bought": "bought",
    "kept": "kept",
    "rejected": "rejected",
    "quarantined": "quarantined",
    "api_calls": "API\ncalls",
    "seconds": "seconds",
}
_SENSORS = ("prompts_sensor", "embeddings_sensor")
_QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


_Run = tuple[str, dict[str, Any]]
"""The partition key of a run, and what its stages said in their metadata."""


@click.command()
def demo() -> None:
    """Make a dataset from the sample tables, edit them, and watch what is bought again."""
    for variable in (environment.API_KEY, environment.TABLES_URL):
        if os.environ.get(variable):
            raise click.ClickException(
                f"the demo edits sample tables and runs on the emulator: unset {variable}"
            )
    if not os.environ.get("DAGSTER_HOME"):
        os.environ["DAGSTER_HOME"] = str(_own_home())
    home = Path(os.environ["DAGSTER_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with plain_errors(), dg.DagsterInstance.from_config(str(home)) as instance:
        _run(instance, os.environ.get(environment.STORAGE) or "data", Console())


def _own_home() -> Path:
    """Return the folder of a Dagster instance of the demo's own, made with the first demo."""
    home = Path(".dagster").absolute()
    home.mkdir(exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text("telemetry:\n  enabled: false\n")
    return home


def _run(instance: dg.DagsterInstance, storage_uri: str, console: Console) -> None:
    resources = environment.resources_for(storage_uri=storage_uri)
    definitions = package.build_definitions(package.ImageDataset(), resources, start=True)
    daemon = _Daemon(definitions, instance, console)
    tables_url = resources["tables"].url
    started = time.monotonic()

    console.rule("1  The tables, as they are")
    daemon.tick()
    daemon.release()

    console.rule("2  One prompt and one embedding edited")
    for edit in (samples.edit_sample_prompt, samples.edit_sample_embedding):
        console.print(f"  {edit(tables_url)}", markup=False, highlight=False)
    daemon.tick()
    dataset = daemon.release()

    console.print()
    console.print(f"The dataset is at {dataset}", markup=False, soft_wrap=True)
    console.print(
        f"Made with the emulator in {time.monotonic() - started:.0f} s. In the repository "
        "`make dev` shows all of it in the Dagster UI; elsewhere `imagepipeline-dagster new` "
        "makes a project to start from."
    )


class _Daemon:
    """What Dagster's daemon does with the sensors, one after the other."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, console: Console
    ) -> None:
        self._definitions = definitions
        self._repository = definitions.get_repository_def()
        self._instance = instance
        self._console = console
        self._cursors: dict[str, str | None] = {}

    def tick(self) -> None:
        """Evaluate both sensors and execute the runs that they ask for."""
        runs = [run for sensor in _SENSORS for run in self._evaluate(sensor)]
        if runs:
            self._console.print(_table(runs))

    def _evaluate(self, name: str) -> list[_Run]:
        sensor = self._repository.get_sensor_def(name)
        with dg.build_sensor_context(
            instance_ref=self._instance.get_ref(),
            repository_def=self._repository,
            resources=self._definitions.resources,
            cursor=self._cursors.get(name),
        ) as context:
            ticked = sensor.evaluate_tick(context)
        self._cursors[name] = ticked.cursor
        change_partitions(ticked.dynamic_partitions_requests or (), self._instance)
        for event in ticked.asset_events:
            self._instance.report_runless_asset_event(event)
        requests = ticked.run_requests or ()
        runs = "1 run" if len(requests) == 1 else f"{len(requests)} runs"
        asked = f"asks for {runs}" if requests else ticked.skip_message
        self._console.print(f"  {name}: {asked}", markup=False)
        return [self._execute(request) for request in requests]

    def _execute(self, request: dg.RunRequest) -> _Run:
        key = str(request.partition_key)
        with self._console.status(f"materializing {key} …"):
            return key, self._run("materialize_prompt_set", partition_key=key, tags=request.tags)

    def release(self) -> str:
        """Materialize the release; return where it is."""
        with self._console.status("publishing …"):
            figures = self._run("release_image_dataset")
        what = "published" if figures["new_version"] else "unchanged, still"
        self._console.print(
            f"  image_dataset: {what} {figures['version']}, {figures['dagster/row_count']} images"
        )
        return str(figures["dagster/uri"])

    def _run(self, job: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - Dagster's own
        result = self._definitions.resolve_job_def(job).execute_in_process(
            instance=self._instance, run_config=_QUIET, **options
        )
        events = result.get_asset_materialization_events()
        stages = [event.materialization.metadata for event in events]
        figures = {name: value.value for stage in stages for name, value in stage.items()}
        return {**figures, "seconds": sum(float(str(stage["seconds"].value)) for stage in stages)}


def _table(runs: Sequence[_Run]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("prompt set", overflow="fold")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for key, figures in sorted(runs, key=lambda run: run[0]):
        cells = (figures[name] for name in _COLUMNS)
        table.add_row(key, *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in cells))
    return table


def change_partitions(
    changes: Iterable[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest],
    instance: dg.DagsterInstance,
) -> None:
    """Add and delete the partitions that a sensor's tick asks for, as the daemon does."""
    for change in changes:
        name, keys = change.partitions_def_name, change.partition_keys
        if isinstance(change, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(name, list(keys))
        else:
            for key in keys:
                instance.delete_dynamic_partition(name, key)
