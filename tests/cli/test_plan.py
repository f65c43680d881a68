"""`plan`, `ledger …`, `lineage` and `replay` as a person types them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from imagepipeline_dagster.cli import main
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from imagepipeline_dagster.tables.importing import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from tests.generation.buying import API_KEY, Bought, Buyer, prompts_of

DROPPED = Fault(kind=FaultKind.DROPPED_ANSWER, times=1)
VARIABLES = ("API_KEY", "BASE_URL", "MAX_IN_FLIGHT", "STORAGE", "TABLES_URL", "LEDGER_URL")


@dataclass(frozen=True)
class Shop:
    """A working folder with tables, an emulator to buy from, and the command line."""

    folder: Path
    emulator: EmulatorServer

    @property
    def buyer(self) -> Buyer:
        """Buys as a run would."""
        return Buyer(
            ledger_url=f"sqlite:///{self.folder / 'data/ledger.db'}",
            folder=self.folder / "data",
            base_url=self.emulator.url,
        )

    def add(self, prompt_id: str, prompt_set: str = "spring", **row: object) -> None:
        """Add a row for a small picture."""
        values = {
            "prompt_set": prompt_set,
            "prompt_id": prompt_id,
            "prompt": f"a boat called {prompt_id}",
            "width": 64,
            "height": 64,
            **row,
        }
        engine = sa.create_engine(self.tables_url)
        columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in values]
        with engine.begin() as connection:
            connection.execute(sa.insert(sa.table("prompts", *columns)).values(values))
        engine.dispose()

    @property
    def tables_url(self) -> str:
        """The URL of the default tables."""
        return f"sqlite:///{self.folder / 'data/tables.db'}"

    def buy(self, prompt_set: str = "spring") -> Bought:
        """Buy a prompt set as it is in the tables."""
        with SourceTables(self.tables_url) as tables:
            return self.buyer.buy(prompts_of(tables.prompts(prompt_set)))

    def run(self, *arguments: str, ok: bool = True, answer: str = "") -> str:
        """Run a command and return all that it says."""
        result = CliRunner().invoke(main, arguments, input=answer, terminal_width=80)
        assert (result.exit_code == 0) is ok, result.output
        if not ok:
            assert isinstance(result.exception, SystemExit), result.exception
        return result.output


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An empty shop: tables without rows, no ledger, nothing in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(f"IMAGEPIPELINE_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    settings = EmulatorSettings(api_key=API_KEY, latency_seconds=0.02)
    with EmulatorServer(settings) as emulator:
        shop = Shop(tmp_path, emulator)
        create_tables(shop.tables_url)
        yield shop


def row_of(output: str, name: str) -> list[str]:
    """Return the cells of a table's first row with this name."""
    line = next(line for line in output.splitlines() if line.strip().startswith(name))
    return line.strip().removeprefix(name).split()


def files_in(folder: Path) -> set[Path]:
    """Return every file below a folder."""
    return {path for path in folder.rglob("*") if path.is_file()}


def lose_one(shop: Shop) -> str:
    """Buy a picture whose answer is dropped; return the key that `ledger unknown` shows."""
    shop.add("a")
    shop.emulator.set_faults(DROPPED)
    shop.buy()
    found = re.search(r"^([0-9a-f]{12})  1 image$", shop.run("ledger", "unknown"), re.MULTILINE)
    assert found is not None
    return found[1]


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


def test_plan_leaves_a_ledger_as_it_is(shop: Shop) -> None:
    """Reading a ledger changes no byte of it and leaves no file beside it."""
    shop.add("a")
    shop.buy()
    before = {path: path.read_bytes() for path in files_in(shop.folder)}
    assert row_of(shop.run("plan"), "spring")[:2] == ["·", "1"]
    assert {path: path.read_bytes() for path in files_in(shop.folder)} == before


