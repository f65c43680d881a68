"""A table that rows are written to: those that are new or different, and no others."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from imagepipeline_dagster.tables.database import ColumnMissing, FoundTable, find_table
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    TableMapping,
    columns_of,
)

__all__ = ["TargetTable", "ValueUnfit", "Written", "key_columns"]

Values = Mapping[str, Any]
"""A row by our names."""


class ValueUnfit(ValueError):
    """A column of the user's table is of a type that cannot hold the value."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many rows were new, different, and as they had been."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
        )


def key_columns(row_type: type[PromptRow | EmbeddingRow]) -> tuple[str, ...]:
    """Return the columns which tell a table's rows apart."""
    return ("prompt_set", "prompt_id") if row_type is PromptRow else ("embedding_id",)


class TargetTable:
    """One of the two tables as the database has it, within a connection's transaction.

    Raises:
        TableMissing, ColumnMissing: as `find_table`, and for columns that are to be written.
    """

    def __init__(
        self,
        connection: sa.Connection,
        mapping: TableMapping,
        row_type: type[PromptRow | EmbeddingRow],
        *,
        columns: Sequence[str],
    ) -> None:
        self._connection = connection
        self._found = find_table(connection, mapping, row_type)
        self._ours = columns_of(row_type)
        self._keys = key_columns(row_type)
        self._columns = tuple(dict.fromkeys((*self._keys, *columns)))
        _check_columns(self._found, self._columns)
        self._table = sa.Table(
            mapping.name,
            sa.MetaData(),
            *(
                sa.Column(mapping.column(name), of, key=name)
                for name, of in self._found.types.items()
            ),
            schema=mapping.schema,
        )
        self._stamps = "updated_at" in self._found.types
        self._upserts = self._has_unique_key()

    def write(self, rows: Sequence[Values], *, now: dt.datetime) -> Written:
        """Insert the rows that are not there and update those that are different.

        `updated_at` becomes `now` in the rows that are written, unless they bring one. Columns that
        the rows do not bring keep what they hold.

        Raises:
            ValueUnfit: when a column of the table cannot hold a value.
        """
        there = self._those_there(rows)
        new, different = [], []
        for row in rows:
            earlier = there.get(self._key(row))
            if earlier is None:
                new.append(self._stored(row, now))
            elif any(earlier[name] != value for name, value in self._brought(row).items()):
                different.append(self._stored(row, now))
        if self._upserts:
            self._upsert([*new, *different])
        else:
            self._insert(new)
            self._update(different)
        return Written(
            inserted=len(new),
            updated=len(different),
            unchanged=len(rows) - len(new) - len(different),
        )

    def _key(self, row: Values) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._keys)

    def _brought(self, row: Values) -> dict[str, Any]:
        # A file may have times for some rows only; the others get theirs when they change.
        return {
            name: row[name]
            for name in self._columns
            if name != "updated_at" or row[name] is not None
        }

    def _those_there(self, rows: Sequence[Values]) -> dict[tuple[Any, ...], dict[str, Any]]:
        keys = sa.tuple_(*(self._table.c[name] for name in self._keys))
        wanted = [tuple(self._fitted(name, row[name]) for name in self._keys) for row in rows]
        # Values as the driver gives them, for the same reason as in FoundTable.column.
        query = (
            sa.select(*(self._found.column(name) for name in self._columns))
            .select_from(self._table)
            .where(keys.in_(wanted))
        )
        found = [
            {
                name: self._ours[name].read(raw)
                for name, raw in zip(self._columns, values, strict=True)
            }
            for values in self._connection.execute(query)
        ]
        return {self._key(row): row for row in found}

    def _stored(self, row: Values, now: dt.datetime) -> dict[str, Any]:
        """Return the row as it is bound: the same columns for every row."""
        stored = {name: self._fitted(name, row[name]) for name in self._columns}
        if self._stamps:
            stored["updated_at"] = self._fitted("updated_at", row.get("updated_at") or now)
        return stored

    def _fitted(self, name: str, value: object) -> object:
        try:
            return _fitted(value, self._found.types[name])
        except ValueError:
            raise ValueUnfit(
                f"{name}: {value!r} does not fit the column "
                f"{self._found.mapping.column(name)!r} of {self._found.mapping.table!r}, which "
                f"is of type {self._found.types[name]!r}"
            ) from None

    def _has_unique_key(self) -> bool:
        """Return whether the database itself keeps the key unique: ON CONFLICT needs that."""
        if self._connection.dialect.name not in _INSERTS:
            return False
        inspector = sa.inspect(self._connection)
        place = (self._found.mapping.name, self._found.mapping.schema)
        unique = [inspector.get_pk_constraint(*place)["constrained_columns"]]
        unique += [found["column_names"] for found in inspector.get_unique_constraints(*place)]
        wanted = {self._found.mapping.column(name) for name in self._keys}
        return any(set(columns) == wanted for columns in unique)

    def _upsert(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        insert = _INSERTS[self._connection.dialect.name](self._table)
        changed = {name: insert.excluded[name] for name in rows[0] if name not in self._keys}
        keys = [self._table.c[name] for name in self._keys]
        statement = (
            insert.on_conflict_do_update(index_elements=keys, set_=changed)
            if changed
            else insert.on_conflict_do_nothing(index_elements=keys)
        )
        self._connection.execute(statement, rows)

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._connection.execute(sa.insert(self._table), rows)

    def _update(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            here = [self._table.c[name] == row[name] for name in self._keys]
            changed = {name: value for name, value in row.items() if name not in self._keys}
            self._connection.execute(sa.update(self._table).where(*here).values(changed))


_INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _check_columns(found: FoundTable, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in found.types]
    if missing:
        raise ColumnMissing(
            f"The table {found.mapping.table!r} has no column for "
            f"{', '.join(map(repr, missing))}, which the file brings. Add it to the table, map it, "
            "or leave it out of the file."
        )


def _fitted(value: Any, column_type: sa.types.TypeEngine[Any]) -> Any:  # noqa: ANN401 - bound
    """Return a value as a column of the user's type takes it, which may not be the type of ours."""
    try:
        python_type: type = column_type.python_type
    except NotImplementedError:
        python_type = str
    match value:
        case None:
            return None
        case tuple():
            return list(value) if python_type in (list, dict) else _words_text(value)
        case dt.datetime():
            # A column without time zones holds UTC.
            has_zone = getattr(column_type, "timezone", False)
            fitted = value if has_zone else value.replace(tzinfo=None)
            return fitted if python_type is dt.datetime else value.isoformat()
        case bool() if python_type is str:
            return str(value).lower()
        case float() if python_type is int and not value.is_integer():
            raise ValueError("would be rounded")
        case _ if python_type in (str, int, float, uuid.UUID):
            return python_type(value)
        case _:
            return value


def _words_text(words: tuple[str, ...]) -> str:
    has_comma = any("," in word or word.startswith("[") for word in words)
    return json.dumps(words, ensure_ascii=False) if has_comma else ", ".join(words)
