"""The Launchpad: every job starts with the run config that it shows at first."""

from __future__ import annotations

import gc
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster_graphql.cli import execute_query

KEY = "sk-launchpad-5be0c7711d"
_DEFINITIONS = """
import dagster as dg
from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_for

resources = resources_for(storage_uri={storage!r}, api_key={key})
defs = build_definitions(ImageDataset(), resources, start=False)
"""
_DEFAULT = """
query($selector: PipelineSelector!) {
  runConfigSchemaOrError(selector: $selector) { ... on RunConfigSchema { rootDefaultYaml } }
}
"""
_NAMES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }
"""
_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { message }
  }
}
"""
_ASKS = {
    "approve_plan": "An approval says who gives it (`who`) and why (`why`): neither may be blank.",
    "materialize_batch": "No prompt set is named: give `prompt_sets` in the run's config.",
}
_FREE = ("register_prompt_sets", "plan_prompt_sets")
_OF_A_SET = ("materialize_prompt_set", "moderate_prompt_set")
# No daemon runs here, so nothing waits in a queue for it.
_AT_ONCE = {
    "telemetry": {"enabled": False},
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
}
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


def _jobs(context: WorkspaceProcessContext) -> set[str]:
    answer = execute_query(context, _NAMES)
    (repository,) = answer["data"]["repositoriesOrError"]["nodes"]
    return {job["name"] for job in repository["jobs"]} - {"__ASSET_JOB"}


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return what a failed run says, which no other error is the cause of."""
    (record,) = instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE
    ).records
    error = record.event_log_entry.get_dagster_event().step_failure_data.error
    assert error is not None
    assert error.cause is None
    return error.message.removeprefix("dagster._core.definitions.events.Failure: ").strip()


def _default_config(context: WorkspaceProcessContext, job: str) -> tuple[dict[str, str], str]:
    selector = {
        "pipelineName": job,
        "repositoryName": "__repository__",
        "repositoryLocationName": "launchpad",
    }
    answer = execute_query(context, _DEFAULT, variables={"selector": selector})
    return selector, str(answer["data"]["runConfigSchemaOrError"]["rootDefaultYaml"])


def _run_of(
    context: WorkspaceProcessContext, job: str, selector: dict[str, str], default: str
) -> dg.DagsterRun:
    """Launch a job with its default config, as the Launchpad does, and return the ended run."""
    tags = [{"key": "dagster/partition", "value": "portraits"}] if job in _OF_A_SET else []
    params: dict[str, Any] = {
        "selector": selector,
        "runConfigData": default,
        "executionMetadata": {"tags": tags},
    }
    answer = execute_query(context, _LAUNCH, variables={"params": params})
    result = answer["data"]["launchRun"]
    assert result["__typename"] == "LaunchRunSuccess", json.dumps(result)
    deadline = time.monotonic() + 90
    while True:
        run = context.instance.get_run_by_id(result["run"]["runId"])
        assert run is not None
        if run.status in _ENDED:
            return run
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "launched"),
    [
        ("None", (*_FREE, *_OF_A_SET, "release_image_dataset", *_ASKS)),
        ("dg.EnvVar('IMAGEPIPELINE_API_KEY')", (*_FREE, *_ASKS)),
    ],
)
def test_every_job_starts_from_its_default_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, launched: tuple[str, ...]
) -> None:
    """No job's default run config holds or asks for a secret, and launched unedited it runs.

    Two jobs ask for something, an approval and a batch: the run ends with what it is, and no more.
    """
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", KEY)
    file = tmp_path / "definitions.py"
    file.write_text(_DEFINITIONS.format(storage=str(tmp_path / "data"), key=key))
    target = PythonFileTarget(
        python_file=str(file),
        attribute=None,
        working_directory=str(tmp_path),
        location_name="launchpad",
    )
    home = tmp_path / "home"
    home.mkdir()
    with (
        dg.DagsterInstance.local_temp(str(home), overrides=_AT_ONCE) as instance,
        WorkspaceProcessContext(instance, target) as context,
    ):
        jobs = _jobs(context)
        assert {*_FREE, *_OF_A_SET, *_ASKS, "release_image_dataset"} == jobs
        defaults = {job: _default_config(context, job) for job in jobs}
        for _, default in defaults.values():
            assert "****" not in default
            assert "resources" not in default, default
        runs = [_run_of(context, job, *defaults[job]) for job in launched]
        failures = {
            run.job_name: _failure(instance, run)
            for run in runs
            if run.status is not dg.DagsterRunStatus.SUCCESS
        }

    # Dagster ends its code server, and does not wait for it.
    for started in gc.get_objects():
        if isinstance(started, subprocess.Popen):
            started.wait(30)
    assert failures == _ASKS
