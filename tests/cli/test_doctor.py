"""`imagepipeline-dagster doctor`: each part of an installation, well and broken."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.overrides import Override, OverrideDecision, record_overrides
from tests.buying import API_KEY
from tests.cli.running import do, facts
from tests.cli.shop import Shop
from tests.processes import PROJECT

PARTS = ("versions", "key", "tables", "storage", "ledger", "clock", "dagster", "pools", "daemon")


def grades(*, exit_code: int = 0) -> dict[str, str]:
    """Return how each part stands."""
    return {finding["part"]: finding["grade"] for finding in facts("doctor", exit_code=exit_code)}


@pytest.fixture
def installation(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with a key, something bought, and a Dagster whose daemon lives."""
    shop.add("a")
    shop.buy()
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", API_KEY)
    monkeypatch.setenv("IMAGEPIPELINE_BASE_URL", shop.emulator.url)
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.set_concurrency_slots("imagepipeline_api", 2)
        for daemon in instance.get_required_daemon_types():
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), daemon, "id", []))
    return shop


def test_a_good_installation_is_good(installation: Shop) -> None:
    """Every part is looked at, nothing is bought, and nothing is left on the storage."""
    before = sorted(installation.folder.glob("data/**/*"))
    posts = installation.emulator.stats.posts_received

    result = do("doctor")

    assert result.exit_code == 0, result.output
    found = grades()
    assert tuple(found) == PARTS
    # SQLite is well for one machine, which a person may want to know.
    assert {part for part, grade in found.items() if grade != "good"} == {"dagster"}
    assert installation.emulator.stats.posts_received == posts
    assert sorted(installation.folder.glob("data/**/*")) == before


def _elsewhere(patch: pytest.MonkeyPatch, folder: Path, storage: str) -> None:
    patch.setenv("IMAGEPIPELINE_STORAGE", storage)
    for name in ("tables", "ledger"):
        url = f"sqlite:///{folder / 'data' / name}.db"
        patch.setenv(f"IMAGEPIPELINE_{name.upper()}_URL", url)


def _in_bucket(patch: pytest.MonkeyPatch, folder: Path) -> None:
    _elsewhere(patch, folder, "s3://bucket/pictures")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        patch.setenv(name, "/nonexistent")


def _without_pools(folder: Path, *, default: str = "") -> None:
    (folder / "home/dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{default}")
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        instance.event_log_storage.delete_concurrency_limit("imagepipeline_api")


def _without_table(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "data/tables.db")) as connection:
        connection.execute("DROP TABLE embeddings")


_NO_DATABASE = "postgresql://me:hunter2@127.0.0.1:9/ledger?connect_timeout=1"
_NO_INSTANCE = f"storage: {{postgres: {{postgres_url: '{_NO_DATABASE}'}}}}\n"

# A part, words of what is told to do, and what breaks it.
Defect = tuple[str, str, Callable[[pytest.MonkeyPatch, Path], object]]

