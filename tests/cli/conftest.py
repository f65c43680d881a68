"""Where commands are run, and what there is to buy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings
from imagepipeline_dagster.tables.creating import create_tables
from tests.buying import API_KEY
from tests.cli.shop import Shop

VARIABLES = ("API_KEY", "BASE_URL", "MAX_IN_FLIGHT", "STORAGE", "TABLES_URL", "LEDGER_URL")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, on a terminal of 80 columns, without this project's variables."""
    for name in VARIABLES:
        monkeypatch.delenv(f"IMAGEPIPELINE_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """An empty shop: tables without rows, and no ledger."""
    settings = EmulatorSettings(api_key=API_KEY, latency_seconds=0.02)
    with EmulatorServer(settings) as emulator:
        shop = Shop(tmp_path, emulator)
        create_tables(shop.tables_url)
        yield shop
