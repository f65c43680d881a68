from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imagepipeline_dagster.cli import main
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.storage import LocalFolder
from imagepipeline_dagster.tables.importing import create_tables
from imagepipeline_dagster.tables.overrides import read_overrides
from tests.frames import frame_of
from tests.moderation.test_review import ROWS

SHA256 = "ab" * 32


@pytest.fixture
def tables_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Empty tables in the storage that the environment names; the work is done beside it."""
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    monkeypatch.delenv("IMAGEPIPELINE_TABLES_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'data' / 'tables.db'}"
    create_tables(url)
    return url


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, arguments)


def test_a_decision_is_recorded(tables_url: str) -> None:
    """One command records a decision about a picture, another one about a prompt."""
    by = ("--reviewer", "ana", "--reason", "looked at it")
    for target in (("--image", SHA256), ("--prompt-set", "spring", "--prompt-id", "fox")):
        result = run("override", "reject", *target, *by)
        assert (result.exit_code, result.output) == (0, "1 decision recorded.\n")
    found = read_overrides(tables_url)
    assert [(o.image_sha256, o.prompt_set, o.prompt_id) for o in found] == [
        (SHA256, None, None),
        (None, "spring", "fox"),
    ]
    assert {(o.decision, o.reviewer, o.reason) for o in found} == {
        ("reject", "ana", "looked at it")
    }


def test_a_file_of_decisions_is_taken_whole_or_not_at_all(tables_url: str, tmp_path: Path) -> None:
    """A line that cannot be meant is named, and nothing of its file is recorded."""
    file = tmp_path / "decided.csv"
    header = "image_sha256,prompt_set,prompt_id,decision,reviewer,reason\n"
    good = f'{SHA256},,,keep,ana,"art, not nudity"\n,spring,fox,Reject,ben,blurry\n'
    file.write_text(f"{header}{good}{SHA256},,,drop,ana,why\n")
    refused = run("override", "--from", str(file))
    assert refused.exit_code == 1
    assert "line 4: decision: 'drop' is none of keep, reject, quarantine" in refused.output
    assert read_overrides(tables_url) == []

    file.write_text(header + good)
    assert run("override", "--from", str(file)).output == "2 decisions recorded.\n"
    assert [o.reason for o in read_overrides(tables_url)] == ["art, not nudity", "blurry"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("override",), "give a decision"),
        (("override", "keep"), "about a picture"),
        (("override", "keep", "--image", "x", "--reason", "y"), "is not a SHA-256"),
        (("override", "keep", "--image", SHA256), "needs a reason"),
        (("review", "spring"), "was not moderated yet"),
    ],
)
@pytest.mark.usefixtures("tables_url")
def test_what_is_missing_is_said(arguments: tuple[str, ...], message: str) -> None:
    """An incomplete command says what it lacks, without a traceback."""
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("tables_url")
def test_the_sheet_of_a_set_is_written(tmp_path: Path) -> None:
    """The review command writes one file for a set, or for one verdict of it."""
    table = tmp_path / "stored.parquet"
    frame_of(ROWS, ModeratedImage).to_parquet(table)
    storage = LocalFolder(tmp_path / "data")
    storage.write("shoes/moderated_images/50%25%20off.parquet", table.read_bytes())
    arguments = ("review", "50% off", "--prefix", "shoes", "--reviewer", "ana")

    result = run(*arguments)
    assert result.output == "Open review-50%25%20off.html in a browser.\n"
    page = (tmp_path / "review-50%25%20off.html").read_text()
    assert "Review of 50% off" in page
    assert page.count("<article") == len(ROWS)

    run(*arguments, "--only", "kept", "--output", "kept.html")
    assert (tmp_path / "kept.html").read_text().count("<article") == 1
