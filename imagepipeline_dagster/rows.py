"""A stage's table as dataclasses, Arrow tables and data frames: one definition of its columns.

The dataclass is the definition. Each field is `str`, `int`, `float`, `bool` or `datetime` (UTC),
or one of these or None; its column's description is the field's `metadata["description"]`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from _typeshed import DataclassInstance

__all__ = [
    "TableRows",
    "arrow_schema",
    "arrow_table",
    "column",
    "content_hash",
    "parquet_table",
    "rows_of",
]

RowT = TypeVar("RowT", bound="DataclassInstance")

# A row as Python's objects takes some kB, in an Arrow table its bytes.
_ROWS_AT_ONCE = 1000


def column(description: str, **options: Any) -> Any:  # noqa: ANN401 - dataclasses.field's own types
    """Return a dataclass field with the description of its column."""
    return dataclasses.field(metadata={"description": description}, **options)


@cache
def _field_types(row_type: type[DataclassInstance]) -> dict[str, tuple[type, bool]]:
    """Map each field to its plain type and whether None is allowed."""
    fields = {}
    for name, hint in typing.get_type_hints(row_type).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [option for option in options if option is not type(None)]
        fields[name] = (plain[0], len(options) > len(plain))
    return fields


def parquet_table(
    file: Path | bytes | pa.NativeFile, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of a Parquet file, with these columns or all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(file) if isinstance(file, bytes) else file
    # Not read_table: a thread of its scanner can outlive a short process, and aborts its end.
    with pq.ParquetFile(source) as opened:
        return opened.read(None if columns is None else list(columns))


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
    columns = _field_types(row_type)
    return pa.schema(
        [
            pa.field(
                field.name,
                next(arrow for plain, arrow in arrow_types.items() if plain in _plain_bases(of)),
                nullable=nullable,
                metadata={"description": str(field.metadata.get("description", ""))},
            )
            for field in dataclasses.fields(row_type)
            for of, nullable in [columns[field.name]]
        ]
    )


def _plain_bases(of: type) -> tuple[type, ...]:
    # bool is an int, and a StrEnum a str: the most specific column type wins.
    return (bool,) if of is bool else of.__mro__


def arrow_table(rows: Iterable[RowT], row_type: type[RowT]) -> pa.Table:
    """Return the rows as an Arrow table with the row type's schema, also when there are none.

    Raises:
        ValueError: when a row has None where the row type has no None.
    """
    import pyarrow as pa

    schema, remaining = arrow_schema(row_type), iter(rows)
    parts = [schema.empty_table()]
    while some := list(islice(remaining, _ROWS_AT_ONCE)):
        columns = {name: [getattr(row, name) for row in some] for name in schema.names}
        parts.append(pa.table(columns, schema=schema))
    table = pa.concat_tables(parts)
    for field in table.schema:
        # Arrow itself notices only when the table is written or read again, far from the cause.
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"{field.name} is never null, but a row has none")
    return table


def rows_of(table: pd.DataFrame | pa.Table, row_type: type[RowT]) -> list[RowT]:
    """Return a table's rows; columns that the row type does not know are left out.

    A column that may be null, and that an older version did not store, is null.
    """
    import pyarrow as pa

    schema = arrow_schema(row_type)
    if not isinstance(table, pa.Table):
        there = [f for f in schema if f.name in table.columns or not f.nullable]
        names = [field.name for field in there]
        table = pa.Table.from_pandas(table[names], schema=pa.schema(there), preserve_index=False)
    columns = [
        table.column(field.name).to_pylist()
        if field.name in table.column_names or not field.nullable
        else [None] * table.num_rows
        for field in schema
    ]
    return [
        row_type(**dict(zip(schema.names, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]


class TableRows(Collection[RowT]):
    """The rows of a table, as often as they are wanted; of a large one, some at a time."""

    def __init__(self, table: pa.Table, row_type: type[RowT]) -> None:
        self._table = table
        self._row_type = row_type

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._table.num_rows)

    def __contains__(self, row: object) -> bool:
        """Tell whether a row is among them."""
        return any(row == one for one in self)

    def __iter__(self) -> Iterator[RowT]:
        """Yield the rows in their order."""
        if len(self) <= _ROWS_AT_ONCE:
            yield from self._few
            return
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from rows_of(self._table.slice(start, _ROWS_AT_ONCE), self._row_type)

    @cached_property
    def _few(self) -> list[RowT]:
        return rows_of(self._table, self._row_type)


def content_hash(rows: Iterable[DataclassInstance], *, leave_out: Set[str]) -> str:
    """Return a hash of what the rows say, whatever their order: 32 hex digits.

    `leave_out` names the fields that are circumstance, not content.
    """
    digests = sorted(
        hashlib.blake2b(
            json.dumps(
                [
                    [field.name, getattr(row, field.name)]
                    for field in dataclasses.fields(row)
                    if field.name not in leave_out
                ],
                default=str,
            ).encode("ascii"),
            digest_size=16,
        ).digest()
        for row in rows
    )
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
