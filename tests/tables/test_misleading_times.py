from __future__ import annotations

import datetime as dt

import pytest

from imagepipeline_dagster.tables.misleading_times import misleading_time
from imagepipeline_dagster.tables.reading import SourceTables
from tests.tables.asking import asked
from tests.tables.conftest import Execute
from tests.tables.filling import insert

NOON = "2026-05-01 12:00:00"


@pytest.mark.parametrize(
    ("of", "times", "told"),
    [
        ("TIMESTAMP", [NOON, "2026-05-02 12:00:00"], None),
        ("TIMESTAMP", [NOON, "2099-01-01 00:00:00"], "'b' / '1' is '2099-01-01"),
        ("TIMESTAMP", [NOON, None, "2026-05-02 12:00:00"], None),
        ("TEXT", ["2026-05-01T12:00:00Z", "2026-05-01T12:00:00.5Z"], None),
        ("TEXT", [NOON, NOON, "2026-05-01T11:00:00"], "'c' / '1' is '2026-05-01T11:00:00', spell"),
        # between the oldest and the newest
        ("TEXT", [NOON, "2026-05-01T11:00:00", "2026-05-02 12:00:00"], f"than {NOON!r} in 'a'"),
        ("TEXT", [NOON, "2025/12/31 12:00:00", "2024-01-01 12:00:00"], "of 'b' / '1'"),
        ("TEXT", ["2026-05-01T12:00:00Z", "2026-05-01T12:00:00+02:00"], "spelled otherwise"),
        # an hour is twice on a day in autumn
        (
            "TEXT",
            ["2025-10-26T02:30:00+02:00", "2025-10-26T02:10:00+01:00", "2025-10-26T03:00:00+01:00"],
            "of 'a' / '1' is '2025-10-26T02:30:00+02:00'",
        ),
        ("TEXT", ["2026-05-01", "31/12/2025"], "'31/12/2025', no time like"),
        ("TEXT", ["1777636800", "1777636900"], None),
        ("BIGINT", [1, 2, 10**9 - 1], None),
        ("BIGINT", [1777636800, 1777636801], None),
        ("BIGINT", [1777636800, 4102444800], "'4102444800', in the future"),
        ("BIGINT", [1777636800, 1777636801, 1777636800000], "'1777636800000', spelled otherwise"),
        ("REAL", [1777636800.5, 1777636801.25], None),
    ],
)
def test_a_time_that_hides_newer_ones(
    tables: SourceTables, execute: Execute, of: str, times: list[object], told: str | None
) -> None:
    """A newest time that lies ahead, and any time that is spelled as others are not, is named."""
    execute(f"CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, updated_at {of})")
    for name, time in zip("abcd", times, strict=False):
        execute(
            "INSERT INTO prompts VALUES (:name, '1', 'x', :time)",
            name=name,
            time=time,
        )
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    message = asked(misleading_time, tables, now=now)
    assert message is None if told is None else told in str(message)


def test_a_number_among_times(sqlite_url: str) -> None:
    """SQLite takes both into one column, and puts every number before every text."""
    times = {"a": NOON, "b": NOON, "c": 1777636800}
    row = {"prompt_id": "1", "prompt": "x"}
    rows = [{**row, "prompt_set": name, "updated_at": time} for name, time in times.items()]
    insert(sqlite_url, "prompts", *rows)
    with SourceTables(sqlite_url) as tables:
        message = asked(misleading_time, tables, now=dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    assert "'c' / '1' is '1777636800', spelled otherwise" in str(message)
