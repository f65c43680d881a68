from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.overrides import read_overrides
from tests.cli.running import do
from tests.cli.shop import Shop
from tests.moderation.test_review import ROWS

SHA256 = "ab" * 32


@pytest.fixture
def tables_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Empty tables in the storage that the environment names; the work is done beside it."""
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    url = f"sqlite:///{tmp_path / 'data' / 'tables.db'}"
    create_tables(url)
    return url


HEADER = "image_sha256,prompt_set,prompt_id,decision,reviewer,reason\n"
BY = ("--reviewer", "ana", "--reason", "looked at it")


def test_a_decision_is_recorded(shop: Shop) -> None:
    """A picture is named by its digits or the first eight, a prompt by set and id."""
    shop.add("fox")
    sha256 = str(shop.buy().images[0].image_sha256)
    for target in (
        ("--image", sha256.upper()),
        ("--image", sha256[:8]),
        ("--prompt-set", "spring", "--prompt-id", "fox"),
    ):
        assert shop.run("override", "reject", *target, *BY) == "1 decision recorded.\n"
    overrides = read_overrides(shop.tables_url)
    assert [(o.image_sha256, o.prompt_set, o.prompt_id) for o in overrides] == [
        (sha256, None, None),
        (sha256, None, None),
        (None, "spring", "fox"),
    ]
    assert {(o.decision, o.reviewer, o.reason) for o in overrides} == {
        ("reject", "ana", "looked at it")
    }


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (("--image", "0" * 64), ["knows no picture 0000"]),
        (("--image", "0" * 8), ["knows no picture 0000"]),
        (("--prompt-set", "sprin", "--prompt-id", "fox"), ["set 'sprin'", "Did you mean 'spring'"]),
        (("--prompt-set", "spring", "--prompt-id", "fxo"), ["prompt 'fxo'", "Did you mean 'fox'"]),
        (("--prompt-set", "spring", "--prompt-id", "owl"), ["prompt 'owl' in set 'spring'"]),
    ],
)
def test_a_decision_about_nothing_is_refused(
    shop: Shop, target: tuple[str, ...], words: list[str]
) -> None:
    """What the ledger does not know is refused with what is alike, unless it is forced."""
    shop.add("fox")
    shop.buy()
    refused = shop.run("override", "keep", *target, *BY, ok=False)
    for word in (*words, "The ledger at sqlite:///", "--force"):
        assert word in refused
    assert read_overrides(shop.tables_url) == []
    is_whole = len(target[-1]) != 8
    shop.run("override", "keep", *target, *BY, "--force", ok=is_whole)
    assert len(read_overrides(shop.tables_url)) == is_whole


def test_a_mistyped_digest_is_asked_back(shop: Shop) -> None:
    """A SHA-256 that only begins like a picture's is refused with the picture's own."""
    shop.add("fox")
    sha256 = str(shop.buy().images[0].image_sha256)
    wrong = sha256[:-1] + ("0" if sha256[-1] != "0" else "1")
    refused = shop.run("override", "keep", "--image", wrong, *BY, ok=False)
    assert f"Did you mean {sha256}?" in refused


def test_a_ledger_that_cannot_be_read_stops_no_decision(
    tables_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a ledger to look in a decision is recorded, and it is said that nobody looked."""
    monkeypatch.setenv("IMAGEPIPELINE_LEDGER_URL", "postgresql://me:sesame@127.0.0.1:9/ledger")
    result = do("override", "keep", "--image", SHA256, *BY)
    assert result.exit_code == 0
    assert "Not checked whether the pictures are there" in result.stderr
    assert "sesame" not in result.stderr
    assert [o.image_sha256 for o in read_overrides(tables_url)] == [SHA256]


