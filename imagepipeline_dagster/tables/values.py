"""Values as people write them, read as the column's type where that is unambiguous.

A value that cannot be read comes back as it was, so that whoever validates it can show it.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum


class Kind(StrEnum):
    """The kind of value that a column holds."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    FLAG = "true or false"
    WORDS = "words"
    TIME = "a time"


# Spreadsheets write these words in the language of their user.
_FLAG_WORDS = {
    True: "true t yes y on 1 1.0 wahr ja vrai oui verdadero sí vero waar sant prawda",
    False: "false f no n off 0 0.0 falsch nein faux non falso onwaar nee falskt fałsz",
}
_FLAGS = {word: flag for flag, words in _FLAG_WORDS.items() for word in words.split()}
_SHEET_ERRORS = ("#n/a", "#name?", "#ref!", "#value!", "#div/0!", "#num!", "#null!")
_NO_VALUE = {"nan", "none", "null", "na", "n/a", "<na>", "nat", "\\n", *_SHEET_ERRORS}
_LONGEST_NO_VALUE = 10
# Python's own parsers also take "1_000", other scripts' digits and endless ones.
_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(?:\.0{0,40})?")
_EXACT_FLOATS = 2.0**53
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def is_no_value(text: str) -> bool:
    """Tell whether a text is a word that programs write where there is no value."""
    return len(text) < _LONGEST_NO_VALUE and text.strip().lower() in _NO_VALUE


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
    """Return an int for 30, 30.0, "30" and "30.0"; a float for another number; else the text.

    A text with an exponent stays text, and a float that is too large to be exact stays one: digits
    of them may be lost.
    """
    match raw:
        case bool():
            return read_text(raw)
        case int():
            return raw
        case str() if whole := _WHOLE.fullmatch(raw.strip()):
            return int(whole[1])  # not by way of a float, which cannot hold every seed
        case Decimal() if raw.is_finite() and raw == raw.to_integral_value():
            exponent = raw.as_tuple().exponent
            return str(raw) if isinstance(exponent, int) and exponent > 0 else int(raw)
    number = read_number(raw)
    if isinstance(number, float) and isinstance(raw, str) and "e" in raw.lower():
        return raw
    if isinstance(number, float) and number.is_integer() and abs(number) < _EXACT_FLOATS:
        return int(number)
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
    return _FLAGS.get(text.strip().lower(), text)


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
    """Return the words of a text, separated by commas or lines, or of a list, in their order.

    A list may be an array, or its text as JSON, Python, NumPy or PostgreSQL write it.
    """
    if isinstance(raw, str):
        listed = _list_in(raw)
        raw = re.split(r"[,\n]", raw) if listed is None else listed
    if not isinstance(raw, list | tuple):
        raw = [raw]
    words = (read_text(word) or "" for word in raw)
    return tuple(word.strip() for word in words if word.strip())


def is_unread_list(raw: object) -> bool:
    """Tell whether a text stands in the brackets of a list and cannot be read as one."""
    return isinstance(raw, str) and _in_brackets(raw.strip()) and _list_in(raw) is None


def words_text(words: tuple[str, ...]) -> str:
    """Return words as one text that `read_words` reads as them."""
    needs_list = any("," in word or "\n" in word or word[:1] in "[{" for word in words)
    return json.dumps(words, ensure_ascii=False) if needs_list else ", ".join(words)


_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


_CALLED = re.compile(r"(?:array|list|set|tuple)\(([\[({].*[])}])(?:,\s*dtype=[^)]*)?\)", re.DOTALL)


def _in_brackets(text: str) -> bool:
    # Parentheses are signs of a prompt, too, where no quoted word stands in them.
    return text[:1] + text[-1:] in ("[]", "{}") or (
        text[-1:] == ")" and text.startswith(("('", '("'))
    )


def _list_in(raw: str) -> list[object] | None:
    text = raw.strip()
    if called := _CALLED.fullmatch(text):
        text = called[1]
    if not _in_brackets(text):
        return None
    if text.startswith("{") and not text.startswith("{'"):  # as PostgreSQL writes arrays
        fields = next(csv.reader([text[1:-1]], escapechar="\\"), [])
        return list[object](fields)
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        # Python puts commas between the words, and NumPy blanks.
        inner = text[1:-1]
        if _QUOTED.sub("", inner).strip(", \n"):
            return None  # words may stand in brackets: [portrait], soft
        return [re.sub(r"\\(.)", r"\1", a or b) for a, b in _QUOTED.findall(inner)]
    return listed if isinstance(listed, list) else None


READERS: dict[Kind, Callable[[object], object]] = {
    Kind.TEXT: read_text,
    Kind.WHOLE: read_whole,
    Kind.NUMBER: read_number,
    Kind.FLAG: read_flag,
    Kind.WORDS: read_words,
    Kind.TIME: read_time,
}
"""The function which reads a raw value as each kind."""

_SHOWN_VALUE = 60  # characters


def shown(value: object) -> str:
    """Return a value as a message shows it: quoted where it is text, and cut where it is long."""
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"
