"""A mapped table as the database has it, and mappings that name what is not there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.errors import ColumnMissing, TableMissing
from imagepipeline_dagster.tables.schema import (
    PromptRow,
    RowT,
    RowType,
    TableMapping,
    columns_of,
    row_reader,
)
from imagepipeline_dagster.tables.spelling import did_you_mean, listed

CHUNK = 2_000
"""Rows held at a time while streaming."""


@dataclass(frozen=True, slots=True)
class MappedTable:
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

    @property
    def updated_at(self) -> sa.ColumnElement[Any]:
        """The column of times; null where the table has none."""
        return self.column("updated_at") if "updated_at" in self.types else sa.null()

    def select(self, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        """Return a query of these columns of the table."""
        table = sa.table(self.mapping.name, schema=self.mapping.database_schema)
        return sa.select(*columns).select_from(table)


def rows_in(
    connection: sa.Connection,
    table: MappedTable,
    row_type: type[RowT],
    *wanted: sa.ColumnElement[bool],
    order_by: Sequence[str] = (),
) -> Iterator[RowT]:
    """Yield a table's rows for which these conditions hold, some thousands in memory at a time."""
    names = tuple(table.types)
    query = (
        table.select(*map(table.column, names))
        .where(*wanted)
        .order_by(*map(table.column, order_by))
        .execution_options(yield_per=CHUNK)
    )
    read = row_reader(row_type, names)
    # Closed by hand: whoever stops halfway would leave a server's cursor open.
    with connection.execute(query) as result:
        for values in result:
            yield read(values)


def check_mapping(mapping: TableMapping, row_type: RowType) -> None:
    """Refuse a mapping of columns that are not ours; no database is asked.

    Raises:
        ColumnMissing: with the columns that there are.
    """
    ours = columns_of(row_type)
    unknown = sorted(set(mapping.columns) - set(ours))
    if unknown:
        kind = _kind(row_type)
        raise ColumnMissing(
            f"The mapping of the {kind} table names {listed(unknown)}, which "
            f"{kind} do not have.{did_you_mean(unknown[0], ours)} "
            f"Their columns: {listed(ours)}."
        )


def find_table(connection: sa.Connection, mapping: TableMapping, row_type: RowType) -> MappedTable:
    """Look up a mapped table.

    Raises:
        TableMissing: with the tables that there are.
        ColumnMissing: when a required column, or one that is mapped by name, is not there; with the
            columns that are.
    """
    inspector = sa.inspect(connection)
    kind = _kind(row_type)
    if not _has_schema(inspector, mapping):
        raise TableMissing(_without_schema(inspector, mapping))
    if not inspector.has_table(mapping.name, schema=mapping.database_schema):
        raise TableMissing(_without_table(inspector, mapping, kind))
    with warnings.catch_warnings():
        # Types that SQLAlchemy does not know (vectors, shapes) are in columns that are not ours.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        types = {
            column["name"]: column["type"]
            for column in inspector.get_columns(mapping.name, schema=mapping.database_schema)
        }
    check_mapping(mapping, row_type)
    ours = columns_of(row_type)
    missing = [
        name
        for name, column in ours.items()
        if (column.required or name in mapping.columns) and mapping.column(name) not in types
    ]
    if missing:
        theirs = [mapping.column(name) for name in missing]
        raise ColumnMissing(
            f"The {kind} table {mapping.table!r} has no column {listed(theirs)}. It has: "
            f"{listed(types)}. Map a column of another name: "
            f'columns={{"{missing[0]}": "<its name in your table>"}}.'
        )
    present = {name: types[mapping.column(name)] for name in ours if mapping.column(name) in types}
    return MappedTable(mapping=mapping, types=present)


def _kind(row_type: RowType) -> str:
    return "prompts" if row_type is PromptRow else "embeddings"


def _without_table(inspector: sa.Inspector, mapping: TableMapping, kind: str) -> str:
    try:
        names = sorted(
            {
                *inspector.get_table_names(schema=mapping.database_schema),
                *inspector.get_view_names(schema=mapping.database_schema),
            }
        )
    except (sa.exc.NoSuchTableError, NotImplementedError):  # a dialect that lists no views
        names = []
    if mapping.database_schema and not names:
        return _without_schema(inspector, mapping)
    where = f"schema {mapping.database_schema!r}" if mapping.database_schema else "the database"
    there = f"has: {listed(names)}" if names else "has no tables"
    return (
        f"There is no {kind} table {mapping.table!r}; {where} {there}. Name your own table "
        f"(`{kind}: {{table: schema.table}}` in YAML, {kind}=TableMapping('schema.table') in "
        "Python), or make one: `imagepipeline-dagster init`."
    )


def _has_schema(inspector: sa.Inspector, mapping: TableMapping) -> bool:
    # Elsewhere a schema may be hidden and its tables not; SQLite fails on one that is not attached.
    is_sqlite = inspector.dialect.name == "sqlite"
    schema = mapping.database_schema
    return not (is_sqlite and schema) or schema in inspector.get_schema_names()


def _without_schema(inspector: sa.Inspector, mapping: TableMapping) -> str:
    schema = mapping.database_schema or ""
    hint = did_you_mean(schema, inspector.get_schema_names())
    return f"There is no schema {schema!r} with tables in it.{hint}"
