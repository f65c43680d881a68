from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import delete
from typing_extensions import override

from imagepipeline_dagster.databases import copy_sqlite
from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.ledger.identity import (
    LedgerMismatch,
    adopt,
    check_ledger,
    mark_storage,
    record_purchase,
)
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import requests as requests_table
from imagepipeline_dagster.ledger.schema import samples, uses
from imagepipeline_dagster.planning.approval import NotApproved
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from tests.buying import Buyer, numbered_rows, prompts_of

PROMPTS = prompts_of(numbered_rows(3))
MORE = prompts_of(numbered_rows(5))


@pytest.fixture
def shopper(any_buyer: Buyer) -> Buyer:
    """A buyer who bought a set, on both databases in turn."""
    assert any_buyer.buy(PROMPTS).outcomes == {"generated": 3}
    return any_buyer


def assert_buys_nothing(buyer: Buyer, emulator: EmulatorServer, *, match: str) -> None:
    """Two runs buy nothing, end in good order, and say why."""
    paid = emulator.stats.posts_accepted
    for _ in range(2):
        bought = buyer.buy(MORE)
        assert isinstance(bought.report.stopper, LedgerMismatch)
        message = str(bought.report.stopper)
        assert match in message
        for way_out in ("ledger rebuild", "ledger adopt", "IMAGEPIPELINE_LEDGER_URL"):
            assert way_out in message
    assert emulator.stats.posts_accepted == paid


def emptied(ledger_url: str) -> None:
    """Lose all that the ledger's database holds."""
    if ledger_url.startswith("sqlite"):
        file = Path(ledger_url.removeprefix("sqlite:///"))
        file.write_bytes(b"")
        for beside in ("-wal", "-shm"):
            file.with_name(file.name + beside).unlink(missing_ok=True)
        return
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA public CASCADE"))
        connection.execute(sql.SQL("CREATE SCHEMA public"))


def test_the_ledger_that_bought_goes_on_buying(shopper: Buyer, emulator: EmulatorServer) -> None:
    """The right ledger is never refused, however often it buys, or is opened in between."""
    for number in (4, 5, 6):
        assert shopper.buy(prompts_of(numbered_rows(number))).report.stopper is None
    assert emulator.stats.posts_accepted == 6


class Busy(LocalFolder):
    """A storage that another run begins to buy into just before its first read, or listing."""

    def __init__(self, folder: Path, ledger: Ledger, *, before: str) -> None:
        super().__init__(folder)
        self._ledger = ledger
        self._before = before
        self.has_bought = False

    @override
    def read(self, path: str) -> bytes:
        self._begin_another("read")
        return super().read(path)

    @override
    def list(self, prefix: str = "") -> Iterator[str]:
        self._begin_another("list")
        return super().list(prefix)

    def _begin_another(self, step: str) -> None:
        if step == self._before:
            self._before, self.has_bought = "never again", True
            with self._ledger.engine.begin() as connection:
                counted = record_purchase(connection)
            mark_storage(self, counted)


# A storage with a mark is known by it, and is not listed.
@pytest.mark.parametrize(("marked", "before"), [(False, "read"), (False, "list"), (True, "read")])
def test_a_run_that_begins_at_the_same_time_is_no_stranger(
    ledger: Ledger, tmp_path: Path, *, marked: bool, before: str
) -> None:
    """Two runs that begin at once, be they the first, do not take each other's count for loss."""
    if marked:
        adopt(ledger, LocalFolder(tmp_path))

    storage = Busy(tmp_path, ledger, before=before)
    check_ledger(storage=storage, ledger=ledger)
    assert storage.has_bought


class Asked(LocalFolder):
    """A storage that notes which marks it is asked for, and what is listed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    @override
    def read(self, path: str) -> bytes:
        self.asked.append(path.partition("/")[0])
        return super().read(path)

    @override
    def list(self, prefix: str = "") -> Iterator[str]:
        self.asked.append(prefix)
        return super().list(prefix)


def test_a_run_asks_a_distant_storage_once(buyer: Buyer) -> None:
    """A run that buys alone knows the storage's count from its beginning on."""
    storage = Asked(buyer.folder)
    assert buyer.buy(PROMPTS, storage=storage).report.stopper is None
    assert sorted(storage.asked) == ["images", "ledgers", "ledgers"]

    storage.asked.clear()
    assert buyer.buy(MORE, storage=storage).report.stopper is None
    assert storage.asked == ["ledgers"]


def test_a_count_of_before_replaces_no_higher_one(ledger: Ledger, tmp_path: Path) -> None:
    """A run whose count was held up on its way leaves that of another run on the storage."""
    storage = LocalFolder(tmp_path)
    first = check_ledger(ledger, storage)
    with ledger.engine.begin() as connection:
        counts = [record_purchase(connection) for _ in range(3)]
    mark_storage(storage, counts[2])

    mark_storage(storage, counts[1], after=first)
    assert (
        storage.read(f"ledgers/{counts[2].ledger_id}.json") == counts[2].model_dump_json().encode()
    )


def test_an_emptied_ledger_buys_nothing(shopper: Buyer, emulator: EmulatorServer) -> None:
    """A database without tables becomes a new ledger, which the storage does not know."""
    emptied(shopper.ledger_url)
    assert_buys_nothing(shopper, emulator, match="knows nothing of what was bought into")


