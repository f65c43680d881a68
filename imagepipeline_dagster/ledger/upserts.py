"""Inserts of rows that may be there already, in the words of either database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def put(
    connection: Connection,
    table: Table,
    rows: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    replace: Sequence[str] = (),
) -> None:
    """Insert a row, or several; of one that is there set the columns of `replace`, or nothing."""
    connection.execute(insert(connection.dialect.name, table, tuple(replace)), rows)


# Kept: building such a statement costs SQLAlchemy more than executing it.
@cache
def insert(dialect_name: str, table: Table, replace: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - one of two dialects' own insert
    """Return the same for a dialect by its name, to be executed with its values."""
    dialect = postgresql if dialect_name == "postgresql" else sqlite
    statement = dialect.insert(table)
    key = [column.name for column in table.primary_key]
    if not replace:
        return statement.on_conflict_do_nothing(index_elements=key)
    return statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in replace}
    )
