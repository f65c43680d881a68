"""Facts for programs, and one word for one thing, in every command."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from imagepipeline_dagster.cli import main
from imagepipeline_dagster.emulator import Fault, FaultKind
from tests.cli.running import do, facts
from tests.cli.shop import DROPPED, Shop
from tests.processes import dg_project

# They serve, or show something to a person; a new project has no dataset yet.
_WITHOUT = {
    *(("emulator", "--json"), ("emulator", "--dataset")),
    *(("demo", "--json"), ("demo", "--dataset"), ("new", "--dataset")),
}
_ROWS = (
    "prompt_set,prompt_id,prompt,embeddings\nspring,b,a boat called b,\nspring,c,a boat,nobody\n"
)


def _commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_tells_its_facts_as_json() -> None:
    """Each command but those that serve or show takes --json, and the dataset that it is about."""
    lacking = {
        (name, option)
        for name, command in _commands(main)
        for option in ("--json", "--dataset")
        if option not in {word for parameter in command.params for word in parameter.opts}
    }
    assert lacking == _WITHOUT


def test_one_option_has_one_spelling() -> None:
    """What is handed over under one name is written in the same words in every command."""
    spellings: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for _, command in _commands(main):
        for option in command.params:
            if isinstance(option, click.Option):
                spellings[str(option.name)].add(tuple(option.opts))
    assert {name: words for name, words in spellings.items() if len(words) > 1} == {}


def test_commands_that_change_things_tell_what_they_did(shop: Shop) -> None:
    """Standard output holds one JSON document and nothing else, questions and refusals aside."""
    Path("rows.csv").write_text(_ROWS)
    assert facts("init") == {"url": "sqlite:///data/tables.db", "samples_created": False}
    dry = facts("import-prompts", "rows.csv", "--dry-run", "--price-per-image", "2")
    assert (dry["rows"]["inserted"], dry["images_to_buy"], dry["cost"]) == (2, 1, 2.0)
    assert [refusal["prompt_id"] for refusal in dry["refusals"]] == ["c"]
    imported = facts("import-prompts", "rows.csv")
    assert (imported["inserted"], imported["prompt_sets"]) == (2, 1)
    assert [refusal["prompt_id"] for refusal in imported["refusals"]] == ["c"]
    assert facts("export", "out.csv")["rows"] == 2
    (approved,) = facts("approve", "spring", "--who", "ana")["approved"]
    assert (approved["prompt_set"], approved["max_images"], approved["who"]) == ("spring", 1, "ana")
    assert facts("retry", "--all") == {"prompt_sets": []}

    shop.add("a")
    shop.emulator.set_faults(DROPPED, Fault(kind=FaultKind.LATE_LINK, times=1))
    sha256 = next(of.image_sha256 for of in shop.buy().images if of.image_sha256)
    (lost,) = facts("ledger", "unknown")["unknown"]
    key = lost["request_key"]
    decided = facts("ledger", "forget", key, "--why", "gone", "--yes")
    assert (decided["decision"], decided["requests"]) == (
        "forget",
        [{"request_key": key, "samples": 1}],
    )
    assert decided["prompt_sets"] == [{"dataset": "images", "prompt_set": "spring"}]
    assert facts("ledger", "resubmit", "--all-unknown", "--why", "x", "--yes")["requests"] == []
    assert facts("ledger", "backup", "copy.db")["file"] == "copy.db"
    assert facts("ledger", "adopt", "--yes")["storage"].endswith("/data")
    assert facts("ledger", "rebuild", "--yes")["restored"] == []
    assert facts("override", "keep", "--image", sha256, "--why", "nice") == {"decisions": 1}
    assert facts("replay", sha256)["likeness"] == "identical_bytes"
    assert facts("releases", "prune", "--keep", "1") == {"deleted": []}
    taken_back = facts("releases", "withdraw", "--image", sha256, "--why", "asked", "--yes")
    assert taken_back == {"images": [sha256], "rewritten": {}, "unsigned": {}}


def test_a_question_is_not_among_the_facts(shop: Shop) -> None:
    """With --json a command still asks, on the standard error, and ends with the same code."""
    shop.add("a")
    shop.emulator.set_faults(DROPPED)
    shop.buy()
    arguments = ("ledger", "forget", "--all-unknown", "--why", "gone", "--json")
    refused, agreed = do(*arguments, answer="n\n"), do(*arguments, answer="y\n")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "Give up 1 request" in refused.stderr
    assert len(json.loads(agreed.stdout)["requests"]) == 1


@pytest.fixture
def yaml_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of `dg` with two datasets in YAML, each with a storage of its own."""
    definitions = dg_project(tmp_path, "yaml_shop")
    for name in ("spring", "autumn"):
        folder = definitions / name
        folder.mkdir()
        (folder / "defs.yaml").write_text(
            "type: imagepipeline_dagster.ImageDatasetComponent\n"
            f"attributes: {{key_prefix: [{name}], storage: data/{name}, price_per_image: 0.5}}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    return tmp_path


@pytest.mark.filterwarnings(r"ignore:.* is currently in beta")
@pytest.mark.filterwarnings(r"ignore:`parse_obj_as` is deprecated")
def test_a_dataset_in_yaml_is_known_by_its_prefix(yaml_project: Path) -> None:
    """Its own storage, tables and price are those of the command; one of several is to be named."""
    assert facts("init", "--dataset", "spring")["samples_created"]
    assert (yaml_project / "data/spring/tables.db").is_file()
    planned = facts("plan", "--dataset", "spring")["total"]
    assert planned["cost"] == planned["images_to_buy"] * 0.5 > 0
    assert facts("status", "--prefix", "spring")["dataset"] == "spring/image_dataset"
    for arguments in (("status",), ("status", "--dataset", "winter")):
        unnamed = do(*arguments)
        assert unnamed.exit_code == 2
        assert "autumn, spring" in unnamed.output


def test_a_project_names_the_dataset_of_its_commands(shop: Shop) -> None:
    """pyproject.toml says which ImageDataset the commands are about; --dataset says otherwise."""
    Path("named_shop.py").write_text(
        "from imagepipeline_dagster import ImageDataset\n"
        "dataset = ImageDataset(key_prefix=('foxes',), price_per_image=3)\n"
    )
    Path("pyproject.toml").write_text(
        "[tool.imagepipeline-dagster]\ndataset = 'named_shop:dataset'\n"
    )
    shop.add("a")
    assert facts("plan")["total"]["cost"] == 3
    assert facts("plan", "--dataset", "image_dataset")["total"]["cost"] is None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ('datset = "shop:dataset"', "has one option, `dataset`, and no datset"),
        ('dataset = "no_such_shop:dataset"', "`dataset` in pyproject.toml: No module named"),
        ('dataset = "json:loads"', "`dataset` in pyproject.toml: json:loads is no ImageDataset"),
    ],
)
def test_a_dataset_that_a_project_misnames_is_no_other_one(
    shop: Shop, option: str, words: str
) -> None:
    """A command about the wrong dataset could approve or buy: it says what pyproject.toml has."""
    Path("pyproject.toml").write_text(f"[tool.imagepipeline-dagster]\n{option}\n")
    shop.add("a")

    assert words in do("plan").output
