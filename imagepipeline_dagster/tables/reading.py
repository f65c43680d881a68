"""Rows out of the user's tables, as they are now; nothing is ever written."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT

from imagepipeline_dagster.tables.database import reporting_database_errors, source_engine
from imagepipeline_dagster.tables.errors import TableMissing, TablesError
from imagepipeline_dagster.tables.mapped import CHUNK, MappedTable, find_table, rows_in
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    RowType,
    TableMapping,
    source_json,
)
from imagepipeline_dagster.tables.values import read_text

_QUERY_SECONDS = 40  # a sensor has 60 for everything
_OUR_EMBEDDINGS = TableMapping("embeddings")
_LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


class SourceTables:
    """The two tables behind a SQLAlchemy URL, read only. Close it, or use it in a `with` block.

    The plain forms `postgresql://` and `postgres://` mean psycopg 3. Tables and columns are looked
    up once, when first needed, and again after an error or `look_up_again()`; a column of ours that
    a table lacks reads as null. A query may take 40 seconds on PostgreSQL.

    Every method raises `TablesUnavailable`, `TableMissing` or `ColumnMissing`, whose messages say
    what to do.
    """

    def __init__(
        self,
        url: str,
        *,
        prompts: TableMapping = TableMapping("prompts"),
        embeddings: TableMapping = _OUR_EMBEDDINGS,
    ) -> None:
        self._url = url
        self._engine = source_engine(url)
        self.prompts_mapping = prompts
        self._embeddings_mapping = embeddings
        self._tables: dict[type, MappedTable] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def prompt_sets(self) -> list[str]:
        """Return the names of the prompt sets, sorted; rows without one are left out."""
        with self.open_prompts() as prompts:
            names = {read_text(raw) for raw in prompts.set_values()}
        return sorted(name for name in names if name is not None)

    def prompts(self, prompt_set: str) -> list[PromptRow]:
        """Return the rows of one prompt set in the order of their ids; none where it is unknown."""
        return sorted(self.iter_prompts([prompt_set]), key=lambda row: row.prompt_id)

    def iter_prompts(self, prompt_sets: Collection[str] | None = None) -> Iterator[PromptRow]:
        """Yield the rows of these sets, or of all, in no order, 2,000 in memory at a time."""
        with self._connected() as connection:
            prompts = PromptsTable(self, connection, self.table(connection, PromptRow))
            # Compared here too, because some collations ignore case.
            names = None if prompt_sets is None else frozenset(prompt_sets)
            for row in rows_in(connection, prompts.table, PromptRow, prompts.among(names)):
                if names is None or row.prompt_set in names:
                    yield row

    def prompt_ids(self) -> dict[str, set[str]]:
        """Return the prompt ids of each prompt set; rows without a set are left out."""
        ids: dict[str, set[str]] = {}
        with self._connected() as connection:
            table = self.table(connection, PromptRow)
            prompt_set, prompt_id = table.column("prompt_set"), table.column("prompt_id")
            query = (
                table.select(prompt_set, prompt_id)
                .where(prompt_set.is_not(None))
                .execution_options(yield_per=CHUNK)
            )
            with connection.execute(query) as result:
                for raw_set, raw_id in result:
                    ids.setdefault(read_text(raw_set) or "", set()).add(read_text(raw_id) or "")
        return ids

    def embeddings(self) -> dict[str, EmbeddingRow]:
        """Return the embeddings by id. Where an id stands twice, the newest row counts.

        There are none where no table of them is there or named, and no prompt could name one.
        """
        with self._connected() as connection:
            try:
                table = self.table(connection, EmbeddingRow)
            except TableMissing:
                is_named = self._embeddings_mapping != _OUR_EMBEDDINGS
                if is_named or "embeddings" in self.table(connection, PromptRow).types:
                    raise
                return {}
            known = table.column("embedding_id").is_not(None)
            rows = sorted(rows_in(connection, table, EmbeddingRow, known), key=_age)
        return {row.embedding_id: row for row in rows}

    def look_up_again(self) -> None:
        """Forget which columns the tables have: somebody may have added one."""
        self._tables = {}

    @contextlib.contextmanager
    def open_prompts(self) -> Iterator[PromptsTable]:
        """Give the prompts table, open for many questions on one connection."""
        with self.reporting():
            connection = self._engine.connect()
        # The caller does other things in between, whose errors are not the tables'.
        with connection:
            with self.reporting(), _transaction(connection):
                table = self.table(connection, PromptRow)
            yield PromptsTable(self, connection, table)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Say what is wrong with the tables; for the modules of this package."""
        try:
            with reporting_database_errors(self._url):
                yield
        except TablesError:
            self.look_up_again()
            raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with self.reporting(), self._engine.connect() as connection, _transaction(connection):
            yield connection

    def table(self, connection: sa.Connection, row_type: RowType) -> MappedTable:
        """Return a table as the database has it; for the modules of this package."""
        table = self._tables.get(row_type)
        if table is None:
            mapping = self.prompts_mapping if row_type is PromptRow else self._embeddings_mapping
            # Another thread may forget it at any moment.
            self._tables[row_type] = table = find_table(connection, mapping, row_type)
        return table


