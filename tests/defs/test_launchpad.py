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
_JOBS = (
    *("materialize_prompt_set", "moderate_prompt_set", "release_image_dataset"),
    *("register_prompt_sets", "plan_prompt_sets", "approve_plan"),
)
_WITHOUT_QUESTIONS = ("register_prompt_sets", "plan_prompt_sets")
# No daemon runs here, so nothing waits in a queue for it.
_AT_ONCE = {
    "telemetry": {"enabled": False},
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
}
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)


def _default_config(context: WorkspaceProcessContext, job: str) -> tuple[dict[str, str], str]:
    selector = {
        "pipelineName": job,
        "repositoryName": "__repository__",
        "repositoryLocationName": "launchpad",
    }
    answer = execute_query(context, _DEFAULT, variables={"selector": selector})
    return selector, str(answer["data"]["runConfigSchemaOrError"]["rootDefaultYaml"])


def _under_way(instance: dg.DagsterInstance, run_ids: list[str]) -> bool:
    runs = (instance.get_run_by_id(run_id) for run_id in run_ids)
    return any(run is not None and run.status not in _ENDED for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["None", "dg.EnvVar('IMAGEPIPELINE_API_KEY')"])
def test_every_job_starts_from_its_default_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """No job's default run config holds or asks for a secret, and launched unedited it runs."""
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
        launched = []
        for job in _JOBS:
            selector, default = _default_config(context, job)
            assert "****" not in default
            assert "resources" not in default, default
            if job in _WITHOUT_QUESTIONS:
                params: dict[str, Any] = {"selector": selector, "runConfigData": default}
                answer = execute_query(context, _LAUNCH, variables={"params": params})
                result = answer["data"]["launchRun"]
                assert result["__typename"] == "LaunchRunSuccess", json.dumps(result)
                launched.append(result["run"]["runId"])
        deadline = time.monotonic() + 90
        while _under_way(instance, launched):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        runs = [instance.get_run_by_id(one) for one in launched]

    # Dagster ends its code server, and does not wait for it.
    for started in gc.get_objects():
        if isinstance(started, subprocess.Popen):
            started.wait(30)
    assert [run.status for run in runs if run] == [dg.DagsterRunStatus.SUCCESS] * len(launched)
