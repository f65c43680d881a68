"""What people put into columns, read as the column's type where that is unambiguous.

A value that cannot be read comes back as it was, so that whoever validates it can show it.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum

__all__ = [
    "Kind",
    "read_flag",
    "read_number",
    "read_text",
    "read_time",
    "read_whole",
    "read_words",
    "reader_of",
    "words_text",
]


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    FLAG = "true or false"
    WORDS = "words"
    TIME = "a time"


_TRUE = frozenset({"true", "t", "yes", "y", "on", "1", "1.0"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0", "0.0"})
# Python's own parsers also take "1_000", other scripts' digits and endless ones.
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def read_text(raw: object) -> str | None:
    """Return text: numbers and ids as they are written, white space kept; None for null and NaN."""
    match raw:
        case str() | None:
            return raw
        case bool():
            return str(raw).lower()
        case float() | Decimal():
            return _number_text(raw)
        case bytes() | bytearray() | memoryview():
            return bytes(raw).decode("utf-8", "backslashreplace")
        case dt.date():  # a datetime is one too
            return raw.isoformat()
        case list() | tuple() | dict():
            return json.dumps(raw, ensure_ascii=False, default=str)
        case _:
            return str(raw)


def _number_text(raw: float | Decimal) -> str | None:
    if math.isnan(raw):
        return None
    # Ids become 30.0 where a column with gaps went through a data frame.
    if math.isfinite(raw) and raw == int(raw):
        return str(int(raw))
    return str(raw)


def read_whole(raw: object) -> int | float | str | None:
    """Return an int for 30, 30.0, "30" and "30.0"; a float for another number; else the text."""
    match raw:
        case bool():
            return read_text(raw)
        case int():
            return raw
        case str() if _WHOLE.fullmatch(raw.strip()):
            return int(raw)  # not by way of a float, which cannot hold every seed
    number = read_number(raw)
    if isinstance(number, float) and number.is_integer():
        return int(raw) if isinstance(raw, Decimal) else int(number)
    return number


def read_number(raw: object) -> float | str | None:
    """Return a finite float; None for null, NaN and blank text; else the text."""
    match raw:
        case bool():
            return read_text(raw)
        case int() | float() | Decimal():
            return _finite(raw)
        case str():
            text = raw.strip()
            if not text or text.lower() == "nan":
                return None
            return _finite(float(text)) if _NUMBER.fullmatch(text) else raw
        case _:
            return read_text(raw)


def _finite(raw: float | Decimal) -> float | str | None:
    if math.isnan(raw):
        return None
    try:
        number = float(raw)
    except OverflowError:
        return str(raw)
    return number if math.isfinite(number) else str(raw)


def read_flag(raw: object) -> bool | str | None:
    """Return a bool for true and false however they are written; None for null; else the text."""
    if isinstance(raw, bool):
        return raw
    text = read_text(raw)
    if text is None or not text.strip():
        return None
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    return text


def read_time(raw: object) -> dt.datetime | str | None:
    """Return a time in UTC, where it stands without a zone too; else the text."""
    match raw:
        case dt.datetime():
            return _in_utc(raw)
        case dt.date():
            return dt.datetime(raw.year, raw.month, raw.day, tzinfo=dt.UTC)
    text = read_text(raw)
    if text is None or not text.strip():
        return None
    try:
        return _in_utc(dt.datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        return text


def _in_utc(time: dt.datetime) -> dt.datetime:
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def read_words(raw: object) -> tuple[str, ...]:
    """Return the words of a comma-separated text, a JSON list or an array, in their order."""
    if isinstance(raw, str):
        listed = _json_list(raw)
        raw = raw.split(",") if listed is None else listed
    if not isinstance(raw, list | tuple):
        raw = [raw]
    words = (read_text(word) or "" for word in raw)
    return tuple(word.strip() for word in words if word.strip())


def words_text(words: tuple[str, ...]) -> str:
    """Return words as one text that `read_words` reads as them."""
    has_comma = any("," in word or word.startswith("[") for word in words)
    return json.dumps(words, ensure_ascii=False) if has_comma else ", ".join(words)


def _json_list(text: str) -> list[object] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None  # words may stand in brackets: [portrait], soft
    return found if isinstance(found, list) else None


_READERS: dict[Kind, Callable[[object], object]] = {
    Kind.TEXT: read_text,
    Kind.WHOLE: read_whole,
    Kind.NUMBER: read_number,
    Kind.FLAG: read_flag,
    Kind.WORDS: read_words,
    Kind.TIME: read_time,
}


def reader_of(kind: Kind) -> Callable[[object], object]:
    """Return the function which reads a raw value as this kind."""
    return _READERS[kind]