@dataclass(frozen=True, slots=True)
class PromptsTable:
    """The prompts table, open: a connection, and the columns that the table has.

    The cheap questions of `summaries` and `checksums` are asked of it, one after another. Each is a
    transaction of its own: a longer one would keep those out who write to a SQLite file.
    """

    source: SourceTables
    connection: sa.Connection
    table: MappedTable

    def looked_up_again(self) -> PromptsTable:
        """Return the same with the columns that the table has now: somebody may have added one."""
        self.source.look_up_again()
        with self.reporting() as connection:
            return dataclasses.replace(self, table=self.source.table(connection, PromptRow))

    @contextlib.contextmanager
    def reporting(self) -> Iterator[sa.Connection]:
        """Give the connection, and say what is wrong with the tables where a query fails."""
        with self.source.reporting(), _transaction(self.connection):
            yield self.connection

    @property
    def exact_prompt_set(self) -> sa.ColumnElement[Any]:
        """The column of the sets, to group by: names are equal where their letters are.

        A collation that ignores case would make `spring` and `Spring` one group. Databases other
        than SQLite and PostgreSQL are taken at their word; what they merge is refused later.
        """
        column = self.table.column("prompt_set")
        if self.connection.dialect.name == "sqlite":
            return sa.collate(column, "BINARY")
        is_citext = isinstance(self.table.types["prompt_set"], CITEXT)
        return sa.cast(column, sa.Text) if is_citext else column

    def among(self, prompt_sets: Collection[str] | None) -> sa.ColumnElement[bool]:
        """Return the condition that a row is of one of these sets, or of any."""
        column = self.table.prompt_set
        if prompt_sets is None:
            return column.is_not(None)
        if isinstance(column.type, sa.types.NullType):
            return column.in_(prompt_sets)
        # A number, a uuid or an enum: compared as the database has it, not as text.
        names = frozenset(prompt_sets)
        return column.in_([raw for raw in self.set_values() if read_text(raw) in names])

    def set_values(self, *wanted: sa.ColumnElement[bool], at_most: int | None = None) -> list[Any]:
        """Return the names of the sets with such rows, as the database has them."""
        column = self.exact_prompt_set
        query = self.table.select(column).distinct().where(column.is_not(None), *wanted)
        with self.reporting() as connection:
            return list(connection.scalars(query.limit(at_most)))


@contextlib.contextmanager
def _transaction(connection: sa.Connection) -> Iterator[None]:
    """Give queries a transaction and a limit of time; within another they are part of that."""
    if connection.in_transaction():
        yield
        return
    with connection.begin():
        if connection.dialect.name == "postgresql":
            milliseconds = int(1000 * _QUERY_SECONDS)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        yield


def _age(row: EmbeddingRow) -> tuple[dt.datetime, str]:
    # The text decides between rows of one time, so that every reading chooses the same.
    time = row.updated_at if isinstance(row.updated_at, dt.datetime) else _LONG_AGO
    return time, source_json(row)
