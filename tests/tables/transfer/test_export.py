from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
from imagepipeline_dagster.tables.spelling import is_blank, visible_name
from imagepipeline_dagster.tables.transfer.export import ExportReport, export_table
from imagepipeline_dagster.tables.transfer.merge import ImportReport
from imagepipeline_dagster.tables.transfer.progress import RowProgress
from imagepipeline_dagster.tables.transfer.writing_files import ExportRefused
from imagepipeline_dagster.tables.values import is_no_value
from tests.tables.conftest import Execute
from tests.tables.filling import (
    EMBEDDINGS,
    FULL_PROMPT,
    PROMPTS,
    import_embeddings,
    import_prompts,
    insert,
    rows_in,
)

ENDINGS = (".csv", ".tsv", ".json.gz", ".jsonl", ".ndjson.zst", ".parquet")
HARD_TEXTS = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2",
    "@home",
    '"GO" in paint',
    'say ""hi""',
    "two\nlines",
    "two\r\nlines",
    "lone\rreturn",
    "tab\there",
    "a, b; c",
    " blank around ",
    "\ufeffmark",
    "\u2028 and \x85 and \x1b[0m",
    "'quoted",
    "nullify",
    "007",
    "1e5",
    "[not, json",
)


def new_tables(file: Path) -> str:
    """Return the URL of new, empty tables."""
    file.unlink(missing_ok=True)
    create_tables(f"sqlite:///{file}")
    return f"sqlite:///{file}"


def prompt(prompt_id: str, **values: object) -> dict[str, object]:
    """Return a row of the set "s"."""
    return {"prompt_set": "s", "prompt_id": prompt_id, "prompt": "p", **values}


def test_an_export_imports_unchanged(created_url: str, tmp_path: Path) -> None:
    """Every value of every column comes back, into the same table and into an empty one."""
    texts = [prompt(f"{n:02}", prompt=text, seed=n) for n, text in enumerate(HARD_TEXTS)]
    insert(created_url, "prompts", FULL_PROMPT, *texts)
    rows = rows_in(created_url)
    for ending in ENDINGS:
        file = tmp_path / f"out{ending}"
        report = export_table(created_url, PROMPTS, PromptRow, file)
        assert report == ExportReport(rows=1 + len(HARD_TEXTS), left_out=0), ending
        assert import_prompts(created_url, file).unchanged == report.rows, ending
        other = new_tables(tmp_path / "other.db")
        assert import_prompts(other, file).inserted == report.rows, ending
        assert rows_in(other) == rows, ending


def test_exported_embeddings_import_unchanged(created_url: str, tmp_path: Path) -> None:
    """Embeddings come back too, words with commas and brackets in them whole."""
    insert(
        created_url,
        "embeddings",
        {"embedding_id": "a", "trigger_words": '["x, y", "[z]"]', "placement": "positive"},
        {"embedding_id": "b", "trigger_words": "x, y", "name": "=B", "version": "1.0"},
        {"embedding_id": "c"},
    )
    for ending in ENDINGS:
        file = tmp_path / f"out{ending}"
        assert export_table(created_url, EMBEDDINGS, EmbeddingRow, file).rows == 3, ending
        assert import_embeddings(created_url, file).unchanged == 3, ending
        other = new_tables(tmp_path / "other.db")
        import_embeddings(other, file)
        with SourceTables(other) as copied, SourceTables(created_url) as tables:
            assert copied.embeddings() == tables.embeddings(), ending


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
    | st.sampled_from("\r\n\t\"',;=\\[]{}"),
    min_size=1,
    max_size=12,
).filter(lambda text: not is_blank(text) and not is_no_value(text))
SETS = TEXTS.filter(lambda text: visible_name(text) == text)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt_set": SETS,
            "prompt_id": TEXTS,
            "prompt": TEXTS,
            "negative_prompt": st.none() | TEXTS,
            "seed": st.none() | st.integers(0, 2**63 - 1),
            "guidance_scale": st.none() | st.floats(1, 20).map(lambda number: round(number, 3)),
            "refiner": st.none() | st.booleans(),
            "updated_at": st.datetimes(timezones=st.just(dt.UTC)),
        }
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: (row["prompt_set"], row["prompt_id"]),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, ending=st.sampled_from((*ENDINGS, ".xlsx")))
def test_any_rows_round_trip(tmp_path: Path, rows: list[dict[str, object]], ending: str) -> None:
    """Whatever the rows hold, an export imports unchanged, in every format."""
    url = new_tables(tmp_path / "tables.db")
    insert(url, "prompts", *rows)
    file = tmp_path / f"out{ending}"
    try:
        export_table(url, PROMPTS, PromptRow, file)
    except ExportRefused:
        assert ending == ".xlsx"  # whose cells hold no control characters
        return
    report = import_prompts(url, file)
    assert dataclasses.replace(report, notes=()) == ImportReport(
        inserted=0, updated=0, unchanged=len(rows), duplicates=0, ignored_columns=()
    )
    other = new_tables(tmp_path / "other.db")
    import_prompts(other, file)
    assert rows_in(other) == rows_in(url)


def test_the_same_rows_give_the_same_file(created_url: str, tmp_path: Path) -> None:
    """Rows stand in the order of their keys, whatever order they were inserted in."""
    letters = string.ascii_lowercase[:5]
    insert(created_url, "prompts", *(prompt(letter) for letter in reversed(letters)))
    file = tmp_path / "out.csv"
    export_table(created_url, PROMPTS, PromptRow, file)
    with file.open(newline="") as opened:
        assert [row["prompt_id"] for row in csv.DictReader(opened)] == list(letters)


