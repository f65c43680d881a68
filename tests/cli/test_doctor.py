"""`imagepipeline-dagster doctor`: each part of an installation, well and broken."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from tests.buying import API_KEY
from tests.cli.running import do
from tests.cli.shop import Shop
from tests.processes import PROJECT

PARTS = ("versions", "key", "tables", "storage", "ledger", "clock", "dagster", "pools", "daemon")


def grades() -> dict[str, str]:
    """Return how each part stands."""
    findings = json.loads(do("doctor", "--json").output)
    return {finding["part"]: finding["grade"] for finding in findings}


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


BROKEN: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "settings": lambda patch, _: patch.setenv("IMAGEPIPELINE_MAX_IN_FLIGHT", "many"),
    "key": lambda patch, _: patch.setenv("IMAGEPIPELINE_API_KEY", "hunter2-wrong"),
    "tables": lambda patch, _: patch.setenv("IMAGEPIPELINE_TABLES_URL", "sqlite:///nowhere.db"),
    "storage": lambda patch, _: patch.setattr(
        "imagepipeline_dagster.storage.folder.LocalFolder.read", lambda *_: b"other bytes"
    ),
    "ledger": lambda patch, _: patch.setenv(
        "IMAGEPIPELINE_LEDGER_URL", "postgresql://me:hunter2@127.0.0.1:9/ledger?connect_timeout=1"
    ),
    "dagster": lambda patch, _: patch.delenv("DAGSTER_HOME"),
    "daemon": lambda _, folder: shutil.rmtree(folder / "home/history"),
    "versions": lambda patch, _: patch.setattr(
        "imagepipeline_dagster.defs.installation._installed",
        lambda name: "2.0.1" if name == "sqlalchemy" else None,
    ),
}


@pytest.mark.parametrize("part", BROKEN)
def test_what_is_wrong_is_said(
    part: str, installation: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, the part is named with what to do, and no secret is shown."""
    BROKEN[part](monkeypatch, tmp_path)

    result = do("doctor")

    assert result.exit_code == 1, result.output
    assert grades()[part] == "wrong"
    assert "hunter2" not in result.output
    assert API_KEY not in result.output
    assert installation.emulator.stats.bought_twice == ()
