"""What the targets of the Makefile run, and where."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PROJECT, environment
from tests.waiting import PATIENCE_SECONDS


def _commands(target: str, tmp_path: Path, *settings: str) -> str:
    """Return what `make` would run, for an environment that is installed."""
    installed = tmp_path / "installed"
    installed.touch()
    ran = subprocess.run(  # noqa: S603 - this project's own Makefile
        [
            *("make", "--dry-run", "--no-print-directory", target),
            *(f"RUN_TIME={installed}", f"EVERYTHING={installed}"),
            *(f"BIN={Path(sys.executable).parent}", *settings),
        ],
        cwd=PROJECT,
        env=environment(DAGSTER_HOME=str(tmp_path / "theirs")),
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_the_ui_listens_where_it_is_told(tmp_path: Path) -> None:
    """`make dev` takes its port from PORT, and has one without."""
    assert "dagster dev --port 3000" in _commands("dev", tmp_path)
    assert "dagster dev --port 4123" in _commands("dev", tmp_path, "PORT=4123")


@pytest.mark.parametrize("target", ["dev", "demo"])
def test_what_runs_needs_no_tool_of_the_tests(tmp_path: Path, target: str) -> None:
    """The demo and the UI are made of the run-time lock alone."""
    for lock, tools in (("requirements.lock", False), ("requirements-dev.lock", True)):
        text = (PROJECT / lock).read_text()
        assert [f"\n{name}==" in text for name in ("playwright", "mypy")] == [tools, tools]
    assert "requirements-dev" not in _commands(target, tmp_path)


def test_both_locks_agree() -> None:
    """What the package runs on has the same version under test."""
    run_time, everything = (
        {line.split(" ")[0] for line in (PROJECT / lock).read_text().splitlines() if "==" in line}
        for lock in ("requirements.lock", "requirements-dev.lock")
    )
    assert run_time <= everything


@pytest.mark.slow
def test_the_ui_starts_without_a_warning(tmp_path: Path) -> None:
    """`make dev` warns of nothing, and leaves a DAGSTER_HOME of the user's alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project = tmp_path / "project"
    project.mkdir()
    for name in (
        "Makefile",
        "dagster.yaml",
        "definitions.py",
        "pyproject.toml",
        "requirements.lock",
    ):
        shutil.copy(PROJECT / name, project)
    installed = project / "installed"
    installed.touch()
    server = subprocess.Popen(  # noqa: S603 - this project's own Makefile
        [
            *("make", "--silent", "dev", f"PORT={port}"),
            *(f"RUN_TIME={installed}", f"BIN={Path(sys.executable).parent}"),
        ],
        cwd=project,
        env=environment(DAGSTER_HOME=str(tmp_path / "theirs"), PYTHONPATH=str(PROJECT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if "Serving dagster-webserver" in line:
                break
        assert "Serving dagster-webserver" in said
        assert "warning" not in said.lower()
        assert not (tmp_path / "theirs").exists()
        assert (project / "schedules").is_dir()
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=PATIENCE_SECONDS)
