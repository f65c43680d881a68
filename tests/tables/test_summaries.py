from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from imagepipeline_dagster.tables.checksums import checksums_among, checksums_between
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.summaries import (
    is_later,
    lasts_seconds,
    newest_time,
    sets_since,
    stored_time,
    summarise_sets,
)
from tests.tables.asking import asked, newest_in
from tests.tables.conftest import Execute
from tests.tables.filling import run_sql


@pytest.fixture
def three(tables_url: str, execute: Execute) -> None:
    """Three sets whose rows changed at different times, the last two in one second."""
    create_tables(tables_url)
    execute(
        "INSERT INTO prompts (prompt_set, prompt_id, prompt, updated_at) VALUES"
        " ('a', '1', 'x', '2026-05-01 12:00:00'), ('a', '2', 'x', '2026-05-01 12:00:05'),"
        " ('b', '1', 'x', '2026-05-01 12:00:07'), ('c', '1', 'x', '2026-05-01 12:00:07')",
    )


@pytest.mark.usefixtures("three")
def test_newest_time_and_the_sets_since(tables: SourceTables, execute: Execute) -> None:
    """Sets with rows of the newest time itself are among those since, and so are later ones."""
    newest = newest_in(tables)
    assert asked(sets_since, tables, newest, at_most=9) == ["b", "c"]
    execute("UPDATE prompts SET updated_at = '2026-05-01 12:00:08' WHERE prompt_set = 'a'")
    later = newest_in(tables)
    assert is_later(later, newest)
    assert not is_later(newest, later)
    assert asked(sets_since, tables, newest, at_most=9) == ["a", "b", "c"]
    assert len(asked(sets_since, tables, newest, at_most=2)) == 2


@pytest.mark.usefixtures("three")
def test_times_finer_than_a_second_hide_no_coarser_ones(
    tables: SourceTables, execute: Execute
) -> None:
    """A row stamped by the second counts as since another that was stamped within that second."""
    execute("UPDATE prompts SET updated_at = '2026-05-01 12:00:07.900000' WHERE prompt_set = 'c'")
    newest = newest_in(tables)
    assert asked(sets_since, tables, newest, at_most=9) == ["b", "c"]


@pytest.mark.usefixtures("three")
def test_summaries_count_rows_and_find_newest_times(tables: SourceTables) -> None:
    """Each set has its rows and newest time; some sets, or all in the database's order."""
    found = asked(summarise_sets, tables)
    assert [(each.prompt_set, each.rows) for each in found] == [("a", 2), ("b", 1), ("c", 1)]
    assert found[0].newest != found[1].newest == found[2].newest == asked(newest_time, tables)
    assert asked(summarise_sets, tables, ["a", "nowhere"]) == found[:1]


def test_tables_without_times(tables: SourceTables, execute: Execute) -> None:
    """Without the column, or without a value in it, there is no newest time."""
    execute(
        "CREATE TABLE prompts (prompt_set INTEGER, prompt_id TEXT, prompt TEXT)",
        "INSERT INTO prompts VALUES (7, '1', 'x'), (NULL, '2', 'x')",
    )
    assert asked(newest_time, tables) is None
    (found,) = asked(summarise_sets, tables)
    assert (found.prompt_set, found.rows, found.newest) == ("7", 1, None)
    assert asked(summarise_sets, tables, ["7"]) == [found]
    execute("ALTER TABLE prompts ADD updated_at TIMESTAMP")
    tables.look_up_again()
    assert asked(newest_time, tables) is None


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("TEXT", ["'2026-05-01T12:00:00Z'", "'2026-05-02T12:00:00Z'"]),
        ("INTEGER", ["1777000000", "1777000001"]),
        ("NUMERIC", ["1777000000.25", "1777000001.5"]),
        ("DATE", ["'2026-05-01'", "'2026-05-02'"]),
        ("TIMESTAMP", ["'2026-05-01 12:00:00'", "'2026-05-01 12:00:01'"]),
    ],
)
def test_times_as_people_have_them(
    tables: SourceTables, execute: Execute, column: str, values: list[str]
) -> None:
    """Texts, epochs, dates and times without a zone order rows as their own type does."""
    execute(
        f"CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, updated_at {column})",
        *(
            f"INSERT INTO prompts VALUES ('{name}', '1', 'x', {value})"  # noqa: S608 - ours
            for name, value in zip("ab", values, strict=True)
        ),
    )
    newest = newest_in(tables)
    assert "b" in asked(sets_since, tables, newest, at_most=9)
    (first, second) = asked(summarise_sets, tables)
    assert second.newest == newest
    assert first.newest is not None
    assert is_later(newest, first.newest)


