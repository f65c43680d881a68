from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from imagepipeline_dagster.cli import main
from tests.processes import COMMAND, PROJECT, environment, run, serving_emulator

ROWS = [
    {"prompt_set": "boats", "prompt_id": "one", "prompt": "a boat"},
    {"prompt_set": "boats", "prompt_id": "two", "prompt": 'a raft, with "sails"\tand a tab'},
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, without this project's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("API_KEY", "BASE_URL", "STORAGE", "TABLES_URL", "LEDGER_URL", "MAX_IN_FLIGHT"):
        monkeypatch.delenv(f"IMAGEPIPELINE_{name}", raising=False)


def _do(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def _prompts() -> list[tuple[str, str, str]]:
    engine = sa.create_engine("sqlite:///data/tables.db")
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT prompt_set, prompt_id, prompt FROM prompts ORDER BY 1, 2")
        )
        rows = [(row[0], row[1], row[2]) for row in found]
    engine.dispose()
    return rows


def test_init_twice(tmp_path: Path) -> None:
    """`init` makes the tables with samples once, and changes nothing the second time."""
    first = _do("init")
    content = (tmp_path / "data/tables.db").read_bytes()
    second = _do("init")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Created prompts and embeddings with samples at sqlite:///data/tables.db" in first.output
    assert "nothing was changed" in second.output
    assert (tmp_path / "data/tables.db").read_bytes() == content
    assert len(_prompts()) == 28


def test_init_empty() -> None:
    """`init --empty` makes tables without rows, and leaves rows that are there."""
    assert _do("init", "--empty").exit_code == 0
    assert _prompts() == []
    Path("more.jsonl").write_text(json.dumps(ROWS[0]))
    _do("import-prompts", "more.jsonl")
    assert _do("init", "--empty").exit_code == 0
    assert len(_prompts()) == 1


def test_a_database_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong URL ends in one line that names it without its password, and status 1."""
    for url, words in (
        ("postgresql://me:hush-hush@127.0.0.1:9/shop", "me:***@127.0.0.1:9/shop"),
        ("nonsense", "URL cannot be read"),
    ):
        monkeypatch.setenv("IMAGEPIPELINE_TABLES_URL", url)
        for arguments in (("init",), ("init", "--empty")):
            result = _do(*arguments)
            assert result.exit_code == 1
            assert isinstance(result.exception, SystemExit), result.exception
            assert words in result.output
            assert "hush-hush" not in result.output


def _write(file: Path) -> None:
    match file.suffix:
        case ".jsonl":
            file.write_text("\n".join(map(json.dumps, ROWS)))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), file)
        case suffix:
            import csv

            with file.open("w", newline="") as opened:
                writer = csv.DictWriter(
                    opened, list(ROWS[0]), delimiter="\t" if suffix == ".tsv" else ","
                )
                writer.writeheader()
                writer.writerows(ROWS)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_comes_in(tmp_path: Path, suffix: str) -> None:
    """A file of each format is imported as it is, and changes nothing the second time."""
    file = tmp_path / f"prompts{suffix}"
    _write(file)

    first, second = _do("import-prompts", str(file)), _do("import-prompts", str(file))

    assert first.output == "prompts: 2 inserted, 0 updated, 0 unchanged\n"
    assert second.output == "prompts: 0 inserted, 0 updated, 2 unchanged\n"
    assert _prompts() == [(row["prompt_set"], row["prompt_id"], row["prompt"]) for row in ROWS]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "prompt_set,prompt\nboats,x\nboats,\n", ["a.csv", "line 3", "'prompt'"]),
        ("a.csv", "prompt_set,prompt,seed\nb,x,1\nb,y,many\n", ["line 3", "'seed'", "many"]),
        ("a.tsv", "prompt_set\tprompt\tsamples\nb\tx\t0.5\n", ["a.tsv", "line 2", "'samples'"]),
        ("a.jsonl", '{"prompt_set": "b", "prompt": "x"}\n{"prompt": \n', ["a.jsonl", "line 2"]),
        ("a.csv", "Category,Text\nb,x\n", ["a.csv", "--map prompt=", "'Category'"]),
        ("a.parquet", "no parquet at all", ["a.parquet"]),
        ("a.xls", "x", ["a.xls"]),
        ("a.csv", "", ["a.csv"]),
        (
            "a.csv",
            "prompt_set,prompt_id,prompt\nb,1,x\nb,1,y\n",
            ["line 3", "repeats the prompt_set and prompt_id of line 2"],
        ),
    ],
)
def test_a_bad_file_changes_nothing(name: str, text: str, words: list[str]) -> None:
    """What is wrong is told with file, row and column, in status 1, and nothing was imported."""
    Path("good.jsonl").write_text(json.dumps(ROWS[0]))
    assert _do("import-prompts", "good.jsonl").exit_code == 0
    Path(name).write_text(text)

    result = _do("import-prompts", name)

    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output
    assert len(_prompts()) == 1


def test_columns_are_mapped() -> None:
    """`--map` names the file's header for a column; rows without a set take `--prompt-set`."""
    Path("a.csv").write_text("Category,Text here,Other\nboats,x,1\n,y,2\n")

    result = _do(
        *("import-prompts", "a.csv", "--map", "prompt=Text here"),
        *("--map", "prompt_set=Category", "--prompt-set", "rest"),
    )

    assert result.exit_code == 0, result.output
    assert [(row[0], row[2]) for row in _prompts()] == [("boats", "x"), ("rest", "y")]
    assert "Ignored columns: Other" in result.output


@pytest.mark.parametrize("pair", ["prompt", "=x", "prompt=", ""])
def test_a_map_that_is_none_is_refused(pair: str) -> None:
    """A `--map` without both sides is a wrong use: status 2, and the form that it takes."""
    Path("a.csv").write_text("prompt_set,prompt\nb,x\n")
    result = _do("import-prompts", "a.csv", "--map", pair)
    assert result.exit_code == 2
    assert "is not COLUMN=HEADER" in result.output


@pytest.mark.parametrize("pair", ["nothing=prompt", "prompt=Nothing"])
def test_a_map_of_what_is_not_there_is_refused(pair: str) -> None:
    """A `--map` to an unknown column or header names it and those that there are."""
    Path("a.csv").write_text("prompt_set,prompt\nb,x\n")
    result = _do("import-prompts", "a.csv", "--map", pair)
    assert result.exit_code == 1
    assert "othing" in result.output
    assert "'prompt_set'" in result.output


def test_embeddings_come_in() -> None:
    """`import-embeddings` fills the other table, and a missing file is a wrong use."""
    Path("e.csv").write_text('embedding_id,trigger_words,placement\nlook,"a, b",positive\n')
    assert "embeddings: 1 inserted" in _do("import-embeddings", "e.csv").output
    assert _do("import-embeddings", "missing.csv").exit_code == 2


def test_help_is_quick() -> None:
    """`--help` names the commands without loading Dagster, pandas or a database's driver."""
    script = (
        "import sys; from imagepipeline_dagster.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'dagster', 'pandas', 'pyarrow', 'sqlalchemy', 'PIL', 'httpx', 'starlette'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ended = run([sys.executable, "-c", script], cwd=Path.cwd(), variables={})

    assert ended.returncode == 0, ended.stderr
    for command in ("init", "import-prompts", "import-embeddings", "emulator", "demo"):
        assert command in ended.stdout
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.slow
def test_the_emulator_answers_the_pages_own_snippet(tmp_path: Path) -> None:
    """`emulator` serves the contract with its key on the port that it tells, until interrupted."""
    with serving_emulator("--api-key", "chosen", "--latency", "0", cwd=tmp_path) as url:
        body = {"model_id": "sdxl", "prompt": "a boat", "width": 64, "height": 64}
        refused = httpx.post(f"{url}/sdxl/text2image/v1", json=body, headers={"API-Key": "x"})
        made = httpx.post(f"{url}/sdxl/text2image/v1", json=body, headers={"API-Key": "chosen"})
        assert refused.status_code == 401
        assert made.json()["status"] == "PENDING"
        port = url.rpartition(":")[2]
        taken = run([*COMMAND, "emulator", "--port", port], cwd=tmp_path, variables={})
        assert taken.returncode == 1
        assert "Error:" in taken.stderr
        assert "Traceback" not in taken.stderr


@pytest.mark.slow
def test_the_emulator_ends_well_when_interrupted(tmp_path: Path) -> None:
    """Ctrl-C is how it is meant to end: status 0 and no traceback."""
    import signal

    with subprocess.Popen(  # noqa: S603
        [*COMMAND, "emulator", "--port", "0"],
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "Serving the API at" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong", [["--latency", "-1"], ["--port", "70000"], ["--concurrency", "0"], ["--api-key", ""]]
)
def test_the_emulator_refuses_what_cannot_be_meant(wrong: list[str]) -> None:
    """A setting out of range is a wrong use: status 2, the option's name and no traceback."""
    result = _do("emulator", *wrong)
    assert result.exit_code == 2, result.exception
    assert wrong[0] in result.output


@pytest.mark.parametrize("variable", ["IMAGEPIPELINE_API_KEY", "IMAGEPIPELINE_TABLES_URL"])
def test_the_demo_never_touches_what_is_real(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """With a key or tables of one's own in the environment, the demo refuses and says why."""
    monkeypatch.setenv(variable, "anything")
    result = _do("demo")
    assert result.exit_code == 1
    assert f"unset {variable}" in result.output
    assert list(Path.cwd().iterdir()) == []


def test_a_wrong_command_is_a_wrong_use() -> None:
    """An unknown command or option is told with status 2, and the version is known."""
    assert _do("nonsense").exit_code == 2
    assert _do("init", "--nonsense").exit_code == 2
    version = _do("--version")
    assert version.exit_code == 0
    assert 'version = "' + version.output.split()[-1] + '"' in (
        (PROJECT / "pyproject.toml").read_text()
    )
