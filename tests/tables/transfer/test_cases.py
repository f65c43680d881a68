from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagepipeline_dagster.planning.prompts import GenerationDefaults, validated_prompts
from imagepipeline_dagster.planning.requests import unplanned_requests
from imagepipeline_dagster.tables.creating import create_tables
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import PromptRow
from imagepipeline_dagster.tables.transfer.export import export_table
from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
from tests.cli.running import do
from tests.tables.filling import PROMPTS, import_embeddings, import_prompts, rows_in, run_sql
from tests.tables.transfer.cases import CASES, Case


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_file_as_people_have_it(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    """A file is read as it is meant, and comes back from a file of ours, or it is refused."""
    name, content, options, expected = case
    file = tmp_path / (name or "a")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", sqlite_url)

    result = do("import-prompts", str(file), *shlex.split(options))

    rows = rows_in(sqlite_url)
    if isinstance(expected, str):
        assert isinstance(result.exception, SystemExit)
        assert expected in result.output
        assert rows == []
        return
    assert result.output.startswith(f"prompts: {len(rows)} inserted"), result.output
    several = expected if isinstance(expected, list) else [expected]
    assert not isinstance(expected, list) or len(rows) == len(expected)
    for row, wanted in zip(rows, several, strict=False):
        assert {column: getattr(row, column) for column in wanted} == wanted
    out = tmp_path / "out.csv"
    export_table(sqlite_url, PROMPTS, PromptRow, out)
    assert import_prompts(sqlite_url, out).unchanged == len(rows)


def test_every_format_buys_the_same(tmp_path: Path) -> None:
    """The same frame gives the same request keys by CSV, JSON, Parquet and Excel."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "prompt_set": ["s", "s"],
            "prompt_id": [1.0, 2.0],
            "prompt": ["a red kite", "a blue kite"],
            "guidance_scale": pd.Series([7.1, 8.3], dtype="float32"),
            "seed": [2**31, 7],
            "updated_at": pd.to_datetime(["2026-05-01 12:00", "2026-05-02 13:30"], utc=True),
        }
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.json", orient="records", date_format="iso")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, date_format="iso")
    local = frame.assign(updated_at=frame["updated_at"].dt.tz_localize(None))
    local.to_excel(tmp_path / "a.xlsx", index=False)
    keys = set()
    for ending in ("csv", "parquet", "json", "jsonl", "xlsx"):
        url = f"sqlite:///{tmp_path}/{ending}.db"
        create_tables(url)
        import_prompts(url, tmp_path / f"a.{ending}")
        prompts = validated_prompts(rows_in(url), {}, defaults=GenerationDefaults())
        requests = unplanned_requests(prompts, origin="emulator", samples_per_call=1)
        keys.add(tuple(request.request_key for request in requests))
    assert len(keys) == 1
    assert len(next(iter(keys))) == 2


def test_texts_of_parquet_that_are_none(sqlite_url: str, tmp_path: Path) -> None:
    """Bytes that are no text are refused with their row, and ignored where they are ignored."""
    kite: dict[str, list[Any]] = {"prompt_set": ["s"], "prompt_id": ["a"], "prompt": [b"caf\xe9"]}
    for other, problem in (("prompt", "row 1, column 'prompt'"), ("note", None)):
        columns = {**kite, "prompt": ["p"], other: kite["prompt"]}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        if problem is None:
            assert import_prompts(sqlite_url, tmp_path / "a.parquet").inserted == 1
            continue
        with pytest.raises(ImportRefused, match=f"{problem}.*is not UTF-8 text"):
            import_prompts(sqlite_url, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("['cine-2', 'film']", ("cine-2", "film")),
        ("['cine-2' 'film']", ("cine-2", "film")),
        ("{cine-2,film}", ("cine-2", "film")),
        ('["cine-2", "film"]', ("cine-2", "film")),
        ("('cine-2', 'film')", ("cine-2", "film")),
        ("{'cine-2', 'film'}", ("cine-2", "film")),
        ("array(['cine-2', 'film'], dtype='<U6')", ("cine-2", "film")),
        ("['cine-2'\n 'film']", ("cine-2", "film")),
        ("(soft), (light)", ("(soft)", "(light)")),
        ("cine-2\nfilm", ("cine-2", "film")),
        ("[cine-2 film]", None),
    ],
)
def test_lists_of_words(
    sqlite_url: str, tmp_path: Path, written: str, words: tuple[str, ...] | None
) -> None:
    """A list of trigger words is read as a list however it is spelled, or refused."""
    quoted = written.replace('"', '""')
    file = tmp_path / "e.csv"
    file.write_text(f'embedding_id,trigger_words\ne,"{quoted}"\n')
    if words is None:
        with pytest.raises(ImportRefused, match="is no list that can be read"):
            import_embeddings(sqlite_url, file)
        return
    import_embeddings(sqlite_url, file)
    with SourceTables(sqlite_url) as tables:
        assert tables.embeddings()["e"].trigger_words == words


def test_what_was_changed_is_noted(sqlite_url: str, tmp_path: Path) -> None:
    """An import says what it read otherwise, which sets look alike, and which time hides rows."""
    file = tmp_path / "a.csv"
    file.write_text(
        "prompt_set,prompt_id,prompt,seed,updated_at\n"
        "spring,1,p,-1,\nSpring ,2,p,-1,2099-01-01\nspring\u200b,3,p,,\n"
    )
    notes = "\n".join(import_prompts(sqlite_url, file).notes)
    assert "line 2, column 'seed': -1 means any seed" in notes
    assert "(and 1 more)" in notes
    assert "'Spring ' is read as 'Spring'" in notes
    assert "the prompt sets 'Spring' and 'spring' look alike" in notes
    assert "2099-01-01 is in the future" in notes


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"], ["--json", "--dry-run"]])
def test_syntax_of_other_tools_is_told(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """An import names each row whose prompt would be sent with signs that another tool reads."""
    file = tmp_path / "a.csv"
    file.write_text(
        "prompt_set,prompt_id,prompt,negative_prompt\n"
        "s,1,a (red:1.3) kite,NULL\ns,2,a kite,\ns,3,a {red|blue} kite,<lora:x:1>\n"
    )
    monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    output = do("import-prompts", str(file), *options).output
    for told in (
        "line 2, column 'prompt': '(red:1.3)' would be sent as words",
        "line 4, column 'prompt': '{red|blue}' would be sent as words",
        "line 2, column 'negative_prompt': 'NULL' is read as no value",
        "line 4, column 'negative_prompt': '<lora:x:1>' would be sent as words",
    ):
        assert told in output


def test_names_are_quoted_wherever_they_stand(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with blanks that nobody sees is told from another in counts, tables and rows."""
    run_sql(
        sqlite_url,
        "INSERT INTO prompts (prompt_set, prompt_id, prompt) VALUES"
        " ('s ', '1', ''), ('s\u200b', '1', 'p'), ('cafe\u0301', '1', 'p')",
    )
    monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", sqlite_url)
    monkeypatch.chdir(tmp_path)
    planned = do("plan").output
    for name in ("'s '", "'s\\u200b'", "'cafe\\u0301'"):
        assert name in planned
    assert "'s ' / '1': prompt: is empty" in planned
    file = tmp_path / "a.csv"
    file.write_text("prompt_set,prompt_id,prompt\ns,1,p\n")
    assert "in 1 prompt set: 's'" in do("import-prompts", str(file)).output
