"""Memory that a long file takes: hardly more than a short one."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from imagepipeline_dagster.tables.creating import create_tables
from tests.processes import run

_MARGIN = 24 * 1024  # KiB; 18,000 rows held in memory would be twice as much
_PROMPT = "a lighthouse at dusk, " * 90

# Imports a file, replaces its sets by the same rows, tells its changes, and exports it again.
WORK = """
import resource, sys
from contextlib import closing
from pathlib import Path
from imagepipeline_dagster.tables.transfer.export import export_table
from imagepipeline_dagster.tables.transfer.incoming import IncomingRows
from imagepipeline_dagster.tables.transfer.merge import Merge
from imagepipeline_dagster.tables.schema import PromptRow, TableMapping

url, file = sys.argv[1], Path(sys.argv[2])
prompts = TableMapping("prompts")
for replaces in (False, True):
    incoming = IncomingRows(file, PromptRow)
    with closing(Merge(url, prompts, incoming, replace_sets=replaces)) as merge:
        merge.changes()
        merge.carry_out()
for ending in (".csv", ".jsonl"):
    export_table(url, prompts, PromptRow, file.with_name("out" + ending))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(url: str, folder: Path, rows: int) -> int:
    """Return the peak memory, in KiB, of a process that imports and exports so many rows."""
    create_tables(url)
    file = folder / f"{rows}.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("prompt_set", "prompt_id", "prompt", "seed"))
        # One set is as large as all others together: neither rows nor sets may add up.
        writer.writerows(
            (f"set {number if number % 2 else 0}", number, f"{_PROMPT}number {number}", number)
            for number in range(rows)
        )
    ended = run([sys.executable, "-c", WORK, url, str(file)], cwd=folder, variables={})
    assert ended.returncode == 0, ended.stderr
    with (folder / "out.jsonl").open() as exported:
        assert sum(1 for _ in exported) == rows
    return int(ended.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tables_url: str, tmp_path: Path) -> None:
    """Ten times the rows take the same memory, on either database."""
    short = peak_of(tables_url, tmp_path, 2_000)
    assert peak_of(tables_url, tmp_path, 20_000) < short + _MARGIN
