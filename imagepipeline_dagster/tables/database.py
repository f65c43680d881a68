"""Databases by URL: their engines, the tables as they have them, and the errors about both."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from imagepipeline_dagster.databases import cause_of, parsed_url, shown_url
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    TableMapping,
    columns_of,
)
from imagepipeline_dagster.tables.spelling import did_you_mean

__all__ = [
    "ColumnMissing",
    "FoundTable",
    "RowRefused",
    "SetsMerged",
    "TableMissing",
    "TablesError",
    "TablesUnavailable",
    "check_mapping",
    "find_table",
    "reporting_database_errors",
    "source_engine",
    "writing",
]

_CONNECT_SECONDS = 10  # a sensor has 60 s for everything
_PSYCOPG = "postgresql+psycopg"


class TablesError(Exception):
    """Something about the two tables that a person has to put right.

    - TablesUnavailable: the database cannot be reached
    - TableMissing: it has no such table
    - ColumnMissing: the table has no such column
    - RowRefused: the table's own rules do not allow a row
    - SetsMerged: the database takes the names of two prompt sets for one
    """


class TablesUnavailable(TablesError):
    """The database cannot be reached or read; names its URL without the password."""


class RowRefused(TablesError):
    """A constraint of the table does not allow a row; nothing of its transaction was written."""


class TableMissing(TablesError):
    """The database has no such table; names those that it has."""


class ColumnMissing(TablesError):
    """The table has no such column; names those that it has."""


class SetsMerged(TablesError):
    """The database takes the names of two prompt sets for one; names one of them."""


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


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A mapped table as the database has it: `types` holds our columns which it has."""

    mapping: TableMapping
    types: Mapping[str, sa.types.TypeEngine[Any]]

    def column(self, name: str) -> sa.ColumnClause[Any]:
        """Return our column under the user's name for it, its values as the driver gives them."""
        # Without the column's type: SQLite keeps texts in columns declared as times or booleans,
        # and SQLAlchemy's reading of those types fails on them.
        return sa.column(self.mapping.column(name))

    @property
    def prompt_set(self) -> sa.ColumnClause[Any]:
        """The column of the sets, to compare with: without a type where it holds texts."""
        of = self.types["prompt_set"]
        if isinstance(of, sa.String) and not isinstance(of, sa.Enum):
            return self.column("prompt_set")
        return sa.column(self.mapping.column("prompt_set"), of)

    def exact_prompt_set(self, connection: sa.Connection) -> sa.ColumnElement[Any]:
        """Return the column of the sets, to group by: names are equal where their letters are.

        A collation that ignores case would make `spring` and `Spring` one group. Databases other
        than SQLite and PostgreSQL are taken at their word; what they merge is refused later.
        """
        if connection.dialect.name == "sqlite":
            return sa.collate(self.column("prompt_set"), "BINARY")
        if isinstance(self.types["prompt_set"], CITEXT):
            return sa.cast(self.column("prompt_set"), sa.Text)
        return self.column("prompt_set")

    def clause(self) -> sa.TableClause:
        """Return the table, for FROM."""
        return sa.table(self.mapping.name, schema=self.mapping.schema)


def check_mapping(mapping: TableMapping, row_type: type[PromptRow | EmbeddingRow]) -> None:
    """Refuse a mapping of columns that are not ours; no database is asked.

    Raises:
        ColumnMissing: with the columns that there are.
    """
    ours = columns_of(row_type)
    unknown = sorted(set(mapping.columns) - set(ours))
    if unknown:
        kind = _kind(row_type)
        raise ColumnMissing(
            f"The mapping of the {kind} table names {_listed(unknown)}, which "
            f"{kind} do not have.{did_you_mean(unknown[0], ours)} "
            f"Their columns: {_listed(ours)}."
        )


def find_table(
    connection: sa.Connection, mapping: TableMapping, row_type: type[PromptRow | EmbeddingRow]
) -> FoundTable:
    """Look up a mapped table.

    Raises:
        TableMissing: with the tables that there are.
        ColumnMissing: when a required column, or one that is mapped by name, is not there; with the
            columns that are.
    """
    inspector = sa.inspect(connection)
    kind = _kind(row_type)
    if not inspector.has_table(mapping.name, schema=mapping.schema):
        raise TableMissing(_without_table(inspector, mapping, kind))
    with warnings.catch_warnings():
        # Types that SQLAlchemy does not know (vectors, shapes) are in columns that are not ours.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        found = {
            column["name"]: column["type"]
            for column in inspector.get_columns(mapping.name, schema=mapping.schema)
        }
    check_mapping(mapping, row_type)
    ours = columns_of(row_type)
    missing = [
        name
        for name, column in ours.items()
        if (column.required or name in mapping.columns) and mapping.column(name) not in found
    ]
    if missing:
        theirs = [mapping.column(name) for name in missing]
        raise ColumnMissing(
            f"The {kind} table {mapping.table!r} has no column {_listed(theirs)}. It has: "
            f"{_listed(found)}. Map a column of another name: "
            f'columns={{"{missing[0]}": "<its name in your table>"}}.'
        )
    present = {name: found[mapping.column(name)] for name in ours if mapping.column(name) in found}
    return FoundTable(mapping=mapping, types=present)


def _kind(row_type: type[PromptRow | EmbeddingRow]) -> str:
    return "prompts" if row_type is PromptRow else "embeddings"


def _without_table(inspector: sa.Inspector, mapping: TableMapping, kind: str) -> str:
    try:
        names = sorted(
            {
                *inspector.get_table_names(schema=mapping.schema),
                *inspector.get_view_names(schema=mapping.schema),
            }
        )
    except (sa.exc.NoSuchTableError, NotImplementedError):  # a dialect that lists no views
        names = []
    where = f"schema {mapping.schema!r}" if mapping.schema else "the database"
    there = f"has: {_listed(names)}" if names else "has no tables"
    return (
        f"There is no {kind} table {mapping.table!r}; {where} {there}. Name your own table in the "
        'mapping (TableMapping("schema.table", …)), or make one: `imagepipeline-dagster init`.'
    )


def _listed(names: Any) -> str:  # noqa: ANN401 - any iterable of names
    return ", ".join(repr(name) for name in names)
