"""Inserts of rows that may be there already, in the words of either database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def values_of(record: DataclassInstance) -> dict[str, Any]:
    """Return a row that has the names of a record's fields as its columns."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def upsert(
    connection: Connection, table: Table, values: dict[str, Any], *, replace: Sequence[str]
) -> Any:  # noqa: ANN401 - one of two dialects' own insert
    """Return an insert that, where the row exists, sets the columns of `replace` (or nothing)."""
    return insert(connection, table, replace=tuple(replace)).values(values)


def insert(connection: Connection, table: Table, *, replace: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return the same without its values, to be executed with them."""
    return insert_for(connection.dialect.name, table, replace)


# Kept: building such a statement costs SQLAlchemy more than executing it.
@cache
def insert_for(dialect_name: str, table: Table, replace: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return the same for a dialect by its name."""
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    statement = dialect.insert(table)
    key = [column.name for column in table.primary_key]
    if not replace:
        return statement.on_conflict_do_nothing(index_elements=key)
    return statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in replace}
    )
