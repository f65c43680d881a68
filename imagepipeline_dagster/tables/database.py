"""Databases by URL: their engines, the tables as they have them, and the errors about both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from imagepipeline_dagster.databases import cause_of, parsed_url, shown_url
from imagepipeline_dagster.tables.errors import RowRefused, TablesUnavailable

__all__ = ["reporting_database_errors", "source_engine", "writing"]

_CONNECT_SECONDS = 10  # a sensor has 60 s for everything
_PSYCOPG = "postgresql+psycopg"


def _parsed(url: str) -> URL:
    try:
        return parsed_url(url)
    except ValueError as error:
        raise TablesUnavailable(f"The tables' database: {error}") from None


def _file_of(url: URL) -> Path | None:
    """Return the SQLite file which the URL names, if it names one by its path."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    if url.database == ":memory:" or url.database.startswith("file:"):
        return None
    return Path(url.database)


def _check_exists(file: Path, url: URL) -> None:
    if not file.exists():
        raise TablesUnavailable(
            f"There is no SQLite file {file.absolute()} (from {shown_url(url)}). "
            "`imagepipeline-dagster init` makes one with sample prompts; "
            "IMAGEPIPELINE_TABLES_URL names another."
        )


def source_engine(url: str) -> sa.Engine:
    """Return an engine which only reads: it never makes a SQLite file, and refuses to write.

    Raises:
        TablesUnavailable: when the URL cannot be read, its driver is not installed, or the SQLite
            file does not exist.
    """
    parsed = _parsed(url)
    file = _file_of(parsed)
    if file is not None:
        _check_exists(file, parsed)
        # mode=rw and not ro: a reader that may not write cannot roll back what a crashed writer
        # left behind. Writing is refused by query_only below.
        location = f"file:{quote(str(file.absolute()))}"
        parsed = parsed.set(database=location).update_query_dict({"mode": "rw", "uri": "true"})
    engine = _engine(parsed, reading=True)
    if file is not None:
        # At each connection: the engine may be older than the loss of the file.
        sa.event.listen(engine, "do_connect", lambda *_: _check_exists(file, parsed))
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _refuse_writes)
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine


@contextlib.contextmanager
def writing(url: str, *, create_file: bool = False) -> Iterator[sa.Connection]:
    """Give a connection in one transaction, table definitions included: all of it or nothing.

    A SQLite file is made, with its folder, only if asked for.

    Raises:
        TablesUnavailable: when the database cannot be used.
        RowRefused: when a constraint does not allow what is written.
    """
    parsed = _parsed(url)
    file = _file_of(parsed)
    if file is not None and create_file:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    elif file is not None:
        _check_exists(file, parsed)
    engine = _engine(parsed)
    if engine.dialect.name == "sqlite":
        # The driver would commit before each CREATE TABLE, and begin only at the first INSERT.
        sa.event.listen(engine, "connect", _leave_transactions_alone)
        sa.event.listen(engine, "begin", _begin_writing)
    try:
        with reporting_database_errors(url), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _engine(url: URL, *, reading: bool = False) -> sa.Engine:
    arguments: dict[str, Any] = {}
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.drivername == _PSYCOPG and "connect_timeout" not in url.query:
        arguments["connect_timeout"] = _CONNECT_SECONDS
    if url.get_backend_name() in ("sqlite", "duckdb"):
        # An open connection would go on reading a file that was replaced, or keep DuckDB's writers
        # out; a new one costs next to nothing.
        options = {"poolclass": sa.pool.NullPool}
    if url.get_backend_name() == "duckdb" and reading:
        arguments["read_only"] = True
    try:
        return sa.create_engine(url, connect_args=arguments, **options)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        extra = (
            " (pip install 'imagepipeline-dagster[postgres]')" if "psycopg" in str(error) else ""
        )
        raise TablesUnavailable(
            f"No driver for {shown_url(url)} is installed{extra}: {error}"
        ) from error


def _refuse_writes(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()


def _leave_transactions_alone(connection: Any, _: ConnectionPoolEntry) -> None:  # noqa: ANN401
    connection.isolation_level = None  # sqlite3's own word for it


def _begin_writing(connection: sa.Connection) -> None:
    # At once: two imports wait for each other instead of failing halfway.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextlib.contextmanager
def reporting_database_errors(url: str) -> Iterator[None]:
    """Turn the driver's errors into ours, which say where and what to do.

    Raises:
        RowRefused: when a constraint does not allow what is written.
        TablesUnavailable: for all other errors.
    """
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise RowRefused(
            f"The tables at {shown_url(_parsed(url))} refuse a row, and nothing was changed: "
            f"{cause_of(error)}"
        ) from error
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        raise TablesUnavailable(
            f"The tables at {shown_url(_parsed(url))} cannot be used: {cause_of(error)} "
            "Check that the database runs, and the URL in IMAGEPIPELINE_TABLES_URL."
        ) from error