def test_chosen_sets_alone(created_url: str, tmp_path: Path) -> None:
    """Of the prompt sets that are named, all rows are exported, and none of another."""
    insert(
        created_url,
        "prompts",
        *(prompt("1", prompt_set=name) for name in ("a", "A", "b' --", "c")),
    )
    file = tmp_path / "out.csv"
    report = export_table(created_url, PROMPTS, PromptRow, file, prompt_sets=("a", "b' --"))
    assert report.rows == 2
    other = new_tables(tmp_path / "other.db")
    import_prompts(other, file)
    assert {row.prompt_set for row in rows_in(other)} == {"a", "b' --"}


def test_a_table_of_ones_own(tables_url: str, tmp_path: Path, execute: Execute) -> None:
    """Of a table with other names and types our columns are exported, under our names."""
    execute(
        'CREATE TABLE "my ideas" ("Kind" INT, id INT, words TEXT, refiner TEXT, extra TEXT)',
        "INSERT INTO \"my ideas\" VALUES (7, 1, 'a', 'yes', 'x'), (8, 1, 'b', NULL, 'x'),"
        " (7, NULL, 'no id', NULL, 'x'), (NULL, 2, 'no set', NULL, 'x')",
    )
    mapping = TableMapping("my ideas", {"prompt_set": "Kind", "prompt_id": "id", "prompt": "words"})
    file = tmp_path / "out.csv"
    found = export_table(tables_url, mapping, PromptRow, file)
    assert found == ExportReport(rows=2, left_out=2)
    assert file.read_text().splitlines() == [
        "prompt_set,prompt_id,prompt,refiner",
        "7,1,a,true",
        "8,1,b,",
    ]
    assert export_table(tables_url, mapping, PromptRow, file, prompt_sets=["8"]).rows == 1


def test_an_export_is_whole_or_not_there(tables_url: str, tmp_path: Path, execute: Execute) -> None:
    """When a row cannot be written, the file of before stays, and nothing lies beside it."""
    execute(
        "CREATE TABLE prompts (prompt_set TEXT, prompt_id TEXT, prompt TEXT, seed TEXT)",
        "INSERT INTO prompts VALUES ('s', '1', 'p', '7'), ('s', '2', 'p', 'lucky')",
    )
    folder = tmp_path / "exports"
    folder.mkdir()
    file = folder / "out.parquet"
    file.write_text("of before")
    with pytest.raises(
        ExportRefused, match="seed of the row with prompt_set 's' and prompt_id '2'"
    ):
        export_table(tables_url, PROMPTS, PromptRow, file)
    assert file.read_text() == "of before"
    assert list(folder.iterdir()) == [file]
    assert export_table(tables_url, PROMPTS, PromptRow, folder / "out.csv").rows == 2


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".jsonl", ".json"])
def test_an_empty_table(sqlite_url: str, tmp_path: Path, ending: str) -> None:
    """The export of a table without rows has its columns, no line or an empty list."""
    file = tmp_path / f"out{ending}"
    assert export_table(sqlite_url, PROMPTS, PromptRow, file).rows == 0
    if (written := {".jsonl": b"", ".json": b"[]\n"}.get(ending)) is not None:
        assert file.read_bytes() == written
    else:
        assert import_prompts(sqlite_url, file).inserted == 0


def test_progress_counts_rows(sqlite_url: str, tmp_path: Path) -> None:
    """A long export tells how many rows it has written."""
    insert(sqlite_url, "prompts", *(prompt(str(number)) for number in range(5)))
    told: list[RowProgress] = []
    export_table(sqlite_url, PROMPTS, PromptRow, tmp_path / "x.csv", on_progress=told.append)
    assert told == [RowProgress("exported", 5)]


@pytest.mark.parametrize(("marks_formulas", "written"), [(True, "'=1+1"), (False, "=1+1")])
def test_texts_that_a_spreadsheet_would_run(
    sqlite_url: str, tmp_path: Path, *, marks_formulas: bool, written: str
) -> None:
    """A text that a spreadsheet would run is marked unless told otherwise; both import alike."""
    insert(sqlite_url, "prompts", prompt("1", prompt="=1+1"), prompt("2", prompt="'@home"))
    file = tmp_path / "out.csv"
    export_table(sqlite_url, PROMPTS, PromptRow, file, marks_formulas=marks_formulas)
    with file.open(newline="") as opened:
        assert next(csv.DictReader(opened))["prompt"] == written
    assert import_prompts(sqlite_url, file).unchanged == 1 + marks_formulas


def test_what_no_excel_cell_holds(sqlite_url: str, tmp_path: Path) -> None:
    """A text that Excel would change is refused with its row; all others come back."""
    hard = [text for text in HARD_TEXTS if "\x1b" not in text]
    insert(sqlite_url, "prompts", *(prompt(f"{n}", prompt=text) for n, text in enumerate(hard)))
    file = tmp_path / "out.xlsx"
    export_table(sqlite_url, PROMPTS, PromptRow, file)
    assert import_prompts(sqlite_url, file).unchanged == len(hard)
    insert(sqlite_url, "prompts", prompt("last", prompt="\x1b[0m"))
    with pytest.raises(ExportRefused, match="prompt_id 'last'"):
        export_table(sqlite_url, PROMPTS, PromptRow, file)
