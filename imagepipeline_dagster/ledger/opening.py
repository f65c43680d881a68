"""A ledger opened: for writing, brought up to date first, or for reading alone.

SQLite runs in WAL mode with every commit on disk; PostgreSQL as it is.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from sqlalchemy import Connection, Engine, column, create_engine, insert, inspect, select, table
from sqlalchemy.engine import URL
from sqlalchemy.pool import StaticPool

from imagepipeline_dagster.databases import (
    copy_sqlite,
    engine_that_reads,
    engine_that_writes,
    make_private_file,
    sqlite_file,
)
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.schema import SCHEMA_VERSION, identity, metadata

_VERSION = table("ledger_version", column("version_num"))


class LedgerTooNew(CorrectableError):
    """The ledger was written by a later version of this package."""


class LedgerTooOld(CorrectableError):
    """The ledger lacks tables, and is opened in a way that creates none."""


def open_ledger_for_writing(url: URL) -> Engine:
    """Return the engine of a ledger, made where there is none and brought up to date.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
    """
    file = sqlite_file(url)
    if file is not None:
        make_private_file(file)
    engine = engine_that_writes(url, write_ahead=True)
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_ledger_for_reading(url: URL) -> Engine:
    """Return the engine of a ledger that is only read: no file and no table is made.

    Where there is no ledger it is that of an empty one, in memory.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
        LedgerTooOld: they are of an earlier one.
    """
    file = sqlite_file(url)
    in_memory = url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:"
    if not in_memory and (file is None or file.exists()):
        engine = engine_that_reads(url)
        with engine.connect() as connection:
            version = _version_in(connection)
        if version == SCHEMA_VERSION:
            return engine
        engine.dispose()
        if version is not None:
            # Read as an empty one, it would look as if nothing had ever been bought.
            raise LedgerTooOld(
                f"the ledger has schema version {version}, this package {SCHEMA_VERSION}: "
                "a run brings it up to date"
            )
    empty = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(empty)
    return empty


def upgrade(engine: Engine) -> None:
    """Create the ledger's tables where there are none, and bring older ones up to date.

    Of several processes one does it, in one transaction, and the others wait. Before a SQLite file
    is changed, it is copied beside itself.

    Raises:
        LedgerTooNew: the tables are of a later version than this package knows.
    """
    with engine.connect().execution_options(only_reads=True) as connection:
        if _version_in(connection) == SCHEMA_VERSION:
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two processes may come here at once; CREATE TABLE IF NOT EXISTS alone can collide.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7190113214)")
        version = _version_in(connection)
        if version == SCHEMA_VERSION:
            return
        # Under the lock of its writers.
        if version is not None and (file := sqlite_file(engine.url)) is not None:
            copy_sqlite(file, file.with_name(f"{file.name}.version-{version}"))
        _migrate(connection, version)


def _migrate(connection: Connection, version: int | None) -> None:
    """Carry out the revisions that the ledger lacks; one without tables gets those of today."""
    # Here, since a ledger is opened by every command and every second tick.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext, MigrationStep
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).with_name("migrations"))
    revisions = ScriptDirectory(folder, version_locations=[folder])

    def missing(heads: tuple[str, ...], _: MigrationContext) -> list[MigrationStep]:
        there = revisions.iterate_revisions("head", heads or "base")
        return [
            MigrationStep.upgrade_from_script(revisions.revision_map, revision)
            for revision in reversed(list(there))
        ]

    context = MigrationContext.configure(
        connection, opts={"version_table": _VERSION.name, "fn": missing}
    )
    if version is None:
        metadata.create_all(connection)
        connection.execute(insert(identity).values(ledger_id=uuid.uuid4().hex, purchases=0))
        context.stamp(revisions, "head")
        return
    if version == 1:
        # It was no table of alembic's.
        connection.exec_driver_sql(f"DROP TABLE {_VERSION.name}")
    with Operations.context(context):
        context.run_migrations()


def _version_in(connection: Connection) -> int | None:
    """Return the schema version of a ledger, None where there is none.

    Raises:
        LedgerTooNew: it is a later one.
    """
    tables = inspect(connection)
    if not tables.has_table(_VERSION.name):
        return None
    # Version 1 kept its number itself, in a column of another name.
    names = {described["name"] for described in tables.get_columns(_VERSION.name)}
    if "version_num" not in names:
        return 1
    version = int(connection.execute(select(_VERSION.c.version_num)).scalar_one())
    if version > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"the ledger has schema version {version}, this package knows {SCHEMA_VERSION}: "
            "install a later imagepipeline-dagster"
        )
    return version
