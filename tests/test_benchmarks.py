"""`make bench`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_its_figures(tmp_path: Path) -> None:
    """A quick run compares every contestant, judges every promise and says so in JSON."""
    figures = tmp_path / "figures.json"
    ran = subprocess.run(  # noqa: S603 - this very interpreter
        [
            *(sys.executable, "-m", "benchmarks.purchase"),
            *("--quick", "--jobs", "20", "--json", str(figures)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "promised and measured" in ran.stdout
    told = json.loads(figures.read_text())
    assert [line["jobs"] for line in told["lines"]] == [2, 20, 20, 20, 20, 20, 40, 20, 40]
    assert all(line["ratio"] >= 1 for line in told["lines"])
    assert all(line["status_requests"] >= 1 for line in told["lines"])
    assert told["second_run"]["posts"] == told["second_run"]["api_requests"] == 0
    assert {verdict["what"]: verdict["met"] for verdict in told["verdicts"]}[
        "second run: requests to the API"
    ]


@pytest.mark.slow
def test_the_benchmark_of_moderation_runs_and_writes_its_figures(tmp_path: Path) -> None:
    """A small run compares the classifier with the bare model, and replays without asking it."""
    figures = tmp_path / "figures.json"
    ran = subprocess.run(  # noqa: S603 - this very interpreter
        [
            *(sys.executable, "-m", "benchmarks.moderation"),
            *("--pictures", "4", "--rows", "200", "--json", str(figures)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "promised and measured" in ran.stdout
    lines = {line["what"]: line for line in json.loads(figures.read_text())["lines"]}
    assert len(lines) == 6
    assert lines["ours, a second pass"]["measured"] == 0
    assert all(line["measured"] > 0 for what, line in lines.items() if "second pass" not in what)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_benchmark_of_the_sensors_runs(tmp_path: Path) -> None:
    """A quick run looks at both databases in every way, and judges every promise."""
    figures = tmp_path / "figures.json"
    ran = subprocess.run(  # noqa: S603 - this very interpreter
        [sys.executable, "-m", "benchmarks.tables", "--quick", "--json", str(figures)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "promised and measured" in ran.stdout
    told = json.loads(figures.read_text())
    assert [each["database"] for each in told["figures"]] == ["SQLite", "PostgreSQL"]
    assert len(told["verdicts"]) == 14
    assert all(each["measured"] > 0 for each in told["verdicts"] if each["unit"] != "MiB")
