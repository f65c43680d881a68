"""Times of rows that hide newer rows from whoever asks for the newest time alone."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.mapped import CHUNK
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.spelling import quoted
from imagepipeline_dagster.tables.values import read_time

_SOON = dt.timedelta(days=1)  # clocks and time zones differ
_MOST_ROWS = 1_000_000  # they take some two of a tick's sixty seconds
_TO_THE_SECOND = len("2026-05-01 12:00:00")
_AS_ZERO = str.maketrans("123456789", "000000000")
# Of seconds since 1970 and their fractions; fewer digits may count anything.
_PARTS_OF_A_SECOND = {10: 1, 13: 10**3, 16: 10**6, 19: 10**9}


def misleading_time(prompts: PromptsTable, *, now: dt.datetime) -> str | None:
    """Return which row's time hides newer ones from whoever asks for the newest, and why.

    None where none does: the newest is a time that has come, and all are spelled alike, so that
    their order in the database is that of the times. Of a table of more than a million rows, so
    many are looked at for their spelling.
    """
    table = prompts.table
    time = table.updated_at
    rows = table.select(table.column("prompt_set"), table.column("prompt_id"), time)
    newest_time = table.select(sa.func.max(time)).scalar_subquery()
    with prompts.reporting() as connection:
        newest = connection.execute(rows.where(time == newest_time).limit(1)).first()
        if newest is None:
            return None
        if problem := _problem_of(newest[2], now):
            return _sentence(newest, problem)
        if isinstance(newest[2], dt.date):
            return None  # a column of times has no spellings
        return _odd_spelling(connection, rows.where(time.is_not(None)).limit(_MOST_ROWS))


def _problem_of(newest: object, now: dt.datetime) -> str | None:
    moment = _moment(newest)
    if isinstance(moment, str):
        return "no time like 2026-05-01T12:00:00Z"
    return "in the future" if moment is not None and moment > now + _SOON else None


def _odd_spelling(connection: sa.Connection, rows: sa.Select[Any]) -> str | None:
    counts: Counter[str] = Counter()
    examples: dict[str, Sequence[Any]] = {}
    with connection.execute(rows.execution_options(yield_per=CHUNK)) as result:
        for row in result:
            spelling = _spelling(row[2])
            counts[spelling] += 1
            examples.setdefault(spelling, row)
    if len(counts) < 2:
        return None
    (common, _), *_, (odd, _) = counts.most_common()
    prompt_set, prompt_id, time = examples[common]
    usual = f"{str(time)!r} in {quoted(str(prompt_set), str(prompt_id))}"
    return _sentence(examples[odd], f"spelled otherwise than {usual}")


def _sentence(row: Sequence[Any], problem: str) -> str:
    prompt_set, prompt_id, time = row
    name = quoted(str(prompt_set), str(prompt_id))
    return f"updated_at of {name} is {str(time)!r}, {problem}"


def _digits_of(raw: object) -> str | None:
    """Return the digits of what counts seconds, or parts of them; None where it is no number."""
    text = str(int(raw)) if isinstance(raw, int | float | Decimal) else str(raw)
    return text if text.isascii() and text.isdecimal() else None


def _moment(raw: object) -> dt.datetime | str | None:
    """Return a time; None where a number may count anything, and the text of what is none."""
    digits = _digits_of(raw)
    if digits is None:
        return read_time(raw)
    parts = _PARTS_OF_A_SECOND.get(len(digits))
    return dt.datetime.fromtimestamp(int(digits) // parts, dt.UTC) if parts else None


def _spelling(raw: object) -> str:
    """Return what is the same in values whose order in the database is that of their times."""
    if (digits := _digits_of(raw)) is not None:
        length = len(digits) if len(digits) in _PARTS_OF_A_SECOND else 0
        return f"{'text' if isinstance(raw, str) else 'number'} of {length} digits"
    text = str(raw)
    rest = text[_TO_THE_SECOND:]
    if rest.startswith("."):
        rest = re.sub(r"^\.[0-9]+", "", rest)
    return text[:_TO_THE_SECOND].translate(_AS_ZERO) + rest
