from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import dagster as dg
import httpx
import pytest

from imagepipeline_dagster.tables.creating import create_tables
from tests.processes import DRIVE, PROJECT, environment, files_with, run, serving_emulator
from tests.tables.filling import insert, run_sql

KEY = "sk-distinctive-4f1c9a7e2b"
WRONG_KEY = "sk-mistaken-77aa01be93"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dg.Definitions]:
    """Load definitions.py anew, in the environment of the test."""
    for name in ("API_KEY", "BASE_URL", "STORAGE", "TABLES_URL", "LEDGER_URL", "MAX_IN_FLIGHT"):
        monkeypatch.delenv(f"IMAGEPIPELINE_{name}", raising=False)

    def loaded() -> dg.Definitions:
        namespace: dict[str, object] = {}
        file = PROJECT / "definitions.py"
        exec(compile(file.read_text(), file, "exec"), namespace)  # noqa: S102 - our own file
        found = namespace["defs"]
        assert isinstance(found, dg.Definitions)
        return found

    return loaded


def test_the_documented_names_are_there(load: Callable[[], dg.Definitions]) -> None:
    """Assets, partitions, jobs, sensors, schedules, pool and resources have their public names."""
    definitions = load()
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    graph = repository.asset_graph

    stages = ("prompt_sets", "generation_requests", "generated_images", "moderated_images")
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        *("prompts", "embeddings", *stages, "image_dataset")
    }
    for stage in (*stages, "prompts"):
        partitions = graph.get(dg.AssetKey(stage)).partitions_def
        assert isinstance(partitions, dg.DynamicPartitionsDefinition)
        assert partitions.name == "prompt_set"
    assert {sensor.name for sensor in repository.sensor_defs} == {
        *("prompts_sensor", "embeddings_sensor", "moderation_overrides_sensor"),
        "approvals_sensor",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        *("image_dataset_schedule", "reconcile_schedule")
    }
    assert set(repository.job_names) >= {
        *("materialize_prompt_set", "moderate_prompt_set", "release_image_dataset"),
        *("register_prompt_sets", "plan_prompt_sets", "approve_plan"),
    }
    names = ("imagepipeline", "tables", "ledger", "storage", "io_manager", "release_io_manager")
    assert set(definitions.resources or {}) == {f"image_dataset_{name}" for name in names}
    purchase = graph.get(dg.AssetKey("generated_images")).assets_def
    assert {op.name: op.pool for op in purchase.node_def.iterate_op_defs()} == {
        "buy_set": "imagepipeline_api"
    }


@pytest.mark.parametrize("key", [None, KEY])
def test_spending_begins_when_a_person_says_so(
    load: Callable[[], dg.Definitions], monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Sensors and schedules run from the start on the emulator, and are stopped on a key."""
    if key:
        monkeypatch.setenv("IMAGEPIPELINE_API_KEY", key)
    repository = load().get_repository_def()

    expected = "STOPPED" if key else "RUNNING"
    sensors, schedules = repository.sensor_defs, repository.schedule_defs
    assert {found.default_status.value for found in sensors} == {expected}
    assert {found.default_status.value for found in schedules} == {expected}
    assert (len(sensors), len(schedules)) == (4, 2)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The variables of a process with a home, a storage and tables of three small boats.

    What drives it as the daemon would is beside these, as `drive.py`.
    """
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "drive.py").write_text(DRIVE)
    tables = f"sqlite:///{tmp_path}/data/tables.db"
    create_tables(tables)
    small = {"prompt_set": "boats", "width": 64, "height": 64}
    ids = [f"boat_{number}" for number in range(3)]
    insert(tables, "prompts", *({**small, "prompt_id": name, "prompt": name} for name in ids))
    return {
        "DAGSTER_HOME": str(tmp_path / "home"),
        "IMAGEPIPELINE_STORAGE": str(tmp_path / "data"),
        "IMAGEPIPELINE_TABLES_URL": tables,
    }


