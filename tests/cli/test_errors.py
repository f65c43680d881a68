"""What a person sees who made a mistake: what is wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import do

FILE = "prompt_set,prompt_id,prompt\ns,1,p\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "p.csv"), ["no SQLite file", "tables.db", "init"]),
        (("plan",), ["no SQLite file", "imagepipeline-dagster init"]),
        (("import-prompts", "latin.csv"), ["latin.csv", "cannot be read: line 1", "UTF-8"]),
        (("import-prompts", "empty.csv"), ["empty.csv", "is empty", "first line"]),
        (("import-prompts", "empty.jsonl"), ["empty.jsonl", "is empty", "JSON objects"]),
        (("import-prompts", "empty.parquet"), ["empty.parquet", "not a Parquet file"]),
        (("import-prompts", "missing.csv"), ["missing.csv", "does not exist"]),
        (("import-prompts", "."), ["is a directory"]),
        (("override", "--from", "latin.csv"), ["latin.csv", "line 1", "UTF-8"]),
        (("override", "--from", "empty.csv"), ["empty.csv", "is empty"]),
        (("review", "spring"), ["'spring' was not moderated yet"]),
        (("lineage", "missing.png"), ["missing.png", "no file"]),
        (("lineage", "--prompt", "spring"), ["'spring' is no SET/ID"]),
        (("export", "p.csv", "--dataset", "no_such_module:x"), ["--dataset", "no_such_module"]),
    ],
)
def test_what_is_not_there_is_said(arguments: tuple[str, ...], words: list[str]) -> None:
    """A missing or unreadable file, database or object is named, without a traceback."""
    for name in ("empty.csv", "empty.jsonl", "empty.parquet"):
        Path(name).touch()
    Path("good.csv").write_text(FILE)
    Path("latin.csv").write_bytes(b"caf\xe9\n" + FILE.encode())
    assert_refused(arguments, words)
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "p.xls"), ["p.xls", "ends in '.xls'", ".csv, .tsv"]),
        (("export", "prompts"), ["prompts has no ending", ".csv, .tsv"]),
        (("export", "no/p.csv"), ["no/p.csv", "No such file or directory"]),
        (("export", "p.csv", "--table", "briefs"), ["no prompts table 'briefs'", "'prompts'"]),
        (("export", "p.csv", "--set", "winter"), ["no set 'winter'", "'portraits'"]),
        (("import-prompts", "good.csv", "--table", "briefs"), ["no prompts table 'briefs'"]),
        (("import-prompts", "good.csv", "--table", "embeddings"), ["no column 'prompt_set'"]),
        (("import-prompts", "text.csv"), ["'text' (prompt)", "--guess", "--map prompt=text"]),
        (("review", "spring", "--output", "no/x.html"), ["'spring' was not moderated yet"]),
    ],
)
def test_what_does_not_fit_is_said(arguments: tuple[str, ...], words: list[str]) -> None:
    """A wrong table, set, column or file name is told with those that there are."""
    do("init")
    Path("good.csv").write_text(FILE)
    Path("text.csv").write_text("prompt_set,text\ns,p\n")
    assert_refused(arguments, words)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:sesame@127.0.0.1:9/shop", ["me:***@127.0.0.1:9/shop", "refused"]),
        ("sqlite:///.", ["sqlite:///.", "unable to open database file. Check"]),
        ("sqlite:///good.csv", ["sqlite:///good.csv", "file is not a database. Check"]),
        ("mysql://me:sesame@host/shop", ["mysql://me:***@host/shop is installed (install it"]),
        ("me:sesame@host", ["URL cannot be read", "sqlite:///data/tables.db"]),
    ],
)
def test_a_database_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, url: str, words: list[str]
) -> None:
    """Whichever command meets it, the URL is told without its password, on one line."""
    Path("good.csv").write_text(FILE)
    monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", url)
    for arguments in (
        ("export", "p.csv"),
        ("import-prompts", "good.csv"),
        ("import-prompts", "good.csv", "--dry-run"),
        ("plan",),
        *([("init",), ("init", "--empty")] if "sesame" in url else []),
    ):
        output = assert_refused(arguments, words)
        assert "sesame" not in output
        assert len(output.splitlines()) == 1
        assert "\\t" not in output


def assert_refused(arguments: tuple[str, ...], words: list[str]) -> str:
    """Run a command that is refused; return what it says, which has these words."""
    result = do(*arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), result.exception
    for word in words:
        assert word in result.output
    return result.output
