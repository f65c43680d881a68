"""Whether a value may be brought into a column; if not, what is wrong with it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from imagepipeline_dagster.api.contract import RANGES, Range
from imagepipeline_dagster.tables.schema import Column
from imagepipeline_dagster.tables.values import Kind

__all__ = ["problem_of", "shown"]

_SHOWN_VALUE = 60  # characters
# A table's row may ask for more images than one call of the API gives.
_RANGES = {**RANGES, "samples": Range(1, 10_000)}


def problem_of(column: Column, raw: object, value: Any) -> str | None:  # noqa: ANN401 - by kind
    """Return what is wrong with a raw value, which the column read as `value`, or None.

    It shows the value as it was given, and says what is expected.
    """
    if column.required and not str(value).strip():
        return "is empty"
    if value is None:
        return None
    match column.kind:
        case Kind.TEXT:
            return _problem_of_text(column, raw, value)
        case Kind.WORDS:
            return next(filter(None, map(_problem_of_characters, value)), None)
        case Kind.WHOLE | Kind.NUMBER:
            return _problem_of_number(column, raw, value)
        case Kind.FLAG:
            return None if isinstance(value, bool) else f"{shown(raw)} is not true or false"
        case Kind.TIME:
            is_time = isinstance(value, dt.datetime)
            return None if is_time else f"{shown(raw)} is not a time like 2026-05-01T12:00:00Z"


def _problem_of_text(column: Column, raw: object, value: str) -> str | None:
    if isinstance(raw, list | dict):
        return f"{shown(raw)} is not text"
    if column.choices and value not in column.choices:
        return f"{shown(raw)} is not one of {', '.join(column.choices)}"
    return _problem_of_characters(value)


def _problem_of_characters(text: str) -> str | None:
    if "\x00" in text:
        return f"{shown(text)} has a NUL character, which databases do not take"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{shown(text)} has half of a surrogate pair, which is not Unicode text"
    return None


def _problem_of_number(column: Column, raw: object, value: float | str) -> str | None:
    permitted = _RANGES[column.name]
    number = int if column.kind is Kind.WHOLE else float
    if not isinstance(value, number):
        return f"{shown(raw)} is not {column.kind} from {permitted}"
    if not permitted.low <= value <= permitted.high:
        return f"{shown(raw)} is outside {permitted}"
    return None


def shown(value: object) -> str:
    """Return a value as a message shows it: quoted where it is text, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"
