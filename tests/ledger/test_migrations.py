from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from imagepipeline_dagster.ledger import migrations, opening
from imagepipeline_dagster.ledger.opening import LedgerTooOld
from imagepipeline_dagster.ledger.records import State
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import SCHEMA_VERSION, metadata

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture
def former_url(ledger_url: str) -> str:
    """The URL of a ledger of version 1 with rows in every table, on both databases in turn."""
    if ledger_url.startswith("sqlite"):
        statements = (FIXTURES / "version_1.sqlite.sql").read_text()
        with closing(sqlite3.connect(ledger_url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(statements)
    else:
        dump = (FIXTURES / "version_1.postgresql.sql").read_text()
        # What psql alone understands.
        statements = re.sub(r"^\\.*$", "", dump, flags=re.MULTILINE)
        with psycopg.connect(ledger_url, autocommit=True) as connection:
            connection.execute(statements.encode())
    return ledger_url


def rows_in(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    """Return the rows that a query finds."""
    with engine.connect().execution_options(only_reads=True) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def differences(engine: Engine) -> list[Any]:
    """Return what the tables lack of the schema, or have more."""
    with engine.connect().execution_options(only_reads=True) as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "ledger_version"})
        return list(compare_metadata(context, metadata))


def test_a_former_ledger_becomes_a_current_one(former_url: str) -> None:
    """Its tables are those of a new ledger, and none of its requests is lost."""
    with closing(Ledger(former_url)) as ledger:
        assert differences(ledger.engine) == []
        assert rows_in(ledger.engine, "SELECT version_num FROM ledger_version") == [
            (str(SCHEMA_VERSION),)
        ]
        entries = ledger.entries([letter * 64 for letter in "abcdef9"])
        assert {key[0]: entry.state for key, entry in entries.items()} == {
            "a": State.SUCCEEDED,
            "b": State.SUCCEEDED,
            "c": State.UNKNOWN,
            "d": State.CLAIMED,
            "e": State.SUBMITTED,
            "f": State.FAILED,
            "9": State.FAILED,
        }
        assert entries["e" * 64].job_id == "job-e1"
        assert "Übermorgen 日本; it's" in entries["a" * 64].request


def test_a_new_ledger_is_as_its_schema_says(ledger: Ledger) -> None:
    """A ledger that is new needs no revision, and is marked with the last one."""
    assert differences(ledger.engine) == []
    assert rows_in(ledger.engine, "SELECT version_num FROM ledger_version") == [
        (str(SCHEMA_VERSION),)
    ]


def test_the_schemas_version_is_the_last_revision() -> None:
    """Who adds a column adds its revision too, and raises the number."""
    folder = str(Path(str(migrations.__file__)).parent)
    script = ScriptDirectory(folder, version_locations=[folder])
    assert script.get_heads() == [str(SCHEMA_VERSION)]


def test_samples_learn_which_attempt_bought_them(former_url: str) -> None:
    """A sample that came before its request was bought again is of the first attempt."""
    query = "SELECT request_key, slot, attempt FROM ledger_samples ORDER BY request_key, slot"
    with closing(Ledger(former_url)) as ledger:
        attempts = {
            (key[0], slot): attempt
            for key, slot, attempt in rows_in(ledger.engine, query)
            if key[1:] == key[:-1]
        }
    assert attempts == {("a", 0): 1, ("a", 1): 2, ("b", 0): 2}


def test_merged_tables_keep_their_rows(former_url: str) -> None:
    """What two tables said of a set, or of a picture, one says now."""
    states = (
        "SELECT prompt_set, attempt, pending, requested_basis, built_basis FROM ledger_prompt_sets"
        " WHERE prompt_set IN ('spring', 'autumn: 100%', 'only moderated') ORDER BY prompt_set"
    )
    evidence = (
        "SELECT image_sha256, method, score, hash FROM ledger_evidence ORDER BY image_sha256, hash"
    )
    with closing(Ledger(former_url)) as ledger:
        assert rows_in(ledger.engine, states) == [
            ("autumn: 100%", 1, 2, None, None),
            ("only moderated", 0, 0, None, "d" * 32),
            ("spring", 1, 0, "f" * 32, "b" * 32),
        ]
        rows = rows_in(ledger.engine, evidence)
        assert {row for row in rows if row[3] is None} == {
            (digit * 64, "0" * 64, int(digit) / 8, None) for digit in "123"
        }
        assert {row for row in rows if row[2] is None} == {
            (digit * 64, "phash-64", None, f"{int(digit):016x}") for digit in "123"
        }
        gone = {"ledger_moderations", "ledger_scores", "ledger_perceptual_hashes"}
        assert not gone & set(inspect(ledger.engine).get_table_names())


def test_a_former_ledger_is_not_read_as_an_empty_one(former_url: str) -> None:
    """Who only reads changes nothing, and says that the ledger is of another version."""
    with (
        closing(Ledger(former_url, create=False)) as ledger,
        pytest.raises(LedgerTooOld, match=rf"has schema version 1, this package {SCHEMA_VERSION}"),
    ):
        ledger.entries([])


def test_a_sqlite_ledger_is_copied_first(tmp_path: Path) -> None:
    """The copy has all that was committed, what stood in the write-ahead log alone included."""
    file = tmp_path / "ledger.db"
    with closing(sqlite3.connect(file)) as writer:
        writer.executescript((FIXTURES / "version_1.sqlite.sql").read_text())
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("UPDATE ledger_requests SET error = 'written last'")
        writer.commit()
        with closing(Ledger(f"sqlite:///{file}")) as ledger:
            assert ledger.entries(["a" * 64])

    with closing(sqlite3.connect(tmp_path / "ledger.db.version-1")) as copy:
        assert set(copy.execute("SELECT error FROM ledger_requests")) == {("written last",)}
        assert copy.execute("SELECT version FROM ledger_version").fetchall() == [(1,)]
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [path.name for path in tmp_path.glob("*.unfinished")] == []


def test_a_migration_that_fails_changes_nothing(
    former_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All revisions are one transaction: a failure leaves the ledger that there was."""
    migrate: Callable[..., None] = opening._migrate

    def failing(*arguments: object) -> None:
        migrate(*arguments)
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "_migrate", failing)
        with closing(Ledger(former_url)) as ledger, pytest.raises(OSError, match="disk is full"):
            ledger.entries([])
    with closing(Ledger(former_url, create=False)) as ledger, pytest.raises(LedgerTooOld):
        ledger.entries([])
    with closing(Ledger(former_url)) as ledger:
        assert len(ledger.entries([letter * 64 for letter in "abcdef9"])) == 7


_OPEN_LEDGER = """
import sys
from contextlib import closing
from imagepipeline_dagster.ledger.requests import Ledger
print("ready", flush=True)
sys.stdin.readline()
with closing(Ledger(sys.argv[1])) as ledger:
    print(len(ledger.entries([letter * 64 for letter in "abcdef9"])))
"""


def test_processes_that_start_at_once_migrate_once(former_url: str) -> None:
    """Of several that meet a former ledger one migrates it; the others wait, and none fails."""
    command = [sys.executable, "-c", _OPEN_LEDGER, former_url]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very interpreter
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = [process.communicate("go\n", timeout=60)[0] for process in processes]
    assert answers == ["7\n"] * 4
