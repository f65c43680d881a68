from __future__ import annotations

import dataclasses
import datetime as dt
import io
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.rows import StoredTable, arrow_schema, column, parquet_table, rows_of


class Colour(StrEnum):
    """A word of a list."""

    RED = "red"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row with every kind of column."""

    name: str = column("Name of the row")
    number: int | None = column("A whole number", default=None)
    share: float | None = column("A share, 0 to 1", default=None)
    kept: bool | None = column("Whether it is kept", default=None)
    at: dt.datetime | None = column("When it was", default=None)
    certain: bool = column("Never null", default=True)
    colour: Colour | None = column("A word of a list", default=None)


ROWS = st.builds(
    Row,
    name=st.text(st.characters(exclude_categories=["Cs"])),
    number=st.none() | st.integers(-(2**63), 2**63 - 1),
    share=st.none() | st.floats(allow_nan=False),
    kept=st.none() | st.booleans(),
    at=st.none()
    | st.datetimes(
        min_value=dt.datetime(1800, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
        max_value=dt.datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.just(dt.UTC),
    ),
    certain=st.booleans(),
    colour=st.none() | st.just(Colour.RED),
)


def table_of(*rows: Row) -> pa.Table:
    """Return the rows as an Arrow table, as it is stored."""
    return parquet_table(StoredTable.of(rows, Row).encoded)


def test_a_short_table_is_decoded_once() -> None:
    """Its rows are the same objects whenever they are asked for, and its columns agree."""
    table = StoredTable.of([Row(name=name, number=place) for place, name in enumerate("abc")], Row)
    before = table.columns("number", "name")

    first, second, third = table.rows(Row)

    assert (first.name, second.number, third.certain) == ("a", 1, True)
    assert table.rows_between(1, 3, Row)[0] is second
    assert table.columns("number", "name").equals(before)
    assert table.between(1, 2, ["name", "unknown"]).to_pydict() == {"name": ["b"]}


@settings(deadline=None)
@given(rows=st.lists(ROWS, max_size=8))
def test_stored_rows_come_back(rows: list[Row]) -> None:
    """Rows survive the way into a table and back: large numbers, nulls and times included."""
    assert StoredTable.of(rows, Row).rows(Row) == rows


def test_the_schema_says_what_the_dataclass_says() -> None:
    """Each field becomes a column of its type, with its nullability and description."""
    schema = arrow_schema(Row)

    assert {field.name: (str(field.type), field.nullable) for field in schema} == {
        "name": ("string", False),
        "number": ("int64", True),
        "share": ("double", True),
        "kept": ("bool", True),
        "at": ("timestamp[us, tz=UTC]", True),
        "certain": ("bool", False),
        "colour": ("string", True),
    }
    assert schema.field("share").metadata == {b"description": b"A share, 0 to 1"}


def test_no_rows_make_a_table_with_every_column() -> None:
    """An empty stage has the same columns and types as a full one."""
    empty = StoredTable.of([], Row)
    assert parquet_table(empty.encoded).schema.equals(arrow_schema(Row), check_metadata=True)
    assert empty.rows(Row) == []


def _in_one_group(rows: list[Row]) -> StoredTable:
    file = io.BytesIO()
    pq.write_table(parquet_table(StoredTable.of(rows, Row).encoded), file)
    return StoredTable(file.getvalue())


@pytest.mark.parametrize("store", [lambda rows: StoredTable.of(rows, Row), _in_one_group])
def test_a_stored_table_gives_any_of_its_rows(store: Callable[[list[Row]], StoredTable]) -> None:
    """Whatever Parquet's groups are, rows come from any place, and as often as they are wanted."""
    rows = [Row(name=str(number), number=number) for number in range(2_300)]
    table = store(rows)

    for start, stop in [(0, 2_300), (990, 1_010), (2_299, 2_300), (1_000, 2_000), (7, 7)]:
        assert table.rows_between(start, stop, Row) == rows[start:stop]
    stored = table.rows(Row)
    assert (len(stored), table.num_rows) == (2_300, 2_300)
    assert list(stored) == list(stored) == rows
    assert rows[1_500] in stored
    assert list(table.values("number", "name"))[1_999] == (1_999, "1999")
    assert store([]).rows(Row) == []


def test_a_long_table_is_decoded_some_rows_at_a_time() -> None:
    """Writing and reading a long table takes memory for its bytes and some rows, not for all."""
    before, most = pa.total_allocated_bytes(), 0
    table = StoredTable.of((Row(name=f"{n:01000}") for n in range(10_000)), Row)
    for _ in table.rows(Row):
        most = max(most, pa.total_allocated_bytes() - before)

    assert table.columns("name").nbytes > 10_000_000
    assert most < 3_000_000


def test_a_text_that_all_rows_have_is_held_once() -> None:
    """Rows of many small tables share what they have in common, as a model's name."""
    tables = [
        parquet_table(StoredTable.of([Row(name="the very same")] * 3, Row).encoded)
        for _ in range(2)
    ]
    names = {id(row.name) for table in tables for row in rows_of(table, Row)}
    assert len(names) == 1


def test_unknown_columns_are_left_out() -> None:
    """A table of a later stage, with more columns and in another order, still gives the rows."""
    row = Row(name="a", number=1)
    table = table_of(row).select(sorted(arrow_schema(Row).names))

    assert rows_of(table.append_column("verdict", [["kept"]]), Row) == [row]


def test_reading_a_table_starts_no_thread(tmp_path: Path) -> None:
    """A thread that still holds the file's bytes would abort a short process at its end."""
    file = tmp_path / "table.parquet"
    pq.write_table(pa.table({str(number): [number] * 9 for number in range(40)}), file)
    reading = """
import os, pathlib, sys, pyarrow.parquet
from imagepipeline_dagster.rows import parquet_table
before = len(os.listdir("/proc/self/task"))
parquet_table(pathlib.Path(sys.argv[1]).read_bytes())
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", reading, str(file)], check=True)  # noqa: S603


def test_times_of_another_zone_are_the_same_moment() -> None:
    """A time with an offset is stored as the same moment in UTC."""
    noon = dt.datetime(2025, 6, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    (row,) = rows_of(table_of(Row(name="a", at=noon)), Row)
    assert row.at == noon
    assert row.at is not None
    assert row.at.utcoffset() == dt.timedelta(0)


def test_a_null_in_a_required_column_is_refused() -> None:
    """A column that is never null takes no null."""
    with pytest.raises(ValueError, match="name is never null"):
        StoredTable.of([Row(name=None)], Row)  # type: ignore[arg-type]


def test_a_value_of_another_type_is_refused() -> None:
    """Text where a number belongs is an error and not a number."""
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        table_of(Row(name="a", number="1"))  # type: ignore[arg-type]


def test_a_table_of_an_older_version_is_read() -> None:
    """A column that may be null and was not there yet is null; another is missed."""
    table = table_of(Row(name="a", share=0.5))
    assert rows_of(table.drop_columns(["share"]), Row) == [Row(name="a")]
    with pytest.raises(KeyError, match="certain"):
        rows_of(table.drop_columns(["certain"]), Row)
