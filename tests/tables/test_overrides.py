from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError, IntegrityError

from imagepipeline_dagster.tables.errors import TablesUnavailable
from imagepipeline_dagster.tables.overrides import (
    OVERRIDES,
    Override,
    OverrideDecision,
    OverrideInvalid,
    count_overrides,
    read_overrides,
    record_overrides,
)
from imagepipeline_dagster.tables.values import read_time
from tests.tables.conftest import Execute
from tests.tables.filling import insert

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SHA256 = "ab" * 32
BY_SQL = {"image_sha256": SHA256, "decision": "keep", "reviewer": "ben", "reason": "seen"}


def override(**changes: Any) -> Override:  # noqa: ANN401 - any field
    """Return a decision about a picture, or about what the changes name."""
    values: dict[str, Any] = {
        "image_sha256": SHA256,
        "decision": OverrideDecision.KEEP,
        "reviewer": "ana",
        "reason": "looked at it",
        "decided_at": NOON,
    }
    return Override(**values | changes)


def test_decisions_are_read_as_they_were_recorded(tables_url: str) -> None:
    """A recorded decision comes back whole, with its number; the oldest is the first."""
    assert (read_overrides(tables_url), count_overrides(tables_url)) == ([], 0)
    of_prompt = override(
        image_sha256=None,
        prompt_set="späte Äpfel",
        prompt_id="a'b;--",
        decision=OverrideDecision.REJECT,
        decided_at=NOON - dt.timedelta(hours=1),
    )
    assert record_overrides(tables_url, [override(), of_prompt]) == 2
    overrides = read_overrides(tables_url)
    assert [each.number for each in overrides] == [2, 1]
    assert [each.decision for each in overrides] == [OverrideDecision.REJECT, OverrideDecision.KEEP]
    assert (overrides[0].prompt_set, overrides[0].prompt_id) == ("späte Äpfel", "a'b;--")
    assert (overrides[1].image_sha256, overrides[1].decided_at) == (SHA256, NOON)
    assert count_overrides(tables_url) == 2


def test_a_table_may_have_any_name(tables_url: str, execute: Execute) -> None:
    """A name that needs quoting is made, read, added to, and guarded like any other."""
    for table in ("My Overrides", "order", "späte Äpfel", "a'b", "Üb-er.legt"):
        record_overrides(tables_url, [override()], table=table)
        record_overrides(tables_url, [override(reason="again")], table=table)
        assert count_overrides(tables_url, table=table) == 2
        assert [each.number for each in read_overrides(tables_url, table=table)] == [1, 2]
        with pytest.raises(DatabaseError, match="overrides are only added"):
            execute(f'DELETE FROM "{table}"')  # noqa: S608 - the names above


def test_a_decision_by_sql_needs_no_number_and_no_time(created_url: str) -> None:
    """A person inserts four columns; among decisions of one second the later row counts."""
    insert(created_url, OVERRIDES, *({**BY_SQL, "decision": word} for word in ("keep", "reject")))
    found = read_overrides(created_url)
    assert [each.decision for each in found] == ["keep", "reject"]
    assert abs(found[0].decided_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE moderation_overrides SET decision = 'keep'", "DELETE FROM moderation_overrides"],
)
def test_nobody_changes_what_was_decided(tables_url: str, execute: Execute, statement: str) -> None:
    """The database itself refuses to change or delete a decision."""
    record_overrides(tables_url, [override(decision=OverrideDecision.REJECT)])
    with pytest.raises(DatabaseError, match="overrides are only added"):
        execute(statement)
    assert [each.decision for each in read_overrides(tables_url)] == ["reject"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_sha256": None}, "about a picture"),
        ({"image_sha256": None, "prompt_set": "spring"}, "about a picture"),
        ({"prompt_set": "spring", "prompt_id": "fox"}, "or about a prompt"),
        ({"image_sha256": "AB" * 32}, "is not a SHA-256"),
        ({"reviewer": " "}, "needs a reviewer"),
        ({"reason": ""}, "needs a reason"),
    ],
)
def test_a_decision_names_what_it_is_about_and_who_made_it(
    changes: dict[str, Any], message: str
) -> None:
    """A decision about nothing, or by nobody, is refused with what is missing."""
    with pytest.raises(OverrideInvalid, match=message):
        override(**changes)


