"""A table that rows are written to: those that are new or different, and no others."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.errors import ColumnMissing
from imagepipeline_dagster.tables.mapped import CHUNK, find_table
from imagepipeline_dagster.tables.schema import TableMapping, columns_of, key_columns
from imagepipeline_dagster.tables.spelling import listed
from imagepipeline_dagster.tables.transfer.changes import ChangeKind, RowChange
from imagepipeline_dagster.tables.transfer.incoming import IncomingRows
from imagepipeline_dagster.tables.transfer.staging import Values
from imagepipeline_dagster.tables.values import (
    Kind,
    read_number,
    read_text,
    read_whole,
    shown,
    words_text,
)

_AS_TEXT = (sa.String, sa.Integer, sa.LargeBinary, sa.types.NullType)
"""Types that SQLAlchemy and SQLite agree about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binding:
    """How a column's values are bound.

    `limit` is the length of the longest text; `makes_numbers` says that a text which looks like a
    number becomes one, `is_plain` that any text is bound as it is.
    """

    bound: sa.types.TypeEngine[Any]
    python_type: type
    has_zone: bool
    limit: int | None
    makes_numbers: bool
    is_plain: bool


def _binding(of: sa.types.TypeEngine[Any], kind: Kind, *, is_sqlite: bool) -> _Binding:
    """Return how values of our kind are bound to a column of the user's type.

    SQLite keeps a text in a column of any type, as STRING and DATE, and may make a number of it.
    SQLAlchemy takes such a type at its word, and fails on the text.
    """
    is_text = kind in (Kind.TEXT, Kind.WORDS, Kind.TIME)
    known = (*_AS_TEXT, sa.Date, sa.DateTime) if kind is Kind.TIME else _AS_TEXT
    is_loose = is_sqlite and is_text and not isinstance(of, known)
    bound = sa.types.NullType() if is_loose else of
    try:
        python_type: type = bound.python_type
    except NotImplementedError:  # a type of the user's database that SQLAlchemy has no Python for
        python_type = str
    # SQLite keeps longer texts than a column is declared for.
    limit = None if is_sqlite else getattr(bound, "length", None)
    return _Binding(
        bound=bound,
        python_type=python_type,
        has_zone=getattr(bound, "timezone", False),
        limit=limit,
        makes_numbers=is_loose,
        is_plain=python_type is str and not (limit or is_loose),
    )


