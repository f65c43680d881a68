"""The cheap questions: the newest time, and of each prompt set its rows and their newest time.

None of them reads content. A newest time is kept as text: `stored_time` writes it, and it is equal
where the database's value is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.reading import PromptsTable
from imagepipeline_dagster.tables.values import read_text

_LONGEST_TEXT = 64  # it is kept with every tick
_TO_THE_SECOND = len("2026-05-01 12:00:00")


@dataclass(frozen=True, slots=True)
class SetSummary:
    """A prompt set's number of rows and newest time; `value` is its name as the database has it."""

    prompt_set: str
    rows: int
    newest: str | None
    value: Any


def newest_time(prompts: PromptsTable) -> str | None:
    """Return the newest time in the prompts table; None where there is none, or no such column."""
    table = prompts.table
    with prompts.reporting() as connection:
        return stored_time(connection.scalar(table.select(sa.func.max(table.updated_at))))


def count_unassigned(prompts: PromptsTable) -> int:
    """Return the number of rows whose prompt set is null: nothing is made from them."""
    unassigned = prompts.table.column("prompt_set").is_(None)
    with prompts.reporting() as connection:
        return connection.scalar(prompts.table.select(sa.func.count()).where(unassigned)) or 0


def sets_since(prompts: PromptsTable, newest: str, *, at_most: int) -> list[str]:
    """Return the sets with a row of this time or later, `at_most` of them.

    Counted from the whole second: a database's own clock may have no finer times.
    """
    is_late = prompts.table.updated_at >= _whole_second(_time_of(newest))
    return sorted({read_text(raw) or "" for raw in prompts.set_values(is_late, at_most=at_most)})


def summarise_sets(
    prompts: PromptsTable, prompt_sets: Collection[str] | None = None
) -> list[SetSummary]:
    """Return the summaries of these sets, or of all, in the database's own order of their names."""
    table = prompts.table
    with prompts.reporting() as connection:
        exact = prompts.exact_prompt_set
        query = (
            table.select(exact, sa.func.count(), sa.func.max(table.updated_at))
            .where(prompts.among(prompt_sets))
            .group_by(exact)
            .order_by(exact)
        )
        rows = connection.execute(query).all()
    summaries = _by_name(SetSummary(read_text(v) or "", n, stored_time(t), v) for v, n, t in rows)
    names = None if prompt_sets is None else frozenset(prompt_sets)
    return [summary for summary in summaries if names is None or summary.prompt_set in names]


def refuse_merged_sets(prompts: PromptsTable, prompt_sets: Collection[str]) -> None:
    """Refuse a table in which one of these sets is found under another's name only.

    Raises:
        TablesError: names it and the other.
    """
    for name in sorted(prompt_sets):
        names = sorted(read_text(raw) or "" for raw in prompts.set_values(prompts.among([name])))
        if names and name not in names:
            raise TablesError(
                f"The database takes the prompt sets {names[0]!r} and {name!r} for one: the "
                "collation of the column prompt_set does not tell them apart. Give it one that "
                "compares every character, or rename one of the sets."
            )


def _by_name(summaries: Iterable[SetSummary]) -> Iterable[SetSummary]:
    # In SQLite the number 1 and the text '1' are two groups, and one name.
    by_name: dict[str, SetSummary] = {}
    for summary in summaries:
        earlier = by_name.get(summary.prompt_set)
        rows = summary.rows + (earlier.rows if earlier else 0)
        by_name[summary.prompt_set] = replace(summary, rows=rows)
    return by_name.values()


def stored_time(raw: object) -> str | None:
    """Return a time as the ledger and a sensor's cursor keep it: its kind, and its value."""
    match raw:
        case None:
            return None
        case dt.datetime():
            return f"time {raw.astimezone(dt.UTC) if raw.tzinfo else raw}"
        case dt.date():
            return f"date {raw}"
        case int() | float() | Decimal():
            return f"number {raw}"
        case _:
            return f"text {str(raw)[:_LONGEST_TEXT]}"


def _time_of(stored: str) -> Any:  # noqa: ANN401 - what the column holds
    kind, _, value = stored.partition(" ")
    match kind:
        case "time":
            return dt.datetime.fromisoformat(value)
        case "date":
            return dt.date.fromisoformat(value)
        case "number":
            return float(value) if "." in value or "e" in value else int(value)
        case _:
            return value


def is_later(stored: str, other: str) -> bool:
    """Tell whether a stored time is later than another, as far as the two compare."""
    try:
        return bool(_time_of(stored) > _time_of(other))
    except TypeError:
        return False


def lasts_seconds(stored: str) -> float:
    """Return how long it is the time, at most: another row may get the same one until then.

    A day for a date, and for a text that is too short for seconds.
    """
    kind, _, value = stored.partition(" ")
    is_coarse = kind == "date" or (kind == "text" and len(value) < _TO_THE_SECOND)
    return 86_400.0 if is_coarse else 1.0


def _whole_second(time: Any) -> sa.ColumnElement[Any]:  # noqa: ANN401 - what the column holds
    match time:
        case dt.datetime():
            zoned = sa.DateTime(timezone=time.tzinfo is not None)
            return sa.literal(time.replace(microsecond=0), zoned)
        case str():
            return sa.literal(time[:_TO_THE_SECOND])
        case _:
            return sa.literal(time)