@pytest.mark.slow
def test_killed_runs_leave_the_purchase_free_for_the_next(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """However many purchases were killed on the local instance, a later run is not kept waiting."""
    (tmp_path / "home/dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    # As many as the pool takes, as in a process that dies in the middle of its purchase.
    killed = """
import os, sys
import dagster as dg
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

with dg.DagsterInstance.get() as instance:
    for number in range(2):
        run = dg.DagsterRun(f"purchase-{number}")
        slots = InstanceConcurrencyContext(instance, run).__enter__()
        assert slots.claim("imagepipeline_api", "generated_images")
    os._exit(0)
"""
    for program in (["-c", killed], ["drive.py"]):
        # A run that waits for the slots of the dead would wait for ever.
        ran = run([sys.executable, *program], cwd=tmp_path, variables=variables)
        assert ran.returncode == 0, ran.stderr[-4000:]

    assert _counts(tmp_path / "data/ledger.db") == {"succeeded": 3}


@pytest.mark.slow
def test_another_server_is_driven_and_the_key_is_nowhere(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """With URL and key, images are bought there; no file, log or message ever holds the key."""
    said = []
    with serving_emulator("--api-key", KEY, "--latency", "0.1", cwd=tmp_path) as url:
        variables["IMAGEPIPELINE_BASE_URL"] = url
        for key, failures in ((WRONG_KEY, 1), (KEY, 0)):
            ran = run(
                [sys.executable, "drive.py", *(["--release"] if key == KEY else [])],
                cwd=tmp_path,
                variables={**variables, "IMAGEPIPELINE_API_KEY": key},
            )
            assert ran.returncode == failures, ran.stderr[-4000:]
            said += [ran.stdout, ran.stderr]
        stats = httpx.get(f"{url}/_emulator/stats").json()

    assert (stats["posts_accepted"], stats["downloads"], stats["downloads_with_key"]) == (3, 3, 0)
    assert "the purchase stopped" in said[1]
    with sqlite3.connect(tmp_path / "data/ledger.db") as ledger:
        endpoints = ledger.execute("SELECT DISTINCT endpoint, emulated FROM ledger_requests")
        assert endpoints.fetchall() == [(f"{url}/sdxl/text2image/v1", 0)]
    ledger.close()
    assert (tmp_path / "data/releases/v0001/manifest.json").exists()

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert files_with(tmp_path / "home", "IMAGEPIPELINE_API_KEY"), "snapshots were not looked into"
    for secret in (KEY, WRONG_KEY):
        assert files_with(tmp_path, secret) == []
        assert not [text for text in said if secret in text]


_COUNTS = "SELECT state, count(*) FROM ledger_requests GROUP BY state"


@pytest.mark.slow
def test_a_killed_run_buys_only_the_rest(tmp_path: Path, variables: dict[str, str]) -> None:
    """After SIGKILL amid a purchase on the embedded default, the next run buys what is left."""
    run_sql(variables.pop("IMAGEPIPELINE_TABLES_URL"), "UPDATE prompts SET samples = 5")
    variables["IMAGEPIPELINE_MAX_IN_FLIGHT"] = "2"
    ledger = tmp_path / "data/ledger.db"

    with subprocess.Popen(
        [sys.executable, "drive.py"],
        cwd=tmp_path,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 60
        while _counts(ledger).get("succeeded", 0) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = _counts(ledger)
    assert 3 <= before["succeeded"] < 15

    again = run([sys.executable, "drive.py"], cwd=tmp_path, variables=variables)

    assert again.returncode == 0, again.stderr[-4000:]
    after = _counts(ledger)
    # Only a claim without an answer may be lost, and there are two places for one.
    assert after.get("unknown", 0) <= before.get("claimed", 0) <= 2
    assert after.pop("unknown", 0) + after.pop("succeeded") == 15
    assert after == {}
    attempts_and_runs = "SELECT max(attempt), count(DISTINCT run_id) FROM ledger_requests"
    assert run_sql(f"sqlite:///{ledger}", attempts_and_runs) == [(1, 2)]
    runs = f"sqlite:///{tmp_path}/home/history/runs.db"
    assert run_sql(runs, "SELECT count(*) FROM runs") == [(2,)]


def _counts(ledger: Path) -> dict[str, int]:
    if not ledger.exists():
        return {}
    with closing(sqlite3.connect(ledger)) as opened, suppress(sqlite3.OperationalError):
        return dict(opened.execute(_COUNTS).fetchall())
    return {}


def test_the_local_instance_tells_nobody() -> None:
    """The instance's dagster.yaml switches telemetry and nags off and limits what runs at once."""
    text = (PROJECT / "dagster.yaml").read_text()
    assert re.search(r"telemetry:\n  enabled: false", text)
    assert re.search(r"nux:\n  enabled: false", text)
    assert "max_concurrent_runs: 2" in text
