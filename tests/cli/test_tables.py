from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import do, prompts
from tests.tables.filling import run_sql


def test_init_twice(tmp_path: Path) -> None:
    """`init` makes the tables with samples once, and changes nothing the second time."""
    first = do("init")
    content = (tmp_path / "data/tables.db").read_bytes()
    second = do("init")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Created prompts and embeddings with samples at sqlite:///data/tables.db" in first.output
    assert "nothing was changed" in second.output
    assert (tmp_path / "data/tables.db").read_bytes() == content
    assert len(prompts()) == 28


def test_init_empty() -> None:
    """`init --empty` makes tables without rows, and leaves rows that are there."""
    assert do("init", "--empty").exit_code == 0
    assert prompts() == []
    Path("more.jsonl").write_text('{"prompt_set": "boats", "prompt_id": "one", "prompt": "p"}')
    do("import-prompts", "more.jsonl")
    assert do("init", "--empty").exit_code == 0
    assert len(prompts()) == 1


def test_an_export_imports_unchanged() -> None:
    """What `export` writes, of both tables, the import commands find unchanged."""
    do("init")
    assert do("export", "p.csv").output == "prompts: 28 rows exported to p.csv\n"
    assert "0 inserted, 0 updated, 28 unchanged, " in do("import-prompts", "p.csv").output
    assert do("export", "e.jsonl", "--embeddings").exit_code == 0
    imported = do("import-embeddings", "e.jsonl").output
    assert imported.startswith("embeddings: 0 inserted, 0 updated, ")
    replaced = do("import-prompts", "p.csv", "--replace-set").output
    assert "28 unchanged, in 3 prompt sets: " in replaced


def test_an_export_of_some_sets() -> None:
    """`--set` exports these sets alone; one that is not there is told with those that are."""
    do("init")
    there = sorted({prompt_set for prompt_set, _, _ in prompts()})
    count = sum(prompt_set in there[:2] for prompt_set, _, _ in prompts())
    result = do("export", "p.csv", "--set", there[0], "--set", there[1])
    assert result.output == f"prompts: {count} rows exported to p.csv\n"
    wrong = do("export", "none.csv", "--set", "no such set")
    assert wrong.exit_code == 1
    assert f"no set 'no such set'. It has: '{there[0]}'" in wrong.output
    assert not Path("none.csv").exists()
    assert do("export", "e.csv", "--embeddings", "--set", there[0]).exit_code == 2


def test_an_export_of_a_projects_own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--dataset` says which table, and how its columns are called; imports take it too."""
    Path("own_tables.py").write_text(
        "from imagepipeline_dagster import ImageDataset, TableMapping\n"
        "columns = {'prompt_set': 'campaign', 'prompt_id': 'id', 'prompt': 'words'}\n"
        "dataset = ImageDataset(prompts=TableMapping('briefs', columns))\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    do("init", "--empty")
    run_sql(
        "sqlite:///data/tables.db",
        "CREATE TABLE briefs (campaign TEXT, id TEXT, words TEXT)",
        "INSERT INTO briefs VALUES ('s', '1', 'p'), (NULL, '2', 'p')",
    )
    chosen = ("--dataset", "own_tables:dataset")
    assert do("export", "p.csv", *chosen).output == (
        "prompts: 1 row exported to p.csv\nLeft out: 1 row without a prompt set or an id.\n"
    )
    assert do("import-prompts", "p.csv", *chosen).output.endswith(
        " 1 unchanged, in 1 prompt set: 's'\n"
    )
    assert "1 row exported" in do("export", "q.csv", *chosen, "--set", "s").output
    Path("mistaken.py").write_text(
        "from imagepipeline_dagster import ImageDataset, TableMapping\n"
        "dataset = ImageDataset(prompts=TableMapping('briefs', {'promptset': 'campaign'}))\n"
    )
    for command in (("export", "r.csv"), ("import-prompts", "p.csv"), ("plan",)):
        wrong = do(*command, "--dataset", "mistaken:dataset")
        assert wrong.exit_code == 2
        assert "names 'promptset'" in wrong.output