def test_a_file_of_decisions_is_taken_whole_or_not_at_all(shop: Shop) -> None:
    """Each line that cannot be meant is named with its column, and nothing is recorded."""
    shop.add("fox")
    sha256 = str(shop.buy().images[0].image_sha256)
    file = shop.folder / "decided.csv"
    good = f'{sha256[:10]},,,keep,ana,"art, not nudity"\n,spring,fox,Reject,ben,blurry\n'
    wrong = f"{sha256},,,drop,ana,why\n{SHA256},,,keep,ana,why\n,spring,fix,keep,ana,why\n"
    file.write_text(f"{HEADER}{good}{wrong}{sha256},,,keep,ana,\n{sha256}\n,,,keep,ana,why\n")
    refused = shop.run("override", "--from", str(file), ok=False)
    for problem in (
        "line 4, column 'decision': 'drop' is none of keep, reject, quarantine, clear",
        "line 5, column 'image_sha256': The ledger at sqlite:///data/ledger.db knows no picture",
        "line 6, column 'prompt_id': ",
        "line 7, column 'reason': An override needs a reason",
        "line 8 has 1 fields where the header has 6",
        "line 9: An override is about a picture",
    ):
        assert problem in refused
    assert read_overrides(shop.tables_url) == []

    file.write_text(HEADER + good)
    assert shop.run("override", "--from", str(file)) == "2 decisions recorded.\n"
    found = read_overrides(shop.tables_url)
    assert [o.reason for o in found] == ["art, not nudity", "blurry"]
    assert found[0].image_sha256 == sha256

    file.write_text(HEADER.replace("reason", "why") + good)
    refused = shop.run("override", "--from", str(file), ok=False)
    assert "no column 'reason'; it has 'image_sha256'" in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("override",), "give a decision"),
        (("override", "keep"), "about a picture"),
        (("override", "keep", "--image", "x", "--reason", "y"), "is not a SHA-256"),
        (("override", "keep", "--image", SHA256, "--force"), "needs a reason"),
        (("override", "keep", "--prompt-set", "spring", "--reason", "y"), "about a prompt"),
        (("review", "spring"), "was not moderated yet"),
        (("review",), "--serve"),
        (("review", "--serve"), "no picture to decide about"),
        (("review", "--serve", "--output", "x.html"), "without --serve"),
    ],
)
@pytest.mark.usefixtures("tables_url")
def test_what_is_missing_is_said(arguments: tuple[str, ...], message: str) -> None:
    """An incomplete command says what it lacks, without a traceback."""
    result = do(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


def moderate(name: str) -> None:
    """Store the verdicts of a set of the dataset 'shoes', whose table has this name."""
    folder = Path("data/shoes/moderated_images")
    folder.mkdir(parents=True)
    table = StoredTable.of(ROWS, ModeratedImage)
    (folder / f"{name}.parquet").write_bytes(table.encoded)


@pytest.mark.usefixtures("tables_url")
def test_the_sheet_of_a_set_is_written(tmp_path: Path) -> None:
    """The review command writes one file for a set, or for one verdict of it."""
    moderate("50%25%20off")
    arguments = ("review", "50% off", "--prefix", "shoes", "--reviewer", "ana")

    result = do(*arguments)
    assert result.output == (
        "Waiting for a decision: 1 of 3 pictures.\n"
        f"Open {tmp_path}/review-50%25%20off.html in a browser.\n"
    )
    page = (tmp_path / "review-50%25%20off.html").read_text()
    assert "Review of 50% off" in page
    assert "<code>imagepipeline-dagster override --dataset shoes --from FILE.csv</code>" in page
    assert page.count("<article") == len(ROWS)

    said = do(*arguments, "--only", "kept", "--output", "kept.html").output
    assert "1 of 3 pictures" in said
    assert (tmp_path / "kept.html").read_text().count("<article") == 1

    asked = do("review", "50 % off", "--prefix", "shoes").output
    assert asked.startswith("Error: Prompt set '50 % off' was not moderated yet. Did you mean '50%")


def test_the_page_is_served_until_interrupted(tables_url: str) -> None:
    """The address that is printed leads to the sets that wait; Ctrl-C tells what was recorded."""
    moderate("spring")
    command = [sys.executable, "-m", "imagepipeline_dagster.cli", "review", "--serve", "--json"]
    with subprocess.Popen(  # noqa: S603 - our own
        [*command, "--prefix", "shoes", "--who", "ana"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stdout is not None
        facts = json.loads("".join(iter(serving.stdout.readline, "}\n")) + "}")
        url, origin = facts["url"], facts["url"].rsplit("/", 2)[0]
        (waiting,) = (
            sample["decided"]
            for sample in httpx.get(f"{url}samples").raise_for_status().json()
            if sample["decided"]["verdict"] == "quarantined"
        )
        asked = {"decision": "keep"} | {n: waiting[n] for n in ("prompt_set", "image_sha256")}
        httpx.post(f"{url}decisions", json=asked, headers={"origin": origin}).raise_for_status()
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=20)
    assert (serving.returncode, said) == (0, "1 decision recorded.\n")
    [decided] = read_overrides(tables_url)
    assert (decided.decision, decided.reviewer, decided.prompt_set) == ("keep", "ana", "spring")


def test_a_set_without_verdicts_is_told_what_to_do(shop: Shop) -> None:
    """A set of the table is to be materialized; a name that no set has is asked back."""
    shop.add("fox")
    there = shop.run("review", "spring", "--prefix", "shoes", ok=False)
    assert there.startswith("Error: Prompt set 'spring' was not moderated yet. Materialize")
    assert "partition 'spring' of shoes/moderated_images" in there
    assert "has no such set. Did you mean 'spring'?" in shop.run("review", "sprng", ok=False)
