"""`approve` and `sets sync` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from tests.cli.shop import Shop
from tests.tables.filling import run_sql


def approvals(shop: Shop) -> list[tuple[object, ...]]:
    """Return set, images and who of each approval."""
    query = "SELECT prompt_set, max_images, who FROM ledger_approvals ORDER BY number"
    return [tuple(row) for row in run_sql(shop.buyer.ledger_url, query)]


def test_approve_records_who_and_how_much(shop: Shop) -> None:
    """Each set that would buy something is approved for just that, by the one who is named."""
    shop.add("a", samples=2)
    shop.add("b", prompt_set="autumn")
    shop.buy("autumn")

    output = shop.run("approve", "--all", "--up-to", "2", "--who", "ana", "--why", "spring sale")

    assert approvals(shop) == [("spring", 2, "ana")]
    assert "'spring': 2 images, until 20" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name prompt sets, or give --all"),
        (("spring", "--all"), "Name prompt sets, or give --all"),
        (("winter",), "has no set 'winter'"),
        (("spring", "--up-to", "1"), "more than 1: nothing is approved"),
        (("spring", "--why", " "), "neither may be blank"),
    ],
)
def test_approve_refuses_what_cannot_be_meant(
    shop: Shop, arguments: tuple[str, ...], words: str
) -> None:
    """A refusal says why, and nothing is approved."""
    shop.add("a", samples=2)
    assert words in " ".join(shop.run("approve", *arguments, ok=False).split())


def test_a_real_key_without_a_budget_is_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan on a real key says that no budget limits it; on the emulator it does not."""
    shop.add("a")
    assert "No budget" not in shop.run("plan")
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", "sk-test")
    assert "No budget limits what is spent." in shop.run("plan")


def test_a_ledger_in_the_working_folder_is_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real key a plan says that the ledger's path depends on where a process starts."""
    shop.add("a")
    assert "begins in the folder" not in shop.run("plan")
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", "sk-test")
    assert (
        f"data/ledger.db, begins in the folder that a process starts in, which is {shop.folder}"
        in shop.run("plan")
    )
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(shop.folder / "data"))
    assert "begins in the folder" not in shop.run("plan")


def test_sets_sync_brings_the_partitions_in_step(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions come and go with the table's sets in the instance of DAGSTER_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    shop.add("a")

    assert shop.run("sets", "sync") == "+ 'spring'\n"
    assert "in step" in shop.run("sets", "sync")
    assert json.loads(shop.run("sets", "sync", "--json"))["added"] == []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions("prompt_set") == ["spring"]


def test_sets_sync_needs_an_instance(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DAGSTER_HOME the message says what to set."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert "is not set: set it to the folder" in " ".join(
        shop.run("sets", "sync", ok=False).split()
    )