WRONG: list[dict[str, object]] = [
    {"decision": "drop"},
    {"image_sha256": None},
    {"image_sha256": "ab" * 31},
    {"image_sha256": "xy" * 32},
    {"reviewer": " "},
    {"reviewer": "\t"},
    {"reviewer": "\u00a0"},
    {"reason": ""},
    {"reason": "\n"},
    {"decided_at": dt.datetime(1999, 12, 31, tzinfo=dt.UTC)},
    {"decided_at": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)},
]


def test_what_cannot_be_meant_never_gets_in(created_url: str) -> None:
    """The database refuses what nobody could act on, and a decision of nobody: it could not go."""
    for values in WRONG:
        with pytest.raises(DatabaseError):
            insert(created_url, OVERRIDES, {**BY_SQL, **values})
    assert read_overrides(created_url) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("reason", b"\xff"),
        ("prompt_set", b"spring"),
        ("image_sha256", SHA256.encode()),
        ("decided_at", "yesterday"),
        ("decided_at", "2026-02-31 12:00:00"),
        ("decided_at", "2026-02-31 04:00+02:00"),
        ("decided_at", "2026-03-01 12:00:00  Z"),
        ("decided_at", "2026-03-01T"),
        ("decided_at", "2026-03-01 24:00:00"),
        ("decided_at", "2026-03-01 12:00:00z"),
        ("decided_at", "12:00:00"),
        ("decided_at", 2461000.5),
    ],
)
def test_sqlite_refuses_what_other_databases_have_types_for(
    sqlite_url: str, column: str, value: object
) -> None:
    """SQLite would keep bytes for a text and words for a time, and every reading would stop."""
    row = {**BY_SQL, "decided_at": "2026-03-01 12:00:00", column: value}
    with pytest.raises(IntegrityError):
        insert(sqlite_url, OVERRIDES, row)


@pytest.mark.parametrize(
    "time",
    ["2026-03-01", "2026-03-01T12:00", "2026-03-01 12:00:00.123456", "2026-03-01 12:00:00+02:00"],
)
def test_times_as_people_write_them_get_in(created_url: str, time: str) -> None:
    """A time of any usual spelling is taken, and read as it was meant."""
    insert(created_url, OVERRIDES, {**BY_SQL, "decided_at": time})
    [decided] = read_overrides(created_url)
    assert decided.decided_at == read_time(time)


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"])
def test_postgresql_refuses_times_that_nothing_else_holds(postgres_url: str, time: str) -> None:
    """PostgreSQL has times that no driver reads, and every reading would stop."""
    assert record_overrides(postgres_url, []) == 0
    with pytest.raises(IntegrityError):
        insert(postgres_url, OVERRIDES, {**BY_SQL, "decided_at": time})


def test_a_hash_in_capitals_is_the_same_picture(created_url: str) -> None:
    """A person who pastes a SHA-256 in capitals decides about the picture of that SHA-256."""
    insert(created_url, OVERRIDES, {**BY_SQL, "image_sha256": SHA256.upper()})
    assert [each.image_sha256 for each in read_overrides(created_url)] == [SHA256]


def test_a_row_that_slipped_in_is_named(tables_url: str, execute: Execute) -> None:
    """In a table of another making, a row that cannot be meant stops the reading by its number."""
    execute(
        "CREATE TABLE decided (number INTEGER, image_sha256 TEXT, prompt_set TEXT, prompt_id TEXT,"
        " decision TEXT, reviewer TEXT, reason TEXT, decided_at TEXT)",
    )
    execute(
        "INSERT INTO decided VALUES (7, :sha256, NULL, NULL, 'drop', 'a', 'b', '2026-03-01')",
        sha256=SHA256,
    )
    with pytest.raises(OverrideInvalid, match="number 7: decision: 'drop' is none of keep"):
        read_overrides(tables_url, table="decided")


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    """A mistyped URL records nothing anywhere, and says so."""
    with pytest.raises(TablesUnavailable, match="There is no SQLite file"):
        record_overrides(f"sqlite:///{tmp_path / 'no.db'}", [override()])
    assert list(tmp_path.iterdir()) == []