BROKEN: dict[str, Defect] = {
    "a setting": (
        "settings",
        "whole number",
        lambda patch, _: patch.setenv("IMAGEPIPELINE_MAX_IN_FLIGHT", "many"),
    ),
    "a wrong key": (
        "key",
        "check IMAGEPIPELINE_API_KEY",
        lambda patch, _: patch.setenv("IMAGEPIPELINE_API_KEY", "hunter2-wrong"),
    ),
    "no tables": (
        "tables",
        "imagepipeline-dagster init",
        lambda patch, _: patch.setenv("IMAGEPIPELINE_TABLES_URL", "sqlite:///nowhere.db"),
    ),
    "one table": ("tables", "Name your own table", lambda _, folder: _without_table(folder)),
    "a storage that forgets": (
        "storage",
        "shows a write at once",
        lambda patch, _: patch.setattr(LocalFolder, "read", lambda *_: b"other bytes"),
    ),
    "a storage that nobody may write to": (
        "storage",
        "let this user write",
        lambda patch, folder: _elsewhere(patch, folder, "/dev/null/pictures"),
    ),
    "no credentials of a bucket": ("storage", "give AWS credentials", _in_bucket),
    "a database that is down": (
        "ledger",
        "check that the database runs",
        lambda patch, _: patch.setenv("IMAGEPIPELINE_LEDGER_URL", _NO_DATABASE),
    ),
    "another storage's ledger": (
        "ledger",
        "IMAGEPIPELINE_LEDGER_URL",
        lambda patch, folder: patch.setenv(
            "IMAGEPIPELINE_LEDGER_URL", f"sqlite:///{folder / 'other.db'}"
        ),
    ),
    "a clock that is off": (
        "clock",
        "NTP",
        lambda patch, _: patch.setattr(Ledger, "clock_ahead", lambda _: dt.timedelta(minutes=2)),
    ),
    "no instance": ("dagster", "DAGSTER_HOME", lambda patch, _: patch.delenv("DAGSTER_HOME")),
    "settings that Dagster refuses": (
        "dagster",
        "check dagster.yaml",
        lambda _, folder: (folder / "home/dagster.yaml").write_text("storage: {hunter2: 1}\n"),
    ),
    "no limit": ("pools", "concurrency set", lambda _, folder: _without_pools(folder)),
    "a dead daemon": (
        "daemon",
        "start `dagster-daemon run`",
        lambda _, folder: shutil.rmtree(folder / "home/history"),
    ),
    "another version": (
        "versions",
        "install from the lock",
        lambda patch, _: patch.setattr(
            "imagepipeline_dagster.cli.doctor._installed",
            lambda name: "2.0.1" if name == "sqlalchemy" else None,
        ),
    ),
}


# Dagster waits for a database that is down.
BROKEN_SLOWLY: dict[str, Defect] = {
    "an instance without its database": (
        "dagster",
        "dagster instance info",
        lambda _, folder: (folder / "home/dagster.yaml").write_text(_NO_INSTANCE),
    ),
}


@pytest.mark.parametrize(
    "defect", [*BROKEN, *(pytest.param(name, marks=pytest.mark.slow) for name in BROKEN_SLOWLY)]
)
def test_what_is_wrong_is_said(
    defect: str, installation: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, the part is named with what to do, and no secret is shown."""
    part, remedy, spoil = {**BROKEN, **BROKEN_SLOWLY}[defect]
    spoil(monkeypatch, tmp_path)

    result = do("doctor", "--json")

    assert result.exit_code == 1, result.output
    [wrong, *_] = [each for each in json.loads(result.output) if each["grade"] == "wrong"]
    assert wrong["part"] == part
    assert remedy in f"{wrong['text']} {wrong['remedy']}"
    assert "hunter2" not in result.output
    assert API_KEY not in result.output
    assert installation.emulator.stats.bought_twice == ()


def test_a_decision_about_nothing_is_noted(installation: Shop) -> None:
    """A row of SQL that decides about no picture is named, with the one that was meant."""
    slip = Override(
        decision=OverrideDecision.REJECT,
        reviewer="ana",
        reason="blurry",
        decided_at=dt.datetime.now(dt.UTC),
        prompt_set="sprin",
        prompt_id="a",
    )
    record_overrides(installation.tables_url, [slip])
    assert grades()["decisions"] == "note"
    told = do("doctor").output
    assert "the reject of row 1 is about nothing" in told
    assert "Did you mean 'spring'?" in told


def test_the_default_limit_of_pools_counts(installation: Shop, tmp_path: Path) -> None:
    """Where dagster.yaml has a default, it is told; it is good once Dagster gave it to the pool."""
    del installation
    _without_pools(tmp_path, default="concurrency: {pools: {default_limit: 3}}\n")
    assert grades()["pools"] == "note"
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default("imagepipeline_api")
    assert "imagepipeline_api has a limit of 3" in do("doctor").output


@pytest.mark.slow
def test_an_api_that_is_down_leaves_the_answer_alone(
    installation: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are tried again are told of nowhere in the document on standard output."""
    del installation
    monkeypatch.setenv("IMAGEPIPELINE_BASE_URL", "http://127.0.0.1:9")
    assert grades(exit_code=1)["key"] == "wrong"
