from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import COMMAND, run

_COLUMNS = ("requested", "reused", "bought", "kept", "rejected", "quarantined", "api_calls")
_ROW = re.compile(r"^(\w+)" + r" +(\d+)" * len(_COLUMNS) + r" +[\d.]+ *$", re.MULTILINE)


def _told(output: str) -> list[dict[str, tuple[int, ...]]]:
    """Return the figures of both halves of the demo by prompt set."""
    halves = re.split(r"─ 2  One prompt", output)
    assert len(halves) == 2, output
    return [
        {found[0]: tuple(map(int, found[1:])) for found in _ROW.findall(half)} for half in halves
    ]


@pytest.mark.slow
def test_a_second_demo_buys_only_what_its_edits_ask_for(tmp_path: Path) -> None:
    """The first demo makes all sets, then what an edit touches; a second one just the edits.

    Dagster's instance is one of its own, which says nothing and sends nothing.
    """
    variables = {"COLUMNS": "140", "DAGSTER_DISABLE_TELEMETRY": ""}
    outputs = []
    for _ in range(2):
        ended = run([*COMMAND, "demo"], cwd=tmp_path, variables=variables)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        assert "No dagster instance configuration" not in ended.stderr
        assert "elemetry" not in ended.stdout + ended.stderr
        outputs.append(ended.stdout)

    first, second = map(_told, outputs)
    assert first[0] == {
        "harbour_at_night": (14, 0, 13, 13, 1, 0, 13),
        "portraits": (12, 0, 12, 11, 0, 1, 12),
        "spring_catalogue": (14, 0, 14, 13, 1, 0, 14),
    }
    edits = {
        "harbour_at_night": (14, 8, 5, 13, 1, 0, 5),
        "portraits": (12, 11, 1, 11, 0, 1, 1),
        "spring_catalogue": (14, 13, 1, 13, 1, 0, 1),
    }
    assert first[1] == edits
    assert second == [{}, edits]
    assert "published v0001" in outputs[0]
    assert "unchanged, still v0002" in outputs[1]
    found = re.findall(r"The dataset is at file://(\S+)", "".join(outputs))
    assert [Path(path).name for path in found] == ["v0002", "v0003"]
    assert all((Path(path) / "manifest.json").exists() for path in found)
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".dagster"}
