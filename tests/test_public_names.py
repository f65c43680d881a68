from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imagepipeline_dagster


def test_public_names_are_sorted_and_there() -> None:
    """`__all__` is sorted, holds no name twice, and each name can be had."""
    names = imagepipeline_dagster.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(imagepipeline_dagster, name).__name__ == name
    assert dir(imagepipeline_dagster) == names


def test_a_name_that_is_not_there_says_so() -> None:
    """A wrong name is an AttributeError that repeats it, as for any module."""
    with pytest.raises(AttributeError, match="No imagepipeline_dagster attribute ImageDatasett"):
        getattr(imagepipeline_dagster, "ImageDatasett")  # noqa: B009 - no checker would allow it


_IMPORT_ALL = """
import importlib, pkgutil, socket, sys
import imagepipeline_dagster as package
def refuse(*arguments, **options):
    raise AssertionError("a module connects on import")
socket.socket.connect = refuse
names = [found.name for found in pkgutil.walk_packages(package.__path__, "imagepipeline_dagster.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 30
package.__all__ and [getattr(package, name) for name in package.__all__]
assert not {"boto3", "dagster_aws", "pandas"} & set(sys.modules)
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    """Importing every module connects to nothing, leaves no file, and no library of few behind."""
    folder = tmp_path / "empty"
    folder.mkdir()
    outside = {name: value for name, value in os.environ.items() if "IMAGEPIPELINE" not in name}
    run = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-W", "error", "-c", _IMPORT_ALL],
        cwd=folder,
        env={**outside, "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(folder.rglob("*")) == []


def _packages() -> list[str]:
    root = imagepipeline_dagster.__path__
    found = pkgutil.walk_packages(root, "imagepipeline_dagster.")
    return ["imagepipeline_dagster", *(module.name for module in found if module.ispkg)]


@pytest.mark.parametrize("name", _packages())
def test_a_package_names_its_modules(name: str) -> None:
    """Each package's docstring says of every module in it what it is for."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"__main__"}
    words = set(re.findall(r"\w+", package.__doc__ or ""))
    assert modules <= words, sorted(modules - words)
