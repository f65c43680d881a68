"""An emulator beside each test, and both databases that the ledger is promised to work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings
from imagepipeline_dagster.generation.ledger import Ledger
from tests.generation.buying import API_KEY, Buyer

StartEmulator = Callable[..., EmulatorServer]


@pytest.fixture
def start_emulator() -> Iterator[StartEmulator]:
    """Start emulators that end with the test; quick ones unless told otherwise."""
    with ExitStack() as running:

        def start(**settings: object) -> EmulatorServer:
            usual = {"api_key": API_KEY, "latency_seconds": 0.02, **settings}
            return running.enter_context(EmulatorServer(EmulatorSettings.model_validate(usual)))

        yield start


@pytest.fixture
def emulator(start_emulator: StartEmulator) -> EmulatorServer:
    """A quick, healthy emulator."""
    return start_emulator()


@pytest.fixture
def buyer(emulator: EmulatorServer, tmp_path: Path) -> Buyer:
    """A buyer at that emulator, with a new SQLite ledger and a new folder."""
    return Buyer(
        ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
        folder=tmp_path / "data",
        base_url=emulator.url,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ledger, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger(ledger_url)
    yield opened
    opened.close()
