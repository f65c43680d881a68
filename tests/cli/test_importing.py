from __future__ import annotations

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagepipeline_dagster.cli.progress import ShownProgress
from imagepipeline_dagster.tables.transfer.progress import RowProgress
from tests.cli.running import do, prompts
from tests.cli.shop import Shop, files_in, row_of

ROWS = [
    {"prompt_set": "boats", "prompt_id": "one", "prompt": "a boat"},
    {"prompt_set": "boats", "prompt_id": "two", "prompt": 'a raft, with "sails"\tand a tab'},
]


def write_lines(file: str, rows: list[dict[str, str]]) -> None:
    """Write rows to a JSON Lines file."""
    Path(file).write_text("\n".join(map(json.dumps, rows)))


def test_a_file_comes_in_once() -> None:
    """A file is imported as it is, and changes nothing the second time."""
    write_lines("all.jsonl", ROWS)

    first, second = do("import-prompts", "all.jsonl"), do("import-prompts", "all.jsonl")

    assert first.output == "prompts: 2 inserted, 0 updated, 0 unchanged, in 1 prompt set: 'boats'\n"
    assert second.output == first.output.replace("2 ins", "0 ins").replace("0 unch", "2 unch")
    assert prompts() == [(row["prompt_set"], row["prompt_id"], row["prompt"]) for row in ROWS]


def test_columns_are_mapped() -> None:
    """`--map` names the file's header for a column; rows without a set take `--prompt-set`."""
    Path("a.csv").write_text("Category,Text here,Other\nboats,x,1\n,y,2\n")

    result = do(
        *("import-prompts", "a.csv", "--map", "prompt=Text here"),
        *("--map", "prompt_set=Category", "--prompt-set", "rest"),
    )

    assert result.exit_code == 0, result.output
    assert [(row[0], row[2]) for row in prompts()] == [("boats", "x"), ("rest", "y")]
    assert "Ignored columns: Other" in result.output


@pytest.mark.parametrize("pair", ["prompt", "=x", "prompt=", ""])
def test_a_map_that_is_none_is_refused(pair: str) -> None:
    """A `--map` without both sides is a wrong use: status 2, and the form that it takes."""
    Path("a.csv").write_text("prompt_set,prompt\nb,x\n")
    result = do("import-prompts", "a.csv", "--map", pair)
    assert result.exit_code == 2
    assert "is not COLUMN=HEADER" in result.output


def test_embeddings_come_in() -> None:
    """`import-embeddings` fills the other table, and a missing file is a wrong use."""
    Path("e.csv").write_text('embedding_id,trigger_words,placement\nlook,"a, b",positive\n')
    assert "embeddings: 1 inserted" in do("import-embeddings", "e.csv").output
    assert do("import-embeddings", "missing.csv").exit_code == 2


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["s\x1b[2J", "r"], ", in 2 prompt sets: 'r', 's\\x1b[2J'"),
        (list("abcdef"), ", in 6 prompt sets"),
    ],
)
def test_an_import_says_which_sets_it_is_about(sets: list[str], told: str) -> None:
    """A few prompt sets are named, as text that steers no terminal; more are counted."""
    write_lines("a.jsonl", [{"prompt_set": name, "prompt_id": "1", "prompt": "p"} for name in sets])
    assert do("import-prompts", "a.jsonl").output.endswith(f" unchanged{told}\n")


def test_a_set_is_replaced_once_somebody_agreed() -> None:
    """`--replace-set` shows what goes and asks; without an agreement nothing is changed."""
    write_lines("all.jsonl", ROWS)
    Path("one.csv").write_text("prompt_set,prompt_id,prompt\nboats,one,a ferry\n")
    do("import-prompts", "all.jsonl")
    before = prompts()

    declined = do("import-prompts", "one.csv", "--replace-set", answer="n\n")
    assert declined.exit_code == 1
    assert "deleted   'boats' / 'two'" in declined.output
    assert "updated   'boats' / 'one'  prompt: a boat → a ferry" in declined.output
    assert "Delete 1 row, and write the others?" in declined.output
    assert prompts() == before

    agreed = do("import-prompts", "one.csv", "--replace-set", answer="y\n")
    assert agreed.output.endswith(
        "0 inserted, 1 updated, 0 unchanged, 1 deleted, in 1 prompt set: 'boats'\n"
    )
    assert prompts() == [("boats", "one", "a ferry")]


