"""The installation of `deploy/`, started for real: each service of its files a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import pytest
import yaml

from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.tables.creating import create_tables
from tests.buying import API_KEY
from tests.e2e.serving import free_port
from tests.processes import PROJECT, environment
from tests.tables.filling import insert
from tests.waiting import PATIENCE_SECONDS, until

pytest_plugins = ["tests.s3"]

SETS, PROMPTS, LIMIT = 8, 3, 4
_BIN = Path(sys.executable).parent
_RUNS = """
query Runs { runsOrError(filter: {pipelineName: "materialize_prompt_set"}) {
  ... on Runs { results { runId status tags { key value } } } } }
"""


@pytest.fixture
def database(postgres_url: str) -> str:
    """A database with many small prompt sets; the ledger and Dagster are in it too."""
    create_tables(postgres_url)
    rows: list[dict[str, object]] = [
        {"prompt_set": f"set-{n:02}", "prompt_id": f"p{m}", "prompt": f"boat {n} of {m}"}
        for n in range(SETS)
        for m in range(PROMPTS)
    ]
    insert(postgres_url, "prompts", *rows)
    return postgres_url


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What the files of `deploy/` start: a command for each service, and their environment."""

    folder: Path
    port: int
    commands: dict[str, list[str]]
    variables: dict[str, str]

    @contextmanager
    def service(self, name: str) -> Iterator[None]:
        """Run a service as long as the block lasts."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - this environment's own programs
                self.commands[name],
                cwd=self.folder,
                env=self.variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield
            finally:
                process.terminate()
                process.wait(PATIENCE_SECONDS)


@pytest.fixture
def installation(
    tmp_path: Path, database: str, s3_bucket: str, s3_endpoint: str, postgres_server: object
) -> Installation:
    """The files as they are shipped; in place of what Docker provides stands what is here."""
    del postgres_server  # it lives as long as the session
    port, code_port = str(free_port()), str(free_port())
    here = {
        "dagster:${POSTGRES_PASSWORD:?}@postgres/dagster": database.partition("://")[2],
        "dagster:${POSTGRES_PASSWORD}@postgres/dagster": database.partition("://")[2],
        "DAGSTER_LOGS_BUCKET: imagepipeline": f"DAGSTER_LOGS_BUCKET: {s3_bucket}",
        "s3://imagepipeline/": f"s3://{s3_bucket}/",
        "http://minio:9000": s3_endpoint,
        "${MINIO_PASSWORD:?}": "testing-secret",
        "${IMAGEPIPELINE_API_KEY:-}": API_KEY,
        "DAGSTER_CODE_SERVER: code": "DAGSTER_CODE_SERVER: 127.0.0.1",
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced
        '"3000"': f'"{port}"',
        "4000": code_port,
        '"definitions"': '"tests.deploy.production_definitions"',
    }
    files = {name: PROJECT / "deploy" / name for name in ("compose.yaml", "Dockerfile")}
    texts = {name: file.read_text() for name, file in files.items()}
    for shipped, instead in here.items():
        assert any(shipped in text for text in texts.values()), shipped
        texts = {name: text.replace(shipped, instead) for name, text in texts.items()}
    services = yaml.safe_load(texts["compose.yaml"])["services"]
    for line in texts["Dockerfile"].splitlines():
        if line.startswith("COPY --chown=dagster"):
            for copied in line.split()[2:-1]:
                shutil.copy(PROJECT / copied, tmp_path)
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(workspace.read_text().replace("4000", code_port))
    image_command = json.loads(texts["Dockerfile"].partition("\nCMD ")[2])
    return Installation(
        folder=tmp_path,
        port=int(port),
        commands={
            name: service.get("command", image_command)
            for name, service in services.items()
            if "build" in service
        },
        variables=environment(
            **services["daemon"]["environment"],
            DAGSTER_HOME=str(tmp_path),
            PATH=f"{_BIN}:{os.environ['PATH']}",
            PYTHONPATH=str(PROJECT),
        ),
    )


def _statuses(port: int) -> list[str]:
    answer = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": _RUNS}, timeout=30)
    runs = answer.raise_for_status().json()["data"]["runsOrError"]["results"]
    return [run["status"] for run in runs]


@pytest.mark.slow
def test_many_sets_are_bought_side_by_side(
    installation: Installation, s3_bucket: str, start_emulator: Callable[..., EmulatorServer]
) -> None:
    """Eight sets, four runs at a time: nothing twice, no limit passed, the logs in the bucket."""
    vendor = start_emulator(latency_seconds=0.3)
    installation.variables["IMAGEPIPELINE_BASE_URL"] = vendor.url
    most_at_once = 0
    with ExitStack() as services:
        subprocess.run(  # noqa: S603 - of our own file
            installation.commands["prepared"],
            cwd=installation.folder,
            env=installation.variables,
            check=True,
        )
        for name in ("code", "webserver", "daemon"):
            services.enter_context(installation.service(name))
        until(lambda: _answers(installation.port), what="the webserver")
        deadline = time.monotonic() + 2 * PATIENCE_SECONDS  # a process a set
        while (statuses := _statuses(installation.port)).count("SUCCESS") < SETS:
            assert time.monotonic() < deadline, statuses
            assert "FAILURE" not in statuses
            most_at_once = max(most_at_once, statuses.count("STARTED") + statuses.count("STARTING"))
            time.sleep(0.5)

    stats = vendor.stats
    assert stats.posts_accepted == SETS * PROMPTS
    assert stats.bought_twice == ()
    assert stats.peak_in_flight <= 4
    assert 1 < most_at_once <= LIMIT
    keys = [
        found["Key"]
        for page in boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=s3_bucket)
        for found in page["Contents"]
    ]
    assert sum(key.startswith("pictures/images/") for key in keys) == SETS * PROMPTS
    assert any(key.startswith("compute-logs/") for key in keys)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/server_info", timeout=5).is_success
    except httpx.TransportError:
        return False
