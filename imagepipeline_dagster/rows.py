"""A stage's table as dataclasses and as Arrow tables: one definition of its columns.

The dataclass, which has slots, is the definition. Each field is `str`, `int`, `float`, `bool` or
`datetime` (UTC), or one of these or None; its column's description is the field's
`metadata["description"]`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
import json
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from functools import cache
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import DataclassInstance


RowT = TypeVar("RowT", bound="DataclassInstance")

# A row as Python's objects takes some kB, in a stored table some hundred bytes. So many are a group
# of Parquet's too.
_ROWS_AT_ONCE = 1000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def column(description: str, **options: Any) -> Any:  # noqa: ANN401 - dataclasses.field's own types
    """Return a dataclass field with the description of its column."""
    return dataclasses.field(metadata={"description": description}, **options)


def fields_of(record: DataclassInstance, *names: str) -> dict[str, Any]:
    """Return these fields of a record by their names; all of them where none is named."""
    return {name: getattr(record, name) for name in names or record.__dataclass_fields__}


@cache
def _setters(row_type: type[DataclassInstance]) -> dict[str, Callable[[Any, Any], None]]:
    """Return what sets each field of a new row, in a seventh of the time of a frozen `__init__`."""
    return {name: getattr(row_type, name).__set__ for name in row_type.__dataclass_fields__}


def row_with(row_type: type[RowT], values: Iterable[object]) -> RowT:
    """Return a row with a value for each field, in their order."""
    row = object.__new__(row_type)
    for put, value in zip(_setters(row_type).values(), values, strict=True):
        put(row, value)
    return row


def extended(
    record: DataclassInstance,
    row_type: type[RowT],
    **more: Any,  # noqa: ANN401 - of any field
) -> RowT:
    """Return a row with these fields; those of its type that are not named are the record's."""
    names = row_type.__dataclass_fields__
    return row_with(
        row_type, (more[name] if name in more else getattr(record, name) for name in names)
    )


