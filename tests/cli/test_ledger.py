from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from imagepipeline_dagster.ledger.identity import LedgerMismatch
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import uses
from imagepipeline_dagster.purchase.replay import REPLAYS
from tests.cli.running import do
from tests.cli.shop import Shop, files_in, lose_one, row_of
from tests.pipeline import open_pipeline


@pytest.mark.parametrize(
    "command",
    [
        ("unknown",),
        ("resubmit", "--all-unknown", "--why", "x"),
        ("forget", "0" * 64, "--why", "x"),
        ("backup", "copy.db"),
    ],
)
def test_a_ledger_that_is_not_there_is_said(shop: Shop, command: tuple[str, ...]) -> None:
    """Asked about a ledger in the wrong folder, a command fails, names it, and makes none."""
    before = files_in(shop.folder)
    assert "There is no ledger at" in shop.run("ledger", *command, ok=False)
    assert files_in(shop.folder) == before


def test_nothing_unknown_is_said(shop: Shop) -> None:
    """Where every answer came, there is nothing to decide."""
    shop.add("a")
    shop.buy()
    assert shop.run("ledger", "unknown") == "No request is unknown.\n"
    assert json.loads(shop.run("ledger", "unknown", "--json")) == {"unknown": []}
    assert shop.run("ledger", "resubmit", "--all-unknown", "--why", "x").startswith("No request")
    assert "has no request" in shop.run("ledger", "forget", "0" * 64, "--why", "x", ok=False)


def test_a_live_ledger_is_copied_whole(shop: Shop) -> None:
    """A backup holds what was committed last, can be read by its owner alone, replaces nothing."""
    shop.add("a")
    shop.buy()
    ledger = Ledger(shop.buyer.ledger_url)
    with closing(ledger), ledger.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        connection.exec_driver_sql("UPDATE ledger_requests SET error = 'written last'")
        connection.commit()
        shop.run("ledger", "backup", "copy.db")
    copy = shop.folder / "copy.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("SELECT error FROM ledger_requests").fetchall() == [("written last",)]
    assert "replaces nothing" in shop.run("ledger", "backup", "copy.db", ok=False)


def test_why_has_one_spelling(shop: Shop) -> None:
    """`--reason`, as some commands called it, is taken everywhere, and shown nowhere."""
    key = lose_one(shop)
    for command in (("ledger", "forget"), ("override", "keep"), ("approve",)):
        shown = shop.run(*command, "--help")
        assert "--why" in shown
        assert "--reason" not in shown
    assert "No run buys" in shop.run("ledger", "forget", key, "--reason", "no need", "--yes")


def test_a_lost_answer_is_listed_and_bought_once_more(shop: Shop) -> None:
    """An unknown request is shown with its prompt; after `resubmit` a run POSTs it once."""
    key = lose_one(shop)
    listed = shop.run("ledger", "unknown")
    assert "'spring' / 'a', call 0 of images" in listed
    assert "may have been bought" in listed

    declined = shop.run("ledger", "resubmit", key, "--why", "lost", ok=False, answer="n\n")
    assert "1 request of 1 image" in declined
    shop.buy()
    assert shop.emulator.stats.posts_accepted == 1

    done = shop.run("ledger", "resubmit", key, "--why", "lost", answer="y\n")
    assert "materialize 'spring' (images)" in done
    assert row_of(shop.run("plan"), "spring")[0] == "1"
    assert shop.buy().outcomes == {"generated": 1}
    assert shop.emulator.stats.posts_accepted == 2


def test_a_lost_answer_can_be_given_up(shop: Shop) -> None:
    """After `forget` no run sends the request, and its sample says who gave it up and why."""
    lose_one(shop)
    shop.run("ledger", "forget", "--all-unknown", "--why", "no need", "--who", "mira", "--yes")
    bought = shop.buy()
    assert bought.images[0].error == "given up by mira: no need"
    assert shop.emulator.stats.posts_accepted == 1
    assert shop.run("ledger", "unknown") == "No request is unknown.\n"
    assert row_of(shop.run("plan"), "spring")[4] == "1"


