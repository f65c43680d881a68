"""Whether a prompt set's rows are as they were: a sum over the rows as the database has them.

A checksum is cheaper than a fingerprint, and says less. Equal checksums mean equal rows; different
ones may mean the same content in other words (`1` for `true`), on another driver or server. So a
set whose checksum differs is read, and its fingerprint decides.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.mapped import CHUNK, MappedTable
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.summaries import SetSummary
from imagepipeline_dagster.tables.values import read_text

_BYTES = 16
# Of marshal's formats the last in which equal rows have equal bytes.
_MARSHAL_VERSION = 2


def checksums_among(prompts: PromptsTable, prompt_sets: Collection[str]) -> dict[str, str]:
    """Return the checksums of these sets; one without rows is absent. `updated_at` is not in it."""
    return _checksums(prompts, prompts.among(prompt_sets))


def checksums_between(prompts: PromptsTable, first: SetSummary, last: SetSummary) -> dict[str, str]:
    """Return the checksums of all sets from one to another, in the database's own order."""
    column: sa.ColumnElement[Any] = prompts.table.prompt_set
    if isinstance(column.type, sa.types.NullType):  # texts
        column = prompts.exact_prompt_set
    return _checksums(prompts, sa.and_(column >= first.value, column <= last.value))


def _checksums(prompts: PromptsTable, wanted: sa.ColumnElement[bool]) -> dict[str, str]:
    sums: dict[str, int] = {}
    with prompts.reporting() as connection:
        in_database = connection.dialect.name == "postgresql"
        add_up = _summed_by_postgresql if in_database else _summed_here
        for raw, number in add_up(prompts, wanted):
            name = read_text(raw) or ""
            sums[name] = sums.get(name, 0) + number
    return {name: f"{number % 2 ** (8 * _BYTES):x}" for name, number in sums.items()}


def _content_columns(table: MappedTable) -> list[sa.ColumnClause[Any]]:
    return [table.column(name) for name in table.types if name not in ("prompt_set", "updated_at")]


def _summed_by_postgresql(
    prompts: PromptsTable, wanted: sa.ColumnElement[bool]
) -> Iterator[tuple[Any, int]]:
    row = sa.cast(sa.func.row(*_content_columns(prompts.table)), sa.Text)
    column = prompts.exact_prompt_set
    number_of_set = sa.func.sum(sa.func.hashtextextended(row, 0))
    query = prompts.table.select(column, number_of_set).where(wanted).group_by(column)
    for raw, number in prompts.connection.execute(query):
        yield raw, int(number)


def _summed_here(
    prompts: PromptsTable, wanted: sa.ColumnElement[bool]
) -> Iterator[tuple[Any, int]]:
    table = prompts.table
    query = table.select(table.column("prompt_set"), *_content_columns(table))
    with prompts.connection.execute(query.where(wanted)) as result:
        # From the driver itself: SQLAlchemy's rows would add a fifth. SQLite's cursor streams.
        cursor: Any = result.cursor
        while rows := cursor.fetchmany(CHUNK):
            for row in rows:
                yield row[0], _row_number(row)


def _row_number(row: Sequence[Any]) -> int:
    try:
        # A quarter of the time that repr() takes.
        text = marshal.dumps(tuple(row), _MARSHAL_VERSION)
    except ValueError:  # a time, a decimal, a uuid
        text = repr(tuple(row)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=_BYTES).digest())