def test_a_replacement_asks_only_about_deletions() -> None:
    """With `--yes`, or with nothing to delete, nobody is asked."""
    write_lines("all.jsonl", ROWS)
    assert do("import-prompts", "all.jsonl", "--replace-set").output == (
        "prompts: 2 inserted, 0 updated, 0 unchanged, in 1 prompt set: 'boats'\n"
    )
    Path("one.csv").write_text("prompt_set,prompt_id,prompt\nboats,one,a boat\n")
    assert do("import-prompts", "one.csv", "--replace-set", "--yes").output == (
        "prompts: 0 inserted, 0 updated, 1 unchanged, 1 deleted, in 1 prompt set: 'boats'\n"
    )


def test_a_dry_run_shows_changes_and_cost(shop: Shop) -> None:
    """A dry run tells rows by set, images by reason and money, and writes no byte."""
    shop.add("a")
    shop.add("b")
    shop.buy()
    file = shop.folder / "new.csv"
    file.write_text(
        "prompt_set,prompt_id,prompt,samples\nspring,a,a boat called a,1\n"
        "spring,c,a boat called c,1\nautumn,a,leaves,3\n"
    )
    before = {path: path.read_bytes() for path in files_in(shop.folder)}

    output = shop.run(
        *("import-prompts", "new.csv", "--dry-run", "--replace-set", "--price-per-image", "0.5")
    )

    assert row_of(output, "spring") == ["1", "1", "·", "1"]
    assert row_of(output, "autumn") == ["1", "·", "·", "·"]
    assert row_of(output, "total") == ["2", "1", "·", "1"]
    assert "(2) would then have 4 images to buy, for 2.00; on the emulator" in output
    assert "  4 new" in output
    assert output.endswith("Nothing was changed.\n")
    assert {path: path.read_bytes() for path in files_in(shop.folder)} == before


def test_a_dry_run_foretells_the_plan(shop: Shop) -> None:
    """What a dry run says would be bought is what the plan says after the import."""
    for prompt_id in "abc":
        shop.add(prompt_id)
    shop.buy()
    file = shop.folder / "new.csv"
    file.write_text(
        "prompt_set,prompt_id,prompt,guidance_scale\nspring,a,another boat,7\n"
        "spring,b,a boat called b,8\nspring,d,a ferry,\n"
    )
    foretold = shop.run("import-prompts", "new.csv", "--dry-run")
    shop.run("import-prompts", "new.csv")
    planned = shop.run("plan")
    assert "3 images to buy" in foretold
    assert "3 images to buy" in planned


def test_a_dry_run_of_embeddings_counts_the_sets_that_use_them(shop: Shop) -> None:
    """A changed embedding costs what the prompts that use it cost."""
    (shop.folder / "e.csv").write_text("embedding_id,version\nlook,1\n")
    shop.run("import-embeddings", "e.csv")
    shop.add("a", embeddings="look")
    shop.add("b", prompt_set="plain")
    shop.buy()
    shop.buy("plain")
    (shop.folder / "e.csv").write_text("embedding_id,version\nlook,2\n")
    output = shop.run("import-embeddings", "e.csv", "--dry-run")
    assert "updated   'look'  version: 1 → 2" in output
    assert "(1) would then have 1 image to buy" in output


def test_a_dry_run_of_a_bad_file_is_refused() -> None:
    """A dry run finds what an import would refuse, and makes no tables."""
    Path("a.csv").write_text("prompt_set,prompt\nboats,\n")
    result = do("import-prompts", "a.csv", "--dry-run")
    assert result.exit_code == 1
    assert "line 2, column 'prompt': is empty" in result.output
    assert not Path("data").exists()


def test_texts_of_a_file_cannot_steer_the_terminal(shop: Shop) -> None:
    """Escapes and markup in a file are shown as text before anything is imported."""
    line = {"prompt_set": "[bold]x\x1b[31m", "prompt_id": "\x1b]0;p\x07", "prompt": "\u202e\x1b[2J"}
    (shop.folder / "a.jsonl").write_text(json.dumps(line))
    output = shop.run("import-prompts", "a.jsonl", "--dry-run")
    assert "[bold]" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)


