"""`make bench`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_SECONDS

REPOSITORY = Path(__file__).parent.parent
_PATIENCE_SECONDS = 2 * PATIENCE_SECONDS  # each measures a dozen things, one after the other


def figures_of(benchmark: str, *options: str, folder: Path) -> dict[str, Any]:
    """Run a benchmark, which has to succeed and to judge its promises; return its figures."""
    figures = folder / "figures.json"
    ran = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-m", f"benchmarks.{benchmark}", *options, "--json", str(figures)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "promised and measured" in ran.stdout
    told: dict[str, Any] = json.loads(figures.read_text())
    return told


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_figures(tmp_path: Path) -> None:
    """A quick run compares every contestant, judges every promise and says so in JSON."""
    figures = figures_of("purchase", "--quick", "--jobs", "20", folder=tmp_path)
    assert [line["jobs"] for line in figures["lines"]] == [2, 20, 20, 20, 20, 20, 40, 20, 40]
    assert all(line["ratio"] >= 1 for line in figures["lines"])
    assert all(line["status_requests"] >= 1 for line in figures["lines"])
    assert figures["second_run"]["posts"] == figures["second_run"]["api_requests"] == 0
    assert {verdict["what"]: verdict["met"] for verdict in figures["verdicts"]}[
        "second run: requests to the API"
    ]


@pytest.mark.slow
def test_the_benchmark_of_moderation_runs_and_writes_its_figures(tmp_path: Path) -> None:
    """A small run compares with the bare model, shares pictures, and replays without a model."""
    small = ("--pictures", "4", "--shared", "8", "--rows", "200")
    told = figures_of("moderation", *small, folder=tmp_path)
    lines = {line["what"]: line for line in told["lines"]}
    assert len(lines) == 10
    assert lines["ours, a second pass"]["measured"] == 0
    assert all(line["measured"] > 0 for what, line in lines.items() if "second pass" not in what)


@pytest.mark.slow
def test_the_benchmark_of_the_sensors_runs(tmp_path: Path) -> None:
    """A quick run looks at both databases in every way, and judges every promise."""
    told = figures_of("tables", "--quick", folder=tmp_path)
    assert [each["database"] for each in told["figures"]] == ["SQLite", "PostgreSQL"]
    assert len(told["verdicts"]) == 14
    assert all(each["measured"] > 0 for each in told["verdicts"] if each["unit"] != "MiB")


@pytest.mark.slow
def test_the_benchmark_of_scale_runs(tmp_path: Path) -> None:
    """A small run judges every promise, passes no account's limit and buys nothing twice."""
    small = ("--jobs", "40", "--sets", "5", "--prompts", "40")
    told = figures_of("scale", *small, folder=tmp_path)
    assert all(line["pictures_per_second"] > 0 for line in told["lines"])
    met = {verdict["what"]: verdict["met"] for verdict in told["verdicts"]}
    assert met["the account's limit: jobs in flight, to it"]
    assert met["bought twice"]
    assert [made["prompts"] for made in told["large_sets"]] == [4, 40, 40]


@pytest.mark.slow
def test_the_benchmark_of_releases_runs_and_writes_its_figures(tmp_path: Path) -> None:
    """A small run publishes in every format; a change in one set writes its own pictures alone."""
    small = ["--pictures", "1000", "--rows", "1000", "--sets", "20"]
    told = figures_of("releases", *small, folder=tmp_path)
    lines = {line["what"]: line for line in told["lines"]}
    assert len(lines) == 27
    assert lines["1 % changed in one set, bytes"]["measured"] < 30