class TargetTable:
    """The table that a file's rows are for as the database has it, within a transaction.

    Raises:
        TableMissing, ColumnMissing: as `find_table`, and for columns that are to be written.
    """

    def __init__(
        self, connection: sa.Connection, mapping: TableMapping, incoming: IncomingRows
    ) -> None:
        self._connection = connection
        self._incoming = incoming
        self._mapped = find_table(connection, mapping, incoming.row_type)
        self._ours = columns_of(incoming.row_type)
        self._keys = key_columns(incoming.row_type)
        self._columns = tuple(dict.fromkeys((*self._keys, *incoming.columns)))
        missing = [name for name in self._columns if name not in self._mapped.types]
        if missing:
            raise ColumnMissing(
                f"The table {mapping.table!r} has no column for {listed(missing)}, which the file "
                "brings. Add it to the table, map it, or leave it out of the file."
            )
        self._bindings = {
            name: _binding(of, self._ours[name].kind, is_sqlite=connection.dialect.name == "sqlite")
            for name, of in self._mapped.types.items()
        }
        self._table = sa.Table(
            mapping.name,
            sa.MetaData(),
            *(
                sa.Column(mapping.column(name), binding.bound, key=name)
                for name, binding in self._bindings.items()
            ),
            schema=mapping.database_schema,
        )
        self._stamps = "updated_at" in self._mapped.types

    def compared(self, rows: Sequence[Values]) -> list[RowChange]:
        """Return what becomes of each row when it is written; nothing is written yet.

        Raises:
            ImportRefused: when a column of the table cannot hold a value, or takes the key of a row
                and another one, which it has, for the same.
        """
        there = self._those_there(rows)
        return [RowChange(before=there.get(self._key(row)), after=row) for row in rows]

    def apply(self, changes: Sequence[RowChange], *, now: dt.datetime) -> int:
        """Insert rows that are new, update those that are different, and delete those that go.

        `updated_at` becomes `now` in the rows that are written, unless they bring one. Columns that
        the rows do not bring keep what they hold. Returns how many rows went: all of a key that
        goes, however many changes have it.

        Raises:
            ImportRefused: when a column of the table cannot hold a value.
        """
        new = self._rows_to_write(changes, ChangeKind.INSERTED, now)
        different = [
            {f"key_{name}" if name in self._keys else name: value for name, value in row.items()}
            for row in self._rows_to_write(changes, ChangeKind.UPDATED, now)
        ]
        if new:
            self._connection.execute(sa.insert(self._table), new)
        if different:
            # No upsert: its INSERT fails where the table needs a value that the file lacks.
            self._connection.execute(sa.update(self._table).where(*self._has_key()), different)
        return self._delete([c.values for c in changes if c.kind is ChangeKind.DELETED])

    def check(self, changes: Sequence[RowChange]) -> None:
        """Find out whether `apply` could write the rows.

        Raises:
            ImportRefused: when a column of the table cannot hold a value.
        """
        for kind in (ChangeKind.INSERTED, ChangeKind.UPDATED):
            self._rows_to_write(changes, kind, dt.datetime.now(dt.UTC))

    def keys_of_sets(self, prompt_sets: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield each row's key in these prompt sets; a null id is the empty text."""
        wanted = [self._fitted("prompt_set", name) for name in prompt_sets]
        query = (
            sa.select(*(self._mapped.column(name) for name in self._keys))
            .select_from(self._table)
            .where(self._table.c.prompt_set.in_(wanted))
            .execution_options(yield_per=CHUNK)
        )
        names = set(prompt_sets)
        with self._connection.execute(query) as result:
            for raw in result:
                key = self._read(self._keys, raw)
                # Compared here too, because some collations ignore case.
                if key["prompt_set"] in names:
                    yield self._key(key)

    def _key(self, row: Values) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._keys)

    def _those_there(self, rows: Sequence[Values]) -> dict[tuple[Any, ...], dict[str, Any]]:
        # Joined with their keys: SQLite uses no index for a list of pairs, and would read the whole
        # table for each chunk of rows.
        number = sa.column("wanted_row", sa.Integer)
        names = [sa.column(f"wanted_{name}", self._bindings[name].bound) for name in self._keys]
        keys = [
            (index, *(self._fitted_key(name, row[name]) for name in self._keys))
            for index, row in enumerate(rows)
        ]
        wanted = sa.values(number, *names).data(keys).cte("wanted")
        is_wanted = (self._table.c[name] == wanted.c[f"wanted_{name}"] for name in self._keys)
        # Values as the driver gives them, for the same reason as in MappedTable.column.
        query = sa.select(
            wanted.c.wanted_row, *(self._mapped.column(name) for name in self._columns)
        ).select_from(wanted.join(self._table, sa.and_(*is_wanted)))
        rows_by_key = {}
        for index, *raw in self._connection.execute(query):
            stored = self._read(self._columns, raw)
            for name in self._keys:
                # Collations and padded types call keys equal that are different texts.
                self._check_same(name, rows[index][name], stored[name])
            rows_by_key[self._key(stored)] = stored
        return rows_by_key

    def _read(self, columns: Sequence[str], raw: Sequence[object]) -> dict[str, Any]:
        return {
            name: self._ours[name].read(value) for name, value in zip(columns, raw, strict=True)
        }

    def _rows_to_write(
        self, changes: Sequence[RowChange], kind: ChangeKind, now: dt.datetime
    ) -> list[dict[str, Any]]:
        return [self._stored(change.values, now) for change in changes if change.kind is kind]

    def _stored(self, row: Values, now: dt.datetime) -> dict[str, Any]:
        """Return the row as it is bound: the same columns for every row."""
        stored = {name: self._fitted(name, row[name]) for name in self._columns}
        if self._stamps:
            stored["updated_at"] = self._fitted("updated_at", row.get("updated_at") or now)
        return stored

    def _fitted(self, name: str, value: object) -> object:
        binding = self._bindings[name]
        if value is None or (binding.is_plain and type(value) is str):
            return value
        try:
            fitted = _fitted(value, binding)
            if binding.limit and isinstance(fitted, str) and len(fitted) > binding.limit:
                raise ValueError("is too long")
        except (ValueError, ArithmeticError):
            raise self._incoming.refused(
                f"{name}: {shown(value)} does not fit the column "
                f"{self._mapped.mapping.column(name)!r} of {self._mapped.mapping.table!r}, which "
                f"is of type {self._mapped.types[name]!r}"
            ) from None
        if binding.makes_numbers and isinstance(fitted, str):
            self._check_same(name, fitted, _as_sqlite_number(fitted))
        return fitted

    def _fitted_key(self, name: str, value: str) -> object:
        fitted = self._fitted(name, value)
        # A number has no leading zeros: the row would be read under another key than the file's.
        self._check_same(name, value, self._ours[name].read(fitted))
        return fitted

    def _check_same(self, name: str, wanted: str, held: str) -> None:
        if wanted != held:
            raise self._incoming.refused(
                f"{name}: the column {self._mapped.mapping.column(name)!r} of "
                f"{self._mapped.mapping.table!r} takes {wanted!r} and {held!r} for the same; write "
                f"{held!r} in the file"
            )

    def _has_key(self) -> list[sa.ColumnElement[bool]]:
        return [self._table.c[name] == sa.bindparam(f"key_{name}") for name in self._keys]

    def _delete(self, rows: list[Values]) -> int:
        keys = {self._key(row): row for row in rows}
        fitted = [
            {f"key_{name}": self._fitted(name, row[name]) for name in self._keys}
            for key, row in keys.items()
            if all(key)
        ]
        counts = [
            self._delete_without_id(row["prompt_set"]) for key, row in keys.items() if not all(key)
        ]
        if fitted:
            delete = sa.delete(self._table).where(*self._has_key())
            counts.append(self._connection.execute(delete, fitted).rowcount)
        # Some drivers do not tell.
        return len(rows) if any(count < 0 for count in counts) else sum(counts)

    def _delete_without_id(self, prompt_set: str) -> int:
        prompt_id = self._table.c.prompt_id
        return self._connection.execute(
            sa.delete(self._table).where(
                self._table.c.prompt_set == self._fitted("prompt_set", prompt_set),
                sa.or_(prompt_id.is_(None), sa.cast(prompt_id, sa.Text) == ""),
            )
        ).rowcount


def _as_sqlite_number(text: str) -> str:
    """Return a text as SQLite has it in a column of numbers, where it stays if it is none."""
    number = read_whole(text)
    return read_text(read_number(text) if isinstance(number, str) else number) or ""


def _fitted(value: Any, binding: _Binding) -> Any:  # noqa: ANN401 - bound
    """Return a value as a column of the user's type takes it, which may not be the type of ours."""
    python_type = binding.python_type
    match value:
        case None:
            return None
        case tuple():
            return list(value) if python_type in (list, dict) else words_text(value)
        case dt.datetime():
            # A column without time zones holds UTC.
            fitted = value if binding.has_zone else value.replace(tzinfo=None)
            if python_type is dt.date:
                return fitted.date()
            return fitted if python_type is dt.datetime else value.isoformat()
        case bool() if python_type is str:
            return str(value).lower()
        case float() if python_type is int and not value.is_integer():
            raise ValueError("would be rounded")
        case str() if python_type in (dt.date, dt.datetime):
            return python_type.fromisoformat(value)
        case _ if python_type in (str, int, float, Decimal, uuid.UUID):
            return python_type(value)
        case _:
            return value
