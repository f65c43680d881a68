"""The testing kit, used as a team uses it: in a project of its own."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

import imagepipeline_dagster.testing as kit
from tests.processes import PROJECT, built_wheel, run

PLUGIN = ["-p", kit.__name__]
"""What the entry point does where the package is installed; said twice, it is loaded once."""


def _pytest(folder: Path, *arguments: str, packages: Path = PROJECT) -> str:
    command = ["-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return _python(folder, *command, packages=packages)


def _python(folder: Path, *arguments: str, packages: Path) -> str:
    done = run([sys.executable, *arguments], cwd=folder, variables={"PYTHONPATH": str(packages)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _write_examples(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    page = (PROJECT / "docs/testing.md").read_text(encoding="utf-8")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        (folder / f"test_example_{number}.py").write_text(block)


@pytest.mark.slow
def test_the_examples_of_the_page_are_true(tmp_path: Path) -> None:
    """The page's examples pass in a folder that knows nothing of this project."""
    _write_examples(tmp_path)

    assert "2 passed" in _pytest(tmp_path, *PLUGIN)


@pytest.mark.slow
def test_the_wheel_brings_the_kit(tmp_path: Path) -> None:
    """Pytest finds the plugin in the wheel alone, without a warning; so does a new project's."""
    packages, project = tmp_path / "packages", tmp_path / "project"
    with zipfile.ZipFile(built_wheel(tmp_path / "wheels")) as archive:
        archive.extractall(packages)
    _write_examples(project)

    output = _pytest(project, "-v", "--trace-config", packages=packages)

    assert f"imagepipeline_dagster.testing: {packages}" in output
    assert "2 passed" in output
    assert "PytestAssertRewriteWarning" not in output
    assert "warnings summary" not in output
    _python(tmp_path, "-m", "imagepipeline_dagster.cli", "new", "boats", packages=packages)
    assert "1 passed" in _pytest(tmp_path / "boats", packages=packages)


def test_a_start_of_pytest_loads_nothing_heavy(tmp_path: Path) -> None:
    """Who has the plugin and does not use it waits for no library of it, and reads no warning."""
    (tmp_path / "test_light.py").write_text(
        "import sys\n\n\n"
        "def test_light():\n"
        "    assert 'imagepipeline_dagster.testing' in sys.modules\n"
        "    heavy = {'dagster', 'pandas', 'pyarrow', 'sqlalchemy', 'httpx', 'PIL', 'pydantic'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )

    assert "warning" not in _pytest(
        tmp_path, *PLUGIN, "-p", "no:anyio", "-p", "no:hypothesispytest"
    )
