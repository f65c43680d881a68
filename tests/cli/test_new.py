"""`new`: a project to start from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.running import do
from tests.processes import PROJECT, run_script


def test_a_new_project_is_whole(tmp_path: Path) -> None:
    """It has the repository's own definitions and instance, sample tables, and its name."""
    made = json.loads(do("new", "deep/My Boats!", "--json").stdout)

    folder = tmp_path / "deep/My Boats!"
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        *made["files"]
    }
    assert 'name = "my-boats"' in (folder / "pyproject.toml").read_text()
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    for shared in ("definitions.py", "dagster.yaml"):
        assert (folder / shared).read_text() == (PROJECT / shared).read_text()


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    """A project is made in a new or an empty folder alone, and never over a file."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()

    for taken in ("full", "full/mine.txt"):
        refused = do("new", taken)
        assert refused.exit_code == 1
        assert taken in refused.output
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert do("new", "empty").exit_code == 0


@pytest.mark.slow
def test_the_next_steps_work(tmp_path: Path) -> None:
    """What `new` advises runs as it is printed; the definitions are valid, and a set is made."""
    printed = do("new", "boats").output
    steps = "\n".join(re.findall(r"^  (.+)$", printed, re.MULTILINE))
    assert "dagster dev" in steps
    steps = steps.replace(
        "dagster dev",
        "dagster definitions validate && imagepipeline-dagster sets sync && "
        "dagster job execute -m definitions -j materialize_prompt_set "
        """--tags '{"dagster/partition": "portraits"}' && """
        "imagepipeline-dagster status",
    )
    # As the wheel's entry point does.
    plugin = "-p imagepipeline_dagster.testing"
    ran = run_script(steps, cwd=tmp_path, PYTEST_ADDOPTS=plugin)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "1 passed" in ran.stdout
    assert re.search(r"portraits +built", ran.stdout), ran.stdout[-3000:]