def parquet_table(
    file: Path | bytes | pa.NativeFile, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of a Parquet file, with these columns or all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(file) if isinstance(file, bytes) else file
    # Not read_table, and no threads: one that outlives a short process aborts its end.
    with pq.ParquetFile(source) as opened:
        return opened.read(None if columns is None else list(columns), use_threads=False)


@cache
def arrow_schema(row_type: type[DataclassInstance]) -> pa.Schema:
    """Return the Arrow schema of a row type: UTF-8 text, 64-bit numbers, UTC microseconds."""
    import pyarrow as pa

    arrow_types: dict[type, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        dt.datetime: pa.timestamp("us", tz="UTC"),
    }
    descriptions = {
        field.name: str(field.metadata.get("description", ""))
        for field in dataclasses.fields(row_type)
    }
    fields = []
    for name, hint in typing.get_type_hints(row_type).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = next(option for option in options if option is not types.NoneType)
        # bool is an int, and a StrEnum a str: the most specific column type wins.
        bases = (bool,) if plain is bool else plain.__mro__
        arrow = next(arrow for base, arrow in arrow_types.items() if base in bases)
        described = {"description": descriptions[name]}
        fields.append(pa.field(name, arrow, types.NoneType in options, described))
    return pa.schema(fields)


def _arrow_tables(rows: Iterable[RowT], row_type: type[RowT]) -> Iterator[pa.Table]:
    """Yield the rows as tables of the row type's schema, some rows at a time."""
    import pyarrow as pa

    schema, remaining = arrow_schema(row_type), iter(rows)
    while some := list(islice(remaining, _ROWS_AT_ONCE)):
        columns = {name: [getattr(row, name) for row in some] for name in schema.names}
        table = pa.table(columns, schema=schema)
        for field in schema:
            # Arrow itself notices only when the table is written or read, far from the cause.
            if not field.nullable and table.column(field.name).null_count:
                raise ValueError(f"{field.name} is never null, but a row has none")
        yield table


def rows_of(table: pa.Table, row_type: type[RowT]) -> list[RowT]:
    """Return a table's rows; columns that the row type does not know are left out.

    A column that may be null, and that an older version did not store, is null.
    """
    schema = arrow_schema(row_type)
    stored = set(table.column_names)  # asked for each field, they would take most of the time
    rows = [object.__new__(row_type) for _ in range(table.num_rows)]
    for field in schema:
        is_there = field.name in stored or not field.nullable
        values = _values(table.column(field.name)) if is_there else [None] * len(rows)
        # Column by column, and in C: a set's rows are decoded several times.
        deque(map(_setters(row_type)[field.name], rows, values), maxlen=0)
    return rows


def _values(column: pa.ChunkedArray[Any]) -> list[Any]:
    import pyarrow as pa

    if column.type == pa.timestamp("us", tz="UTC"):
        # Arrow itself takes twenty times as long to make a time.
        microseconds = column.cast(pa.int64()).to_pylist()
        return [it if it is None else _EPOCH + dt.timedelta(0, 0, it) for it in microseconds]
    return _shared(column.to_pylist())


def _shared(values: list[Any]) -> list[Any]:
    """Return the values; a text that all rows have is held once, for all tables together.

    A hundred thousand rows of small tables take a third less memory so.
    """
    text = values[0] if values else None
    if type(text) is not str or values.count(text) < len(values):
        return values
    return [sys.intern(text)] * len(values)


class StoredTable:
    """A table as it is stored, in Parquet: of a long one, some rows at a time are decoded.

    `encoded` are its bytes, which are all that a long one takes of memory. A short one whose rows
    were asked for is decoded once.
    """

    def __init__(self, encoded: bytes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.encoded = encoded
        self._file = pq.ParquetFile(pa.BufferReader(encoded))
        self._short: pa.Table | None = None
        self._short_rows: dict[type, list[Any]] = {}

    @classmethod
    def of(cls, rows: Iterable[RowT], row_type: type[RowT]) -> Self:
        """Return the table of these rows, which are taken one at a time.

        Raises:
            ValueError: when a row has None where the row type has no None.
        """
        import pyarrow.parquet as pq

        file, schema = io.BytesIO(), arrow_schema(row_type)
        parts = _arrow_tables(rows, row_type)
        first = next(parts, schema.empty_table())
        # Of a few rows zstd takes most of the time, to write and to read them, and saves nothing.
        is_long = first.num_rows == _ROWS_AT_ONCE
        with pq.ParquetWriter(file, schema, compression="zstd" if is_long else "snappy") as writer:
            for part in filter(len, chain([first], parts)):
                writer.write_table(part)
        return cls(file.getvalue())

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self._file.metadata.num_rows)

    def rows(self, row_type: type[RowT]) -> Collection[RowT]:
        """Return the rows; those of a long table are decoded whenever they are gone through."""
        if self.num_rows > _ROWS_AT_ONCE:
            return _StoredRows(self, row_type)
        if row_type not in self._short_rows:
            if self._short is None:
                self._short = self._file.read(use_threads=False)
            self._short_rows[row_type] = rows_of(self._short, row_type)
        return self._short_rows[row_type]

    def rows_between(self, start: int, stop: int, row_type: type[RowT]) -> list[RowT]:
        """Return the rows from `start` to before `stop`."""
        if row_type in self._short_rows:
            return self._short_rows[row_type][start:stop]
        return rows_of(self.between(start, stop, arrow_schema(row_type).names), row_type)

    def columns(self, *names: str) -> pa.Table:
        """Return these columns of all rows."""
        return self.between(0, self.num_rows, names)

    def values(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield what each row has in these columns."""
        for start in range(0, self.num_rows, _ROWS_AT_ONCE):
            some = self.between(start, start + _ROWS_AT_ONCE, columns)
            yield from zip(*(column.to_pylist() for column in some.itercolumns()), strict=True)

    def between(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows from `start` to before `stop`, with those of the columns that exist."""
        if self._short is not None:
            there = [name for name in columns if name in self._short.column_names]
            return self._short.select(there).slice(start, stop - start)
        stored = set(self._file.schema_arrow.names)
        there = [name for name in columns if name in stored]
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = list(accumulate(sizes, initial=0))
        groups = [
            group for group in range(len(sizes)) if ends[group] < stop and start < ends[group + 1]
        ]
        # Tables are small and many: one thread each costs less than Arrow's own.
        table = self._file.read_row_groups(groups, there, use_threads=False)
        return table.slice(start - ends[groups[0]], stop - start) if groups else table


class _StoredRows(Collection[RowT]):
    """The rows of a long table."""

    def __init__(self, table: StoredTable, row_type: type[RowT]) -> None:
        self._table = table
        self._row_type = row_type

    def __len__(self) -> int:
        return self._table.num_rows

    def __contains__(self, row: object) -> bool:
        return any(row == one for one in self)

    def __iter__(self) -> Iterator[RowT]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._table.rows_between(start, start + _ROWS_AT_ONCE, self._row_type)


def content_hash(rows: Iterable[DataclassInstance], *, leave_out: Set[str]) -> str:
    """Return a hash of what the rows say, whatever their order: 32 hex digits.

    `leave_out` names the fields that are circumstance, not content.
    """
    encode = json.JSONEncoder(default=str).encode
    digests = sorted(
        hashlib.blake2b(
            encode([it for it in fields_of(row).items() if it[0] not in leave_out]).encode("ascii"),
            digest_size=16,
        ).digest()
        for row in rows
    )
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
