"""Commits in groups, off the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from imagepipeline_dagster.ledger import writer as writer_module
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.writer import LedgerWriter


def note(connection: Connection, number: int) -> int:
    """Write a number and return it."""
    connection.execute(text("CREATE TABLE IF NOT EXISTS noted (number INTEGER)"))
    connection.execute(text("INSERT INTO noted VALUES (:number)"), {"number": number})
    return number


@dataclass
class Noting:
    """One who writes, and holds what nobody is to see."""

    key: str = "an API key"

    def lengths(self, connection: Connection, texts: list[str]) -> list[int]:
        """Write the length of each text and return it."""
        return [note(connection, len(text)) for text in texts]


def noted(ledger: Ledger) -> list[int]:
    """Return the numbers written."""
    with ledger.reading() as connection:
        return sorted(connection.execute(text("SELECT number FROM noted")).scalars())


def test_a_write_is_durable_when_it_returns(ledger: Ledger) -> None:
    """Whoever awaited a write finds it in the database, with the change's own result."""

    async def work() -> None:
        with LedgerWriter(ledger.engine) as writer:
            assert await writer.write(note, 7) == 7
            assert noted(ledger) == [7]

    asyncio.run(work())


def test_writes_that_wait_share_a_commit(ledger: Ledger) -> None:
    """Many writes at once need far fewer transactions than there are writes."""
    transactions: list[int] = []

    async def work() -> None:
        with LedgerWriter(ledger.engine) as writer:
            apply = writer._apply

            def counted(group: list[Any], *, alone: bool) -> list[Any]:
                results = apply(group, alone=alone)
                transactions.append(len(results))
                return results

            writer._apply = counted  # type: ignore[method-assign] # counts the groups
            assert await asyncio.gather(*(writer.write(note, n) for n in range(300))) == list(
                range(300)
            )

    asyncio.run(work())
    assert noted(ledger) == list(range(300))
    assert sum(transactions) == 300
    assert len(transactions) < 100


def test_a_bad_write_does_not_take_the_others_with_it(ledger: Ledger) -> None:
    """An error goes to the one who caused it; the rest of its group is committed."""

    def bad(_connection: Connection) -> int:
        raise LookupError("a defect")

    async def work() -> tuple[object, object, object]:
        with LedgerWriter(ledger.engine) as writer:
            return await asyncio.gather(
                writer.write(note, 1),
                writer.write(bad),
                writer.write(note, 2),
                return_exceptions=True,
            )

    first, error, second = asyncio.run(work())
    assert (first, second) == (1, 2)
    assert isinstance(error, LookupError)
    assert noted(ledger) == [1, 2]


def test_alike_writes_are_made_together_and_before_all_others(ledger: Ledger) -> None:
    """Those of a commit are one call, unless one is bad; what may undo one of them comes after."""
    calls: list[object] = []
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        begun.set()
        go_on.wait(10)

    def one(_connection: Connection) -> None:
        calls.append("one")

    def together(_connection: Connection, items: list[int]) -> list[int]:
        calls.append(items)
        return [10 // item for item in items]

    async def work(*items: int) -> list[object]:
        begun.clear()
        go_on.clear()
        with LedgerWriter(ledger.engine) as writer:
            held = asyncio.ensure_future(writer.write(hold))
            await asyncio.to_thread(begun.wait, 10)
            alike = (writer.write_together(together, item) for item in items)
            results = asyncio.gather(writer.write(one), *alike, return_exceptions=True)
            await asyncio.sleep(0)  # handed over
            go_on.set()
            await held
            return list(await results)

    assert asyncio.run(work(1, 2)) == [None, 10, 5]
    assert calls == [[1, 2], "one"]
    none, error, ten = asyncio.run(work(0, 1))
    assert (none, type(error), ten) == (None, ZeroDivisionError, 10)
    assert calls[2:] == [[0, 1], "one", [0], [1]]


def test_what_was_handed_over_is_written_although_nobody_waits(ledger: Ledger) -> None:
    """A write whose task was cancelled is committed before the writer ends."""

    async def work() -> None:
        with LedgerWriter(ledger.engine) as writer:
            task = asyncio.ensure_future(writer.write(note, 3))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(work())
    assert noted(ledger) == [3]


@pytest.fixture
def told() -> Iterator[SimpleQueue[RetryDetails]]:
    """Hand on what is logged of each write that is tried again."""
    all_told: SimpleQueue[RetryDetails] = SimpleQueue()

    def keep(details: RetryDetails) -> None:
        all_told.put(details)

    set_on_retry_hooks([keep])
    yield all_told
    set_on_retry_hooks(None)


def test_a_locked_database_is_waited_for(tmp_path: Path, told: SimpleQueue[RetryDetails]) -> None:
    """A lock that somebody holds delays the writes of that while, which then share a commit.

    Whoever logs that is told nothing of what is written, and of who writes it.
    """
    file = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{file}")
    with ledger.engine.begin() as connection:
        note(connection, 0)
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")  # of the one pooled connection
    locking = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    locking.execute("BEGIN IMMEDIATE")
    commits: list[Connection] = []
    event.listen(ledger.engine, "commit", commits.append)

    async def work() -> None:
        with LedgerWriter(ledger.engine) as writer:
            first = asyncio.ensure_future(writer.write_together(Noting().lengths, "a signed link"))
            tried_again = repr(await asyncio.to_thread(told.get, timeout=10))
            assert "a signed link" not in tried_again
            assert "an API key" not in tried_again
            both = asyncio.gather(first, writer.write(note, 2))
            await asyncio.sleep(0)  # handed over
            locking.rollback()
            assert list(await both) == [13, 2]

    asyncio.run(work())
    locking.close()
    assert noted(ledger) == [0, 2, 13]
    assert len(commits) == 1
    ledger.close()


def test_a_database_that_takes_no_writes_for_a_while_is_waited_for(
    postgres_url: str, told: SimpleQueue[RetryDetails]
) -> None:
    """A write reaches the database once it is written to again, as after the move to a copy."""
    ledger = Ledger(postgres_url)
    with ledger.engine.begin() as connection:
        note(connection, 0)

    def let_write(allowed: str) -> None:
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            name = connection.engine.url.database
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(
                f'ALTER DATABASE "{name}" SET default_transaction_read_only = {allowed}'
            )
        ledger.engine.dispose()

    async def work() -> None:
        with LedgerWriter(ledger.engine) as writer:
            written = asyncio.ensure_future(writer.write(note, 1))
            await asyncio.to_thread(told.get, timeout=10)
            let_write("off")
            assert await written == 1

    let_write("on")
    asyncio.run(work())
    assert noted(ledger) == [0, 1]
    ledger.close()


def test_a_database_that_stays_away_fails_all_that_wait_together(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its patience is over, the writer does not begin it anew for each of a group."""
    begun: list[int] = []
    go_on = threading.Event()

    def away(_writer: LedgerWriter, group: list[object], **_: object) -> list[object]:
        begun.append(len(group))
        go_on.wait(10)
        raise OperationalError("COMMIT", {}, Exception("the database is away"))

    monkeypatch.setattr(writer_module.LedgerWriter, "_apply", away)

    async def work() -> list[object]:
        with LedgerWriter(ledger.engine) as writer:
            results = asyncio.gather(
                *(writer.write(note, n) for n in range(20)), return_exceptions=True
            )
            await asyncio.sleep(0)  # handed over
            go_on.set()
            return list(await results)

    assert {type(error) for error in asyncio.run(work())} == {OperationalError}
    assert sum(begun) == 20
    assert len(begun) <= 2