def test_a_run_that_waits_for_an_approval_fails_on_a_lost_ledger(shopper: Buyer) -> None:
    """It would make the set's table anew, and the ledger is rebuilt from what that shows."""
    waits = NotApproved("nobody agreed")
    assert shopper.buy(MORE, withheld=waits).report.stopper is waits
    emptied(shopper.ledger_url)
    assert isinstance(shopper.buy(MORE, withheld=waits).report.stopper, LedgerMismatch)


def test_a_ledger_in_another_folder_buys_nothing(
    shopper: Buyer, emulator: EmulatorServer, tmp_path: Path
) -> None:
    """A relative path that leads elsewhere makes a new ledger; its absolute path is named."""
    elsewhere = tmp_path / "elsewhere" / "ledger.db"
    other = dataclasses.replace(shopper, ledger_url=f"sqlite:///{elsewhere}")
    assert_buys_nothing(other, emulator, match=str(elsewhere))


def test_a_new_ledger_beside_pictures_of_before_buys_nothing(
    shopper: Buyer, emulator: EmulatorServer
) -> None:
    """A storage that was filled before ledgers left marks on it is known by its pictures."""
    shutil.rmtree(shopper.folder / "ledgers")
    emptied(shopper.ledger_url)
    assert_buys_nothing(shopper, emulator, match="knows nothing of what was bought into")


def test_a_ledger_of_before_marks_the_storage(shopper: Buyer) -> None:
    """The ledger that knows the requests of such a storage goes on, and marks it."""
    shutil.rmtree(shopper.folder / "ledgers")
    assert shopper.buy(MORE).outcomes == {"generated": 5}
    assert len(list((shopper.folder / "ledgers").iterdir())) == 1


def test_an_older_copy_buys_nothing(buyer: Buyer, emulator: EmulatorServer, tmp_path: Path) -> None:
    """A copy that is put back lacks what was bought since; how much is counted in the message."""
    file = tmp_path / "ledger.db"
    buyer.buy(PROMPTS)
    copy_sqlite(file, tmp_path / "copy")
    buyer.buy(prompts_of(numbered_rows(4)))

    (tmp_path / "copy").replace(file)
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)
    assert_buys_nothing(buyer, emulator, match="is an older copy of the one that bought into")


def test_a_copy_without_its_log_buys_nothing(
    buyer: Buyer, emulator: EmulatorServer, tmp_path: Path
) -> None:
    """The file alone, copied while the ledger was in use, lacks what its -wal file holds."""
    file = tmp_path / "ledger.db"
    buyer.buy(PROMPTS)
    with buyer.open_ledger() as in_use, in_use.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM ledger_requests")
        buyer.buy(prompts_of(numbered_rows(4)))
        moved = tmp_path / "moved" / "ledger.db"
        moved.parent.mkdir()
        shutil.copyfile(file, moved)
    other = dataclasses.replace(buyer, ledger_url=f"sqlite:///{moved}")
    assert_buys_nothing(other, emulator, match="Nothing was bought.")


def test_an_adopted_ledger_buys(shopper: Buyer, emulator: EmulatorServer) -> None:
    """A person may take the ledger as it is: what it does not know is bought again."""
    emptied(shopper.ledger_url)
    storage = open_storage(str(shopper.folder))
    with closing(Ledger(shopper.ledger_url)) as ledger:
        with pytest.raises(LedgerMismatch):
            check_ledger(ledger, storage)
        adopt(ledger, storage)
        check_ledger(ledger, storage)
    assert shopper.buy(PROMPTS).outcomes == {"generated": 3}
    assert emulator.stats.posts_accepted == 6


def test_an_adopted_older_copy_counts_on(shopper: Buyer) -> None:
    """An older copy that was adopted is ahead of the storage's count, and stays so."""
    storage = open_storage(str(shopper.folder))
    with closing(Ledger(shopper.ledger_url)) as ledger:
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE ledger_identity SET purchases = 0")
            for table in (samples, uses, requests_table):
                connection.execute(delete(table))
        adopt(ledger, storage)
    assert shopper.buy(PROMPTS).report.stopper is None
    assert shopper.buy(MORE).report.stopper is None


def test_a_run_that_buys_nothing_needs_no_mark(shopper: Buyer) -> None:
    """Where all is bought already, neither the ledger nor the storage is written for the count."""
    marks = [file.read_bytes() for file in (shopper.folder / "ledgers").iterdir()]
    shopper.buy(PROMPTS)
    assert [file.read_bytes() for file in (shopper.folder / "ledgers").iterdir()] == marks


def test_a_mark_that_cannot_be_read_is_named(shopper: Buyer, emulator: EmulatorServer) -> None:
    """Somebody else's bytes in its place buy nothing until a person adopts the ledger, as told."""
    [mark] = (shopper.folder / "ledgers").iterdir()
    mark.write_bytes(b"\x00")
    bought = shopper.buy(MORE)
    assert mark.name in str(bought.report.stopper)
    assert emulator.stats.posts_accepted == 3

    with closing(Ledger(shopper.ledger_url)) as ledger:
        adopt(ledger, open_storage(str(shopper.folder)))
    assert shopper.buy(MORE).outcomes == {"generated": 5}
