"""The real `dagster dev` in a process group of its own, and questions to its GraphQL."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from tests.waiting import until

__all__ = ["Run", "ServedPipeline", "free_port", "serve"]

_REPOSITORY = Path(__file__).parents[2]
_DEFINITIONS = Path(__file__).with_name("quick_definitions.py")
# The queue is looked at every second, not every five.
_IMPATIENT = """
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
"""
_FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}

_RUNS = """
query Runs($partition: String!) {
  runsOrError(filter: {tags: [{key: "dagster/partition", value: $partition}]}) {
    ... on Runs { results { runId status tags { key value } } }
  }
}
"""
_PARTITIONS = """
query Partitions {
  assetNodeOrError(assetKey: {path: ["prompt_sets"]}) { ... on AssetNode { partitionKeys } }
}
"""
_MATERIALIZATIONS = """
query Materializations($asset: String!, $partition: String!) {
  assetNodeOrError(assetKey: {path: [$asset]}) {
    ... on AssetNode {
      assetMaterializations(partitions: [$partition], limit: 20) {
        runId
        metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""
_REPOSITORIES = """
{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }
"""
_LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_STATUS = "query Status($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A Dagster run; `sensor` is the one that asked for it, if one did."""

    run_id: str
    status: str
    sensor: str | None

    @property
    def finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in _FINISHED


class ServedPipeline:
    """A running Dagster with this package's definitions on an emulator.

    Attributes:
        url: of the UI.
        tables: the SQLite file with the prompts and embeddings tables.
        releases: the folder of the dataset's releases.
    """

    def __init__(self, client: httpx.Client, *, storage: Path) -> None:
        self.url = str(client.base_url).rstrip("/")
        self.tables = storage / "tables.db"
        self.releases = storage / "releases"
        self._client = client

    def ask(self, query: str, variables: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return the data of a GraphQL answer."""
        answer = self._client.post("/graphql", json={"query": query, "variables": variables or {}})
        body: dict[str, Any] = answer.raise_for_status().json()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data

    def prompt_sets(self) -> list[str]:
        """Return the partitions that are there now, sorted."""
        node = self.ask(_PARTITIONS)["assetNodeOrError"]
        return sorted(node.get("partitionKeys", []))

    def runs(self, prompt_set: str) -> list[Run]:
        """Return the runs of a prompt set, the newest first."""
        results = self.ask(_RUNS, {"partition": prompt_set})["runsOrError"]["results"]
        tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in results]
        return [
            Run(run_id=run["runId"], status=run["status"], sensor=tag.get("dagster/sensor_name"))
            for run, tag in zip(results, tags, strict=True)
        ]

    def launch(self, job: str) -> str:
        """Launch a job without partitions, as the UI does; return the run's id."""
        (code,) = self.ask(_REPOSITORIES)["repositoriesOrError"]["nodes"]
        selector = {
            "repositoryName": code["name"],
            "repositoryLocationName": code["location"]["name"],
            "jobName": job,
        }
        launched = self.ask(_LAUNCH, {"parameters": {"selector": selector}})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def status(self, run_id: str) -> str:
        """Return a run's status, such as SUCCESS."""
        status: str = self.ask(_STATUS, {"run": run_id})["runOrError"]["status"]
        return status

    def figures(self, asset: str, *, prompt_set: str, run_id: str) -> dict[str, int]:
        """Return the whole numbers in the metadata of what a run materialized."""
        variables = {"asset": asset, "partition": prompt_set}
        node = self.ask(_MATERIALIZATIONS, variables)["assetNodeOrError"]
        (made,) = (each for each in node["assetMaterializations"] if each["runId"] == run_id)
        entries = made["metadataEntries"]
        return {each["label"]: each["intValue"] for each in entries if "intValue" in each}

    def wait_until_built(self, prompt_set: str) -> list[Run]:
        """Wait until a set has runs, and all of them have succeeded; return them."""

        def ended() -> list[Run]:
            runs = self.runs(prompt_set)
            return runs if all(run.finished for run in runs) else []

        runs = until(ended, what=f"the runs of {prompt_set} to end")
        assert {run.status for run in runs} == {"SUCCESS"}, runs
        return runs

    def wait_for_next_run(self, prompt_set: str, *, after: list[Run]) -> Run:
        """Wait until a run that is not among the earlier ones has succeeded; return it."""
        known = {run.run_id for run in after}

        def ended() -> Run | None:
            new = [run for run in self.runs(prompt_set) if run.run_id not in known]
            return new[-1] if new and new[-1].finished else None

        run = until(ended, what=f"another run of {prompt_set} to end")
        assert run.status == "SUCCESS", run
        return run


@contextmanager
def serve(
    folder: Path,
    *,
    definitions: Path = _DEFINITIONS,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[ServedPipeline]:
    """Run `dagster dev` with everything that it keeps in a folder; end it with all its children."""
    home, storage, log = folder / "dagster_home", folder / "storage", folder / "dagster.log"
    home.mkdir()
    settings = (_REPOSITORY / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text(settings + _IMPATIENT)
    ours = ("IMAGEPIPELINE_", "DAGSTER_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    port = free_port()
    command = [str(Path(sys.executable).with_name("dagster")), "dev"]
    options = ["--python-file", str(definitions), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, *options],
            cwd=folder,
            env={
                **inherited,
                "DAGSTER_HOME": str(home),
                "IMAGEPIPELINE_STORAGE": str(storage),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
        ) as client:
            until(lambda: _answers(client, process), what="Dagster to answer")
            yield ServedPipeline(client, storage=storage)
    except Exception as error:
        error.add_note(f"The end of Dagster's log:\n{log.read_text()[-20_000:]}")
        raise
    finally:
        _end_group(process)


def _answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Dagster ended"
    try:
        return client.get("/server_info").is_success
    except httpx.TransportError:
        return False


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and its children with it; kill what is left of its group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
