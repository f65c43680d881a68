"""A ledger opened: for writing, brought up to date first, or for reading alone.

SQLite runs in WAL mode with every commit on disk; PostgreSQL as it is.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import stamina
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.schema import SCHEMA_VERSION, metadata, version

__all__ = [
    "LedgerTooNew",
    "LedgerTooOld",
    "open_ledger_engine",
    "open_ledger_for_reading",
    "upgrade",
]


class LedgerTooNew(CorrectableError):
    """The ledger was written by a later version of this package."""


class LedgerTooOld(CorrectableError):
    """The ledger lacks tables, and is opened in a way that creates none."""


def open_ledger_engine(url: URL) -> Engine:
    """Return the engine of a ledger; nothing is opened yet."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401, ARG001
        # The driver's own transactions begin too late to be atomic; ours begin below.
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("ledger_reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@stamina.retry(on=sqlite3.OperationalError, attempts=None, timeout=30.0, wait_initial=0.02)
def _write_ahead(connection: Any) -> None:  # noqa: ANN401 - the driver's own
    # Two processes that make a ledger at once: SQLite does not wait for this lock by itself.
    connection.execute("PRAGMA journal_mode = WAL")


def open_ledger_for_reading(url: URL) -> Engine:
    """Return the engine of a ledger that is only read: no file and no table is made.

    Where there is no ledger it is that of an empty one, in memory.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
        LedgerTooOld: they are of an earlier one.
    """
    engine = _reading_engine(url)
    if engine is not None:
        if _version_in(engine) == SCHEMA_VERSION:
            return engine
        there = inspect(engine).has_table(version.name)
        engine.dispose()
        if there:
            # Read as an empty one, it would look as if nothing had ever been bought.
            raise LedgerTooOld("the ledger is of an earlier version; a run brings it up to date")
    empty = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(empty)
    return empty


def _reading_engine(url: URL) -> Engine | None:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True).execution_options(postgresql_readonly=True)
    file = url.database
    if not file or file == ":memory:":
        return None
    if not file.startswith("file:"):
        if not Path(file).exists():
            return None
        # mode=rw and not ro: a reader that may not write cannot roll back what a crashed writer
        # left behind.
        location = f"file:{quote(str(Path(file).absolute()))}"
        url = url.set(database=location).update_query_dict({"mode": "rw", "uri": "true"})
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401, ARG001
        connection.isolation_level = None
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Without it each query of a transaction would see another moment.
        connection.exec_driver_sql("BEGIN")

    return engine


def upgrade(engine: Engine) -> None:
    """Create the ledger's tables where there are none, and bring older ones up to date.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
    """
    if _version_in(engine) == SCHEMA_VERSION:
        return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two processes may come here at once; CREATE TABLE IF NOT EXISTS alone can collide.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7190113214)")
        metadata.create_all(connection)
        if connection.execute(select(version.c.version)).first() is None:
            connection.execute(insert(version).values(version=SCHEMA_VERSION))


def _version_in(engine: Engine) -> int | None:
    """Return the schema version of a ledger; None where its tables are not there, or not all.

    Raises:
        LedgerTooNew: it is a later one.
    """
    tables = set(inspect(engine).get_table_names())
    if version.name not in tables:
        return None
    with engine.connect().execution_options(ledger_reads=True) as connection:
        found: int | None = connection.execute(select(version.c.version)).scalar_one_or_none()
    if found is not None and found > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"the ledger has schema version {found}, this package knows {SCHEMA_VERSION}: "
            "install a later imagepipeline-dagster"
        )
    return found if tables >= metadata.tables.keys() else None