def test_a_long_import_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody watches a terminal, a line says how far each step is, now and then."""
    monkeypatch.setattr("imagepipeline_dagster.cli.progress._ROWS_OF_A_LINE", 2_000)
    lines = [f"boats,{number},p" for number in range(4_500)]
    Path("a.csv").write_text("\n".join(["prompt_set,prompt_id,prompt", *lines]))
    assert do("import-prompts", "a.csv").output.splitlines() == [
        "read 2,000 rows",
        "read 4,000 rows",
        "written 2,000 of 4,500 rows",
        "written 4,000 of 4,500 rows",
        "prompts: 4,500 inserted, 0 updated, 0 unchanged, in 1 prompt set: 'boats'",
    ]


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal a bar shows how far an import is, and goes when it is done."""
    from rich.console import Console

    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    with closing(ShownProgress(console)) as on_progress:
        for rows in (2_000, 4_000, 4_500):
            on_progress(RowProgress("written", rows, 4_500))
    assert "written 4,500 rows" in shown.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reported"),
    [
        (
            "a.csv",
            "prompt_set,prompt,seed,mine\nb,,1,x\nb,ok,7,y\nb,p\nb,p,1,z,more\n",
            [["b", "", "1", "x"], ["b", "p"], ["b", "p", "1", "z", "more"]],
        ),
        (
            "a.jsonl",
            '{"prompt_set": "b", "prompt": "\\ud800", "seed": 1.5, "mine": ["x", true]}',
            [["b", "\\ud800", "1.5", '["x", true]']],
        ),
        (
            "a.parquet",
            pa.table({"prompt_set": ["b"], "prompt": ["é"], "seed": ["x"], "mine": [None]}),
            [["b", "é", "x", ""]],
        ),
    ],
)
def test_refused_rows_are_reported_as_they_came(
    name: str, content: str | pa.Table, reported: list[list[str]]
) -> None:
    """`--report` has each refused row, what could be read of it, and why; the file stays out."""
    if isinstance(content, str):
        Path(name).write_text(content)
    else:
        pq.write_table(content, name)
    result = do("import-prompts", name, "--report", "refused.csv")
    assert result.exit_code == 1
    assert f"Refused: {len(reported)} row" in result.output
    header, *rows = csv.reader(Path("refused.csv").read_text().splitlines())
    assert header == ["refused_at", "refused_because", "prompt_set", "prompt", "seed", "mine"]
    assert [row[2:] for row in rows] == reported
    assert all(row[0].startswith(("line ", "row ")) and row[1] for row in rows)


def test_a_mended_report_comes_in() -> None:
    """What a person mended in a report is imported as it stands, without the reasons."""
    Path("a.csv").write_text("prompt_set,prompt_id,prompt,seed\nb,1,p,x\nb,2,q,2\n")
    do("import-prompts", "a.csv", "--report", "refused.csv")
    Path("refused.csv").write_text(Path("refused.csv").read_text().replace(",x", ",3"))
    output = do("import-prompts", "refused.csv").output
    assert "1 inserted" in output
    assert "Ignored columns: refused_at, refused_because" in output
    assert prompts() == [("b", "1", "p")]
    same = do("import-prompts", "a.csv", "--report", "a.csv")
    assert (same.exit_code, "is the file that is imported" in same.output) == (2, True)


@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_rows_that_cannot_be_bought_are_named(options: list[str]) -> None:
    """An import and its dry run name each row that is refused before paying, and report it."""
    long = " ".join(["kite"] * 90)
    Path("a.csv").write_text(f"prompt_set,prompt\nb,{long}\nb,ok\n")
    result = do("import-prompts", "a.csv", "--report", "refused.csv", *options)
    assert "Refused before paying: 1 row.\n  'b' / " in result.output
    assert "has 90 tokens" in result.output
    report = Path("refused.csv").read_text()
    do("import-prompts", "a.csv")
    Path("refused.csv").write_text(report.replace(long, "a kite"))
    # It has the id that followed from its content, so that the mended row takes its place.
    assert "0 inserted, 1 updated" in do("import-prompts", "refused.csv").output


@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_an_import_says_how_a_file_was_read(options: list[str]) -> None:
    """What was guessed, ignored and read otherwise is said, by a dry run as by the import."""
    Path("a.csv").write_text("Category,prompt,mine,seed\nboats\u200b,a boat,x,-1\n")
    output = do("import-prompts", "a.csv", "--guess", *options).output
    assert "Guessed: prompt_set from the header 'Category'\n" in output
    assert "Ignored columns: mine\n" in output
    assert "'boats\\u200b' is read as 'boats'\n" in output
    assert "-1 means any seed" in output
    assert ("First rows:\n  prompt_set='boats', " in output) == bool(options)


def test_a_dry_run_needs_no_tables_yet() -> None:
    """Before the first import a dry run shows what it would bring, and makes nothing."""
    Path("a.csv").write_text("prompt_set,prompt\nboats,a boat\n")
    output = do("import-prompts", "a.csv", "--dry-run").output
    assert row_of(output, "boats") == ["1", "·", "·", "·"]
    assert "1 image to buy" in output
    assert not Path("data").exists()