def test_a_ledger_of_another_version_is_not_taken_for_an_empty_one(shop: Shop) -> None:
    """A ledger that lacks tables, or is of a later version, is named instead of planned against."""
    shop.add("a")
    shop.buy()
    engine = sa.create_engine(shop.buyer.ledger_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE ledger_decisions")
    assert "earlier version" in shop.run("plan", ok=False)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_version SET version = 99")
    assert "schema version 99" in shop.run("ledger", "unknown", ok=False)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ledger_version SET version = 1")
    engine.dispose()
    assert shop.buy().outcomes == {"generated": 1}
    assert row_of(shop.run("plan"), "spring")[:2] == ["·", "1"]


def test_plan_without_tables_says_what_to_do(shop: Shop) -> None:
    """Without tables a plan says how to get some, and makes no sample tables by itself."""
    (shop.folder / "data" / "tables.db").unlink()
    output = shop.run("plan", ok=False)
    assert "imagepipeline-dagster init" in output
    assert files_in(shop.folder) == set()


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
    reasons = output.split("by reason")[1]
    assert row_of(reasons, "spring") == ["1", "·", "·", "·", "·"]
    assert "ledger unknown" in output
    assert shop.emulator.stats.posts_accepted == 3


def test_a_picture_that_two_sets_share_counts_once_in_all(shop: Shop) -> None:
    """The total is what would be bought: a request of two sets is one request."""
    for prompt_set in ("spring", "autumn"):
        shop.add("a", prompt_set=prompt_set, prompt="the same", seed=3)
    output = shop.run("plan")
    assert [row_of(output, name)[0] for name in ("spring", "autumn", "total")] == ["1", "1", "1"]


def test_plan_takes_the_dataset_of_a_project(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset with other defaults and a price is planned as its own definitions would."""
    (shop.folder / "shop_definitions.py").write_text(
        "from imagepipeline_dagster import GenerationDefaults, ImageDataset\n"
        "dataset = ImageDataset(defaults=GenerationDefaults(samples=4), price_per_image=0.5)\n"
        "other = 1\n"
    )
    monkeypatch.syspath_prepend(str(shop.folder))
    shop.add("a")
    assert "4 images to buy, for 2.00" in shop.run("plan", "--dataset", "shop_definitions:dataset")
    for wrong in ("shop_definitions:other", "shop_definitions:none", "no_such_module:x", ":"):
        assert "--dataset" in shop.run("plan", "--dataset", wrong, ok=False)


def test_texts_of_tables_cannot_steer_the_terminal(shop: Shop) -> None:
    """Escapes and markup in names and prompts are shown as text."""
    name = "[bold red]x[/]\x1b[31m"
    shop.add("a\x1b]0;pwned\x07", prompt_set=name, prompt="[link=x]boat[/link] \u202e\x1b[2J")
    plan = shop.run("plan")
    assert "[bold" in plan
    assert "\\x1b" in plan.replace("\n", "")
    bought = shop.buy(name)
    shown = shop.run("lineage", str(bought.images[0].image_sha256))
    as_json = shop.run("lineage", str(bought.images[0].image_sha256), "--json")
    unknown_set = shop.run("plan", "missing\x1b[31m", ok=False)
    for output in (plan, shown, as_json, unknown_set):
        assert "\x1b" not in output
        assert "\u202e" not in output
        assert "\x07" not in output
    assert "[link=x]boat[/link]" in shown


def test_nothing_unknown_is_said(shop: Shop) -> None:
    """Without a ledger no request is unknown, and none is made by asking or deciding."""
    before = files_in(shop.folder)
    assert shop.run("ledger", "unknown") == "No request is unknown.\n"
    assert shop.run("ledger", "resubmit", "--all-unknown", "--why", "x").startswith("No request")
    assert "has no request" in shop.run("ledger", "forget", "0" * 64, "--why", "x", ok=False)
    assert files_in(shop.folder) == before


def test_a_lost_answer_is_listed_and_bought_once_more(shop: Shop) -> None:
    """An unknown request is shown with its prompt; after `resubmit` a run POSTs it once."""
    key = lose_one(shop)
    listed = shop.run("ledger", "unknown")
    assert "spring / a, call 0 of images" in listed
    assert "may have been bought" in listed

    declined = shop.run("ledger", "resubmit", key, "--why", "lost", ok=False, answer="n\n")
    assert "1 request of 1 image" in declined
    shop.buy()
    assert shop.emulator.stats.posts_accepted == 1

    done = shop.run("ledger", "resubmit", key, "--why", "lost", answer="y\n")
    assert "materialize spring (images)" in done
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


def test_lineage_shows_the_chain(shop: Shop) -> None:
    """The chain is readable, and whole as JSON, from a file as from a hash."""
    shop.add("a", seed=7)
    image = shop.buy().images[0]
    assert image.uri is not None
    shown = shop.run("lineage", image.uri)
    for expected in ("spring / a, call 0 of images", image.request, image.job_id, "seed", "run"):
        assert str(expected) in shown
    told = json.loads(shop.run("lineage", str(image.image_sha256)[:8], "--json"))
    assert told["image_sha256"] == image.image_sha256
    (sample,) = told["samples"]
    assert sample["seed"] == 7
    assert sample["request"] == json.loads(str(image.request))
    assert sample["uses"][0]["prompt_row"]["prompt"] == "a boat called a"
    assert "knows no image" in shop.run("lineage", "0" * 64, ok=False)


def test_replay_on_the_embedded_emulator_asks_nothing(shop: Shop) -> None:
    """On the emulator a replay costs nothing, is not asked about, and finds no drift."""
    shop.add("a")
    image = shop.buy().images[0]
    output = shop.run("replay", str(image.image_sha256))
    assert "identical, byte for byte" in output
    assert "No drift" in output


def test_replay_asks_before_it_pays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key a replay says what it costs; another API is asked only with --elsewhere."""
    shop.add("a")
    sha256 = str(shop.buy().images[0].image_sha256)
    monkeypatch.setenv("IMAGEPIPELINE_API_KEY", API_KEY)
    monkeypatch.setenv("IMAGEPIPELINE_BASE_URL", shop.emulator.url)
    said = [
        shop.run("replay", sha256, ok=False),
        shop.run("replay", sha256, "--elsewhere", ok=False, answer="n\n"),
    ]
    assert "was made by the emulator" in said[0]
    assert "This buys 1 image." in said[1]
    assert shop.emulator.stats.posts_accepted == 1
    said.append(shop.run("replay", sha256, "--elsewhere", answer="y\n"))
    assert "No drift" in said[2]
    assert shop.emulator.stats.posts_accepted == 2
    assert not any(API_KEY in output for output in said)


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