def test_a_decision_needs_a_request_and_a_reason(shop: Shop) -> None:
    """Neither keys nor --all-unknown, both of them, or no reason is a mistake that is named."""
    key = lose_one(shop)
    assert "--why" in shop.run("ledger", "forget", key, ok=False)
    assert "--why" in shop.run("ledger", "forget", key, "--why", " ", ok=False)
    assert "--all-unknown" in shop.run("ledger", "forget", "--why", "x", ok=False)
    assert "--all-unknown" in shop.run(
        "ledger", "forget", key, "--all-unknown", "--why", "x", ok=False
    )
    assert "no request key" in shop.run("ledger", "forget", "abc", "--why", "x", ok=False)


def test_the_system_user_decides_unless_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --who the decision carries the name of the system's user."""
    monkeypatch.setenv("LOGNAME", "jon")
    key = lose_one(shop)
    shop.run("ledger", "forget", key, "--why", "x", "--yes")
    assert shop.buy().images[0].error == "given up by jon: x"


def test_a_database_that_cannot_be_used_is_said_without_its_password(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors about the ledger name its URL with the password masked, and what to check."""
    shop.add("a")
    url = "postgresql://me:sesame@127.0.0.1:1/ledger?connect_timeout=1"
    for value in (url, "nonsense sesame", f"sqlite:///{shop.folder / 'data'}"):
        monkeypatch.setenv("IMAGEPIPELINE_LEDGER_URL", value)
        for command in (["plan"], ["ledger", "unknown"], ["lineage", "0" * 64]):
            output = shop.run(*command, ok=False)
            assert "ledger" in output
            assert "sesame" not in output
    monkeypatch.delenv("IMAGEPIPELINE_LEDGER_URL")
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", "k")
    monkeypatch.setenv("IMAGEPIPELINE_BASE_URL", "ftp://host")
    assert "IMAGEPIPELINE_BASE_URL" in shop.run("plan", ok=False)
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", "s3://bucket")
    assert "IMAGEPIPELINE_TABLES_URL" in shop.run("plan", ok=False)


def test_a_lost_ledger_is_rebuilt_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `ledger rebuild` a plan has nothing to buy, as before the ledger was lost."""
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))

    with open_pipeline(tmp_path) as pipeline:
        pipeline.add("spring", "a", samples=2)
        pipeline.sync()
        before = do("plan").output
        for file in (tmp_path / "data").glob("ledger.db*"):
            file.unlink()
        assert "'spring': 2 requests, 2 images" in do("ledger", "rebuild", "--yes").output
        assert do("plan").output == before
        assert "lacks nothing" in do("ledger", "rebuild", "--yes").output


def test_an_older_copy_of_several_datasets_is_adopted_last(shop: Shop) -> None:
    """A copy buys nothing before a person adopts it, and is told whose rebuild comes first."""
    shop.add("a")
    shop.buy()
    with closing(Ledger(shop.buyer.ledger_url)) as ledger, ledger.engine.begin() as connection:
        [use] = connection.execute(uses.select()).mappings()
        for dataset in ("boots", "image_dataset", REPLAYS):
            connection.execute(uses.insert(), {**use, "dataset": dataset})
        connection.execute(uses.delete().where(uses.c.dataset == use["dataset"]))
    shop.run("ledger", "backup", "copy.db")
    shop.run("ledger", "adopt", "--yes")  # as a later purchase, it is counted
    for file in (shop.folder / "data").glob("ledger.db*"):
        file.unlink()
    (shop.folder / "copy.db").rename(shop.folder / "data/ledger.db")
    shop.add("b")

    said = shop.run("ledger", "rebuild", "--yes")
    assert "The ledger is an older copy, also of 'boots': rebuild each" in said
    assert said.endswith("Runs buy again after `imagepipeline-dagster ledger adopt`.\n")
    assert isinstance(shop.buy().report.stopper, LedgerMismatch)
    shop.run("ledger", "adopt", "--yes")
    assert "older copy" not in shop.run("ledger", "rebuild", "--yes")
    assert shop.buy().outcomes == {"generated": 2}


def test_a_paid_picture_is_asked_for_again(shop: Shop) -> None:
    """`ledger refetch` says what came, and names the set to materialize."""
    shop.add("a")
    bought = shop.buy()
    [key] = bought.entries
    for file in (shop.folder / "data/images").rglob("*.png"):
        file.unlink()
    assert "1 picture came" in shop.run("ledger", "refetch", key[:10])
    assert "0 pictures came" in shop.run("ledger", "refetch", key)
