"""The production instance of `deploy/`, started for real: every service a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import httpx
import pytest
import sqlalchemy as sa

from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.tables.creating import create_tables, tables_metadata
from tests.buying import API_KEY
from tests.e2e.serving import free_port, until
from tests.processes import PROJECT, environment

pytest_plugins = ["tests.s3"]

SETS, PROMPTS, LIMIT = 20, 3, 2
_BIN = Path(sys.executable).parent
_RUNS = """
query Runs { runsOrError(filter: {pipelineName: "materialize_prompt_set"}) {
  ... on Runs { results { runId status tags { key value } } } } }
"""


@pytest.fixture
def tables(postgres_url: str) -> str:
    """A database with many small prompt sets; the ledger is in it too."""
    create_tables(postgres_url)
    engine = sa.create_engine(parsed_url(postgres_url))
    rows = [
        {"prompt_set": f"set-{n:02}", "prompt_id": f"p{m}", "prompt": f"boat {n} of {m}"}
        for n in range(SETS)
        for m in range(PROMPTS)
    ]
    with engine.begin() as connection:
        connection.execute(tables_metadata().tables["prompts"].insert(), rows)
    engine.dispose()
    return postgres_url


@contextmanager
def service(*command: str, folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Run a program of Dagster's as long as the block lasts."""
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this environment's own programs
            [str(_BIN / command[0]), *command[1:]],
            cwd=folder,
            env=environment(**variables),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of an instance with the settings as they are shipped."""
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(PROJECT / "deploy" / name, tmp_path)
    settings = tmp_path / "workspace.yaml"
    settings.write_text(settings.read_text().replace("4000", str(free_port())))
    return tmp_path


def _statuses(port: int) -> list[str]:
    answer = httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": _RUNS}, timeout=30)
    runs = answer.raise_for_status().json()["data"]["runsOrError"]["results"]
    return [run["status"] for run in runs]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_sets_are_bought_side_by_side(
    home: Path,
    tables: str,
    postgres_server: object,
    s3_bucket: str,
    s3_endpoint: str,
    start_emulator: Callable[..., EmulatorServer],
) -> None:
    """Twenty sets, two runs at a time: nothing twice, no limit passed, the logs in the bucket."""
    del postgres_server  # it lives as long as the session
    vendor = start_emulator(latency_seconds=0.3)
    code_port = (home / "workspace.yaml").read_text().split("port: ")[1].split()[0]
    port = free_port()
    variables = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_POSTGRES_URL": tables.replace("postgresql://", "postgresql+psycopg2://"),
        "DAGSTER_LOGS_BUCKET": s3_bucket,
        "DAGSTER_CODE_SERVER": "127.0.0.1",
        "PYTHONPATH": str(PROJECT),
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "IMAGEPIPELINE_API_KEY": API_KEY,
        "IMAGEPIPELINE_BASE_URL": vendor.url,
        "IMAGEPIPELINE_STORAGE": f"s3://{s3_bucket}/pictures",
        "IMAGEPIPELINE_TABLES_URL": tables,
        "IMAGEPIPELINE_LEDGER_URL": tables,
    }
    subprocess.run(  # noqa: S603
        [_BIN / "dagster", "instance", "concurrency", "set", "imagepipeline_api", str(LIMIT)],
        cwd=home,
        env=environment(**variables),
        check=True,
    )
    serve_code = ("dagster", "code-server", "start", "-h", "127.0.0.1", "-p", code_port)
    module = ("-m", "tests.deploy.production_definitions")
    serve_ui = ("dagster-webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml")
    most_at_once = 0
    with ExitStack() as services:

        def start(*command: str) -> None:
            services.enter_context(service(*command, folder=home, variables=variables))

        start(*serve_code, *module)
        start(*serve_ui)
        start("dagster-daemon", "run", "-w", "workspace.yaml")
        until(lambda: _answers(port), what="the webserver", seconds=90)
        deadline = time.monotonic() + 400
        while (statuses := _statuses(port)).count("SUCCESS") < SETS:
            assert time.monotonic() < deadline, statuses
            assert "FAILURE" not in statuses
            most_at_once = max(most_at_once, statuses.count("STARTED") + statuses.count("STARTING"))
            time.sleep(0.5)

    stats = vendor.stats
    assert stats.posts_accepted == SETS * PROMPTS
    assert stats.bought_twice == ()
    assert stats.peak_in_flight <= 4
    assert most_at_once == LIMIT
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
