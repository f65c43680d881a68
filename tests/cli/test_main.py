from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.running import do
from tests.processes import PROJECT, run


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


def test_no_command_loads_much_before_it_runs() -> None:
    """Help, a wrong use and completion load neither Dagster nor what reads tables."""
    ended = run([sys.executable, "-c", _ASK_EVERY_COMMAND], cwd=Path.cwd(), variables={})

    assert ended.returncode == 0, ended.stderr
    asked = ended.stdout.splitlines()
    assert {"releases list", "import-prompts", "ledger resubmit", "demo"} <= set(asked)
    assert len(asked) > 30


_ASK_EVERY_COMMAND = """
import sys
import click
from click.testing import CliRunner
from imagepipeline_dagster.cli import main

def paths(group, path=()):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield [*path, name]
        if isinstance(command, click.Group):
            yield from paths(command, [*path, name])

def ask(arguments, **variables):
    output = CliRunner().invoke(main, arguments, prog_name="ip", env=variables).output
    loaded = {"dagster._core", "pandas", "pyarrow"} & set(sys.modules)
    assert not loaded, f"{' '.join(arguments)} loads {loaded}"
    return output

for path in paths(main):
    words = " ".join(["ip", *path])
    assert words in ask([*path, "--help"])
    assert "No such option" in ask([*path, "--nonsense"])
    typed = {"COMP_WORDS": f"{words} --he", "COMP_CWORD": str(len(path) + 1)}
    assert "--help" in ask([], _IP_COMPLETE="bash_complete", **typed)
    print(*path)
"""


@pytest.mark.parametrize("group", [(), ("ledger",)])
def test_each_command_is_told_on_one_line(group: tuple[str, ...]) -> None:
    """In the list of commands each has its whole summary on one line of 80 columns."""
    told = do(*group, "--help").output
    commands = told.split("Commands:\n")[1].splitlines()
    assert len(commands) > 2
    for line in commands:
        assert line.endswith(".")
        assert not line.endswith("..")
        assert len(line) <= 80


def test_a_wrong_command_is_a_wrong_use() -> None:
    """An unknown command or option has status 2, a misspelt one a hint; the version is known."""
    misspelt = do("releses")
    assert misspelt.exit_code == 2
    assert "'releases'" in misspelt.output
    assert do("init", "--nonsense").exit_code == 2
    version = do("--version")
    assert version.exit_code == 0
    assert 'version = "' + version.output.split()[-1] + '"' in (
        (PROJECT / "pyproject.toml").read_text()
    )
