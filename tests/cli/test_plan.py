from __future__ import annotations

import sys

import pytest

from imagepipeline_dagster.ledger.schema import SCHEMA_VERSION
from imagepipeline_dagster.tables.creating import create_tables
from tests.cli.shop import DROPPED, Shop, files_in, row_of
from tests.tables.filling import insert, run_sql


def test_plan_touches_nothing(shop: Shop) -> None:
    """A plan before the first purchase shows all as to buy, and makes no ledger."""
    shop.add("a", samples=2)
    shop.add("b", prompt_set="autumn")
    before = files_in(shop.folder)

    output = shop.run("plan", "--price-per-image", "0.25")

    assert row_of(output, "spring")[0] == "2"
    assert row_of(output, "autumn")[0] == "1"
    assert row_of(output, "total")[0] == "3"
    assert "3 images to buy, for 0.75; on the emulator nothing is paid." in output
    assert max(map(len, output.splitlines())) <= 80
    assert files_in(shop.folder) == before


def test_a_lost_ledger_is_not_taken_for_an_empty_one(shop: Shop) -> None:
    """A plan and a status beside pictures that another ledger bought say that nothing is bought."""
    shop.add("a")
    shop.buy()
    assert "is bought." not in shop.run("plan") + shop.run("status")
    (shop.folder / "data/ledger.db").unlink()
    for command in ("plan", "status"):
        assert "Without it nothing is bought." in " ".join(shop.run(command).split())


def test_plan_leaves_a_ledger_as_it_is(shop: Shop) -> None:
    """Reading a ledger changes no byte of it and leaves no file beside it."""
    shop.add("a")
    shop.buy()
    before = {path: path.read_bytes() for path in files_in(shop.folder)}
    assert row_of(shop.run("plan"), "spring")[:2] == ["·", "1"]
    assert {path: path.read_bytes() for path in files_in(shop.folder)} == before


def test_a_ledger_of_another_version_is_not_taken_for_an_empty_one(shop: Shop) -> None:
    """A ledger of a later version is named instead of planned against."""
    shop.add("a")
    shop.buy()
    newer = "UPDATE ledger_version SET version_num = :version"
    run_sql(shop.buyer.ledger_url, newer, version="99")
    assert "schema version 99" in shop.run("plan", ok=False)
    assert "schema version 99" in shop.run("ledger", "unknown", ok=False)
    run_sql(shop.buyer.ledger_url, newer, version=str(SCHEMA_VERSION))
    assert shop.buy().outcomes == {"generated": 1}
    assert row_of(shop.run("plan"), "spring")[:2] == ["·", "1"]


def test_plan_shows_every_state_and_reason(shop: Shop) -> None:
    """Reused, unknown and refused are counted, and what is to buy has its reason."""
    shop.add("a")
    shop.add("b", samples=2)
    shop.add("refused", guidance_scale=99)
    shop.emulator.set_faults(DROPPED)
    shop.buy()
    shop.add("c")

    output = shop.run("plan", "spring")

    assert row_of(output, "spring") == ["1", "2", "·", "1", "·", "1"]
    assert "Reason of all: new." in output
    assert "ledger unknown" in output
    assert shop.emulator.stats.posts_accepted == 3


def test_a_picture_that_two_sets_share_counts_once_in_all(shop: Shop) -> None:
    """The total is what would be bought: a request of two sets is one request."""
    for prompt_set in ("spring", "autumn"):
        shop.add("a", prompt_set=prompt_set, prompt="the same", seed=3)
    output = shop.run("plan")
    assert [row_of(output, name)[0] for name in ("spring", "autumn", "total")] == ["1", "1", "1"]


def test_plan_takes_the_dataset_of_a_project(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset with other defaults, a price and canaries is planned as its own definitions do."""
    (shop.folder / "shop_definitions.py").write_text(
        "from imagepipeline_dagster import GenerationDefaults, ImageDataset\n"
        "dataset = ImageDataset(defaults=GenerationDefaults(samples=4), price_per_image=0.5)\n"
        "watched = dataset.changed(canaries={'images': ['3f2a9c41', 'b07d11e2']})\n"
        "other = 1\n"
    )
    monkeypatch.syspath_prepend(str(shop.folder))
    shop.add("a")
    output = shop.run("plan", "--dataset", "shop_definitions:dataset")
    assert "4 images to buy, for 2.00" in output
    assert "canaries" not in output
    output = shop.run("plan", "--dataset", "shop_definitions:watched")
    assert "4 images to buy, for 2.00" in output
    assert "Besides, the canaries buy 2 images for 1.00, each time of 0 5 * * 1." in output
    for wrong in ("shop_definitions:other", "shop_definitions:none", "no_such_module:x", ":"):
        assert "--dataset" in shop.run("plan", "--dataset", wrong, ok=False)


@pytest.mark.parametrize("way", ["defs = ", "@dg.definitions\ndef defs():\n    return "])
def test_a_datasets_own_resources_are_the_commands(
    way: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two datasets in Python each is looked at in its own tables, ledger and storage."""
    shop.add("a")
    tables_url = f"sqlite:///{shop.folder / 'shoes.db'}"
    create_tables(tables_url)
    insert(tables_url, "prompts", {"prompt_set": "boots", "prompt_id": "b", "prompt": "a boot"})
    monkeypatch.setenv("SHOES_URL", tables_url)
    monkeypatch.delitem(sys.modules, "two_definitions", raising=False)
    (shop.folder / "two_definitions.py").write_text(
        "import os\nimport dagster as dg\n"
        "from imagepipeline_dagster import ImageDataset, build_definitions\n"
        "from imagepipeline_dagster import resources_from_environment\n"
        "shoes, boats = ImageDataset(key_prefix=['shoes']), ImageDataset()\n"
        "own = {'IMAGEPIPELINE_TABLES_URL': os.environ['SHOES_URL'],\n"
        "       'IMAGEPIPELINE_STORAGE': 'of_shoes'}\n"
        f"{way}dg.Definitions.merge(\n"
        "    build_definitions(boats, resources_from_environment(os.environ), start=False),\n"
        "    build_definitions(shoes, resources_from_environment(own), start=False))\n"
    )
    monkeypatch.syspath_prepend(str(shop.folder))

    assert "boots" in (of_shoes := shop.run("plan", "--dataset", "two_definitions:shoes"))
    assert "spring" not in of_shoes
    assert "spring" in (of_boats := shop.run("plan", "--dataset", "two_definitions:boats"))
    assert "boots" not in of_boats
    found = shop.run("doctor", "--dataset", "two_definitions:shoes", ok=False)
    assert "of_shoes/ledger.db" in found
    assert "spring" in shop.run("plan")
