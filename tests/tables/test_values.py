from __future__ import annotations

import datetime as dt
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagepipeline_dagster.tables.values import (
    read_flag,
    read_number,
    read_text,
    read_time,
    read_whole,
    read_words,
)

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (" as it is ", " as it is "),
        (12, "12"),
        (30.0, "30"),
        (1.5, "1.5"),
        (Decimal("7.00"), "7"),
        (True, "true"),
        (b"bytes", "bytes"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.date(2026, 5, 1), "2026-05-01"),
        (["a"], '["a"]'),
        (None, None),
        (float("nan"), None),
    ],
)
def test_text_of_other_types(raw: object, text: str | None) -> None:
    """Ids and texts are read from columns of other types as a person would write them."""
    assert read_text(raw) == text


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ("30", 30),
        (" 30 ", 30),
        (30.0, 30),
        ("30.0", 30),
        (Decimal(30), 30),
        (str(2**63 - 1), 2**63 - 1),
        (Decimal(2**63 - 1), 2**63 - 1),
        ("-1", -1),
        (30.5, 30.5),
        ("abc", "abc"),
        ("1_000", "1_000"),
        ("٣", "٣"),
        ("9" * 5000, "9" * 5000),
        (float("inf"), "inf"),
        (True, "true"),
        ("", None),
        ("  ", None),
        ("NaN", None),
        (None, None),
    ],
)
def test_whole_numbers(raw: object, number: object) -> None:
    """A whole number is read in each of its spellings; what is none stays as it was."""
    value = read_whole(raw)
    assert value == number
    assert type(value) is type(number)


@pytest.mark.parametrize(
    ("raw", "number"),
    [("7.5", 7.5), (7, 7.0), (Decimal("7.5"), 7.5), ("1e1", 10.0), ("x", "x"), ("1e999", "inf")],
)
def test_numbers(raw: object, number: object) -> None:
    """A number is read as a float, from whole numbers too; what is none stays as it was."""
    value = read_number(raw)
    assert value == number
    assert type(value) is type(number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_being_text(number: float) -> None:
    """A float and its text are read as the same number."""
    assert read_number(repr(number)) == read_number(number) == number


FLAGS: dict[object, list[object]] = {
    True: [True, 1, 1.0, "1", "true", "TRUE", " t ", "yes", "on", "1.0"],
    False: [False, 0, 0.0, "0", "false", "F", "no", "off"],
    None: [None, ""],
    "2": [2],
    "maybe": ["maybe"],
}


@pytest.mark.parametrize(("value", "raw"), [(flag, raw) for flag in FLAGS for raw in FLAGS[flag]])
def test_flags(value: object, raw: object) -> None:
    """True and false are read however people write them; what is neither stays as it was."""
    assert read_flag(raw) == value
    assert type(read_flag(raw)) is type(value)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (NOON, NOON),
        (NOON.replace(tzinfo=None), NOON),
        ("2026-05-01 12:00:00", NOON),
        ("2026-05-01T12:00:00Z", NOON),
        ("2026-05-01T14:00:00+02:00", NOON),
        ("yesterday", "yesterday"),
        ("", None),
        (None, None),
    ],
)
def test_times(raw: object, value: object) -> None:
    """A time is read as UTC, also meant where it has no zone; what is none stays as it was."""
    assert read_time(raw) == value


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("cinematic-2, soft light ,", ("cinematic-2", "soft light")),
        ('["a", "b, c"]', ("a", "b, c")),
        (["a", " b "], ("a", "b")),
        ("[portrait], soft", ("[portrait]", "soft")),
        ("[]", ()),
        (7, ("7",)),
        ("", ()),
        (None, ()),
    ],
)
def test_words(raw: object, words: tuple[str, ...]) -> None:
    """Trigger words are read from comma-separated text, a JSON list and an array."""
    assert read_words(raw) == words
