from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.running import do
from tests.processes import COMMAND, environment, run, serving_emulator


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
    "wrong",
    [
        ["--latency", "-1"],
        ["--port", "70000"],
        ["--concurrency", "0"],
        ["--api-key", ""],
        ["--fault", "no_such_kind"],
        ["--fault", "server_error:status=404"],
        ["--fault", "stuck:tiems=3"],
    ],
)
def test_the_emulator_refuses_what_cannot_be_meant(wrong: list[str]) -> None:
    """A setting out of range is a wrong use: status 2, the option's name and no traceback."""
    result = do("emulator", *wrong)
    assert result.exit_code == 2, result.exception
    assert wrong[0] in result.output