@pytest.mark.parametrize("column", ["TEXT COLLATE NOCASE", "citext"])
def test_sets_that_differ_in_case_are_told_apart(
    request: pytest.FixtureRequest, tmp_path: Path, column: str
) -> None:
    """Where the database ignores case, each set has its own rows, newest time and checksum."""
    url = f"sqlite:///{tmp_path / 'tables.db'}"
    if column == "citext":
        url = request.getfixturevalue("postgres_url")
        run_sql(url, "CREATE EXTENSION citext")
    run_sql(
        url,
        f"CREATE TABLE prompts (prompt_set {column}, prompt_id text, prompt text, updated_at text)",
        "INSERT INTO prompts VALUES ('spring', '1', 'x', '2026-05-01 12:00:00'),"
        " ('Spring', '1', 'y', '2026-05-01 12:00:00'), ('Spring', '2', 'y', NULL)",
    )
    with SourceTables(url) as tables:
        summaries = asked(summarise_sets, tables)
        assert {each.prompt_set: each.rows for each in summaries} == {"spring": 1, "Spring": 2}
        assert [each.prompt_set for each in asked(summarise_sets, tables, ["Spring"])] == ["Spring"]
        newest = newest_in(tables)
        assert asked(sets_since, tables, newest, at_most=9) == ["Spring", "spring"]
        assert tables.prompt_sets() == ["Spring", "spring"]
        checksums = asked(checksums_between, tables, summaries[0], summaries[-1])
        assert checksums == asked(checksums_among, tables, ["Spring", "spring"])
        assert len(checksums) == 2


def test_times_with_a_zone_are_kept_in_utc(postgres_url: str) -> None:
    """The same moment is the same text, in whatever time zone the session is."""
    run_sql(
        postgres_url,
        f"ALTER DATABASE {sa.make_url(postgres_url).database} SET timezone='Asia/Tokyo'",
        "CREATE TABLE prompts"
        " (prompt_set text, prompt_id text, prompt text, updated_at timestamptz)",
        "INSERT INTO prompts VALUES ('a', '1', 'x', '2026-05-01 12:00:00+00')",
    )
    with SourceTables(postgres_url) as tables:
        newest = asked(newest_time, tables)
        assert newest == "time 2026-05-01 12:00:00+00:00"
        assert asked(sets_since, tables, newest, at_most=9) == ["a"]


def test_stored_times_are_told_apart_by_kind() -> None:
    """What cannot be compared is not later: the number 5 and the text 5 are different times."""
    assert stored_time(None) is None
    assert stored_time(dt.date(2026, 5, 1)) == "date 2026-05-01"
    assert stored_time(Decimal("1.5")) == "number 1.5"
    assert not is_later("number 6", "text 5")
    assert is_later("number 10", "number 9")


@pytest.mark.parametrize(
    ("stored", "seconds"),
    [
        ("date 2026-05-01", 86_400),
        ("text 2026-05-01", 86_400),
        ("text 2026-05-01 12:00", 86_400),
        ("text 2026-05-01T12:00:00Z", 1),
        ("time 2026-05-01 12:00:00", 1),
        ("number 1777000000", 1),
    ],
)
def test_how_long_a_time_lasts(stored: str, seconds: float) -> None:
    """Another row may get the same time all day where times are not to the second."""
    assert lasts_seconds(stored) == seconds
