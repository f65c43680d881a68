from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from imagepipeline_dagster.databases import (
    DriverMissing,
    engine_that_reads,
    engine_that_writes,
    make_private_file,
    one_at_a_time,
    parsed_url,
)
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.tables.samples import create_sample_tables

NAMES = ["a b", "100%20", "a%2Fb", "what?", "nr #1", "ü & =", "it's", "at@home:5"]


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        *zip(NAMES, NAMES, strict=True),
        ("~/pictures", "home/pictures"),
        ("{}/with space", "with space"),
        ("file://{}/with%20space", "with space"),
    ],
)
def test_a_folder_of_any_name_holds_its_databases(
    uri: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and databases are in the storage's folder, however it is named and spelled."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    resources = resources_for(storage_uri=uri.format(tmp_path))
    resources["storage"].open().write("a", b"")
    create_sample_tables(resources["tables"].url)
    with closing(Ledger(resources["ledger"].url)) as ledger:
        assert ledger.entries([]) == {}
        assert not ledger.is_absent
    with closing(Ledger(resources["ledger"].url, create=False)) as ledger:
        assert not ledger.is_absent
    assert [path.name for path in tmp_path.iterdir()] == [Path(folder).parts[0]]
    made = {path.name for path in (tmp_path / folder).iterdir()}
    assert made >= {"a", "ledger.db", "tables.db"}


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a URL is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(Ledger("sqlite:///~/other.db")) as ledger:
        ledger.entries([])
    assert [path.name for path in tmp_path.glob("*.db")] == ["other.db"]


def test_our_databases_are_their_owners_alone(tmp_path: Path) -> None:
    """Prompts, job ids and prices are nobody else's business on a shared machine."""
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        ledger.entries([])
        create_sample_tables(f"sqlite:///{tmp_path / 'tables.db'}")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.keys() >= {"ledger.db", "ledger.db-wal", "tables.db"}
    assert set(modes.values()) == {0o600}


def test_a_reader_makes_and_changes_nothing(tmp_path: Path) -> None:
    """An engine that reads refuses to write, and to make a file that is not there."""
    url = URL.create("sqlite", database=str(tmp_path / "a ? b.db"))
    with pytest.raises(sa.exc.OperationalError), engine_that_reads(url).connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert list(tmp_path.iterdir()) == []

    make_private_file(tmp_path / "a ? b.db")
    engine = engine_that_writes(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n)")
    engine.dispose()
    with (
        engine_that_reads(url).connect() as connection,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")


def test_one_at_a_time(ledger: Ledger) -> None:
    """Who comes second waits until the first has left, though it left by an error."""
    steps: list[str] = []

    def follow() -> None:
        with one_at_a_time(ledger.engine, ledger.file, 1):
            steps.append("second")

    second = threading.Thread(target=follow)
    with suppress(ZeroDivisionError), one_at_a_time(ledger.engine, ledger.file, 1):
        with one_at_a_time(ledger.engine, ledger.file, 2):
            second.start()
        second.join(0.2)
        steps.append("first")
        raise ZeroDivisionError
    second.join()

    assert steps == ["first", "second"]


def test_a_missing_driver_is_named() -> None:
    """Where a URL needs what is not installed, the error says so, without the password."""
    with pytest.raises(DriverMissing, match="No driver for nosuch") as caught:
        engine_that_reads(parsed_url("nosuch://user:secret@host/db"))
    assert "secret" not in str(caught.value)


def test_a_lock_is_taken_soon_after_it_is_free(tmp_path: Path) -> None:
    """Who has waited long for a SQLite file's lock takes it at once, not at a rare look."""
    file, delays = tmp_path / "x.db", []
    engine = engine_that_writes(parsed_url(f"sqlite:///{file}"))
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as locking,
        ThreadPoolExecutor(1) as waiting,
    ):
        for _ in range(4):
            locking.execute("BEGIN IMMEDIATE")
            begun = waiting.submit(_time_of_its_lock, engine)
            time.sleep(0.44)  # SQLite itself looks each tenth of a second by now
            free_at = time.monotonic()
            locking.rollback()
            delays.append(begun.result() - free_at)
    engine.dispose()

    assert min(delays) < 0.03


def _time_of_its_lock(engine: sa.Engine) -> float:
    with engine.begin():
        return time.monotonic()


def test_an_error_of_a_pooled_connection_is_sqlalchemys(tmp_path: Path) -> None:
    """Whatever keeps a transaction from beginning is told as all errors of databases are."""
    file = tmp_path / "x.db"
    engine = engine_that_writes(parsed_url(f"sqlite:///{file}"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (n)")
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        with pytest.raises(sa.exc.OperationalError, match="within a transaction"):
            connection.begin()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(sa.exc.DatabaseError, match="not a database"), engine.begin():
        pass
    engine.dispose()
