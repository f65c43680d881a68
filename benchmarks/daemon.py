"""What the real daemon takes for a tick in which nothing changed, and for that of an empty sensor.

The daemon's own records are read: from a tick's start to its end, the call of the code server and
the writing of the record included.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus  # noqa: TID251 - what ticks say

_DEFINITIONS = Path(__file__).with_name("watched_definitions.py")
_SENSORS = ("empty_sensor", "prompts_sensor", "embeddings_sensor")
_LONGEST_WAIT = 300.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietTicks:
    """Median seconds of quiet ticks."""

    empty: float
    prompts: float
    embeddings: float


def measure_quiet_ticks(
    instance: dg.DagsterInstance, *, home: Path, tables_url: str, ledger_url: str, ticks: int
) -> QuietTicks:
    """Run the daemon on an instance until each sensor had so many quiet ticks."""
    seconds: dict[str, list[float]] = {}
    with _running(home, tables_url=tables_url, ledger_url=ledger_url):
        deadline = time.monotonic() + _LONGEST_WAIT
        while not (seconds and min(map(len, seconds.values())) >= ticks):
            if time.monotonic() > deadline:
                raise TimeoutError(f"see {home / 'daemon.log'}: {seconds}")
            time.sleep(1)
            seconds = {name: _quiet(instance, name) for name in _SENSORS}
    # The first ones pay for connections, or came while others looked at everything.
    medians = {
        name: statistics.median(sorted_by_age[:ticks]) for name, sorted_by_age in seconds.items()
    }
    return QuietTicks(
        empty=medians["empty_sensor"],
        prompts=medians["prompts_sensor"],
        embeddings=medians["embeddings_sensor"],
    )


def _quiet(instance: dg.DagsterInstance, sensor: str) -> list[float]:
    """Return the seconds of a sensor's quiet ticks, the latest first."""
    states = [state for state in instance.all_instigator_state() if state.name == sensor]
    ticks: list[InstigatorTick] = []
    for state in states:
        ticks += instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=200)
    return [
        tick.tick_data.end_timestamp - tick.timestamp
        for tick in ticks
        if tick.status is TickStatus.SKIPPED
        and tick.tick_data.end_timestamp is not None
        and tick.tick_data.skip_reason
        in (
            "nothing to look at",
            "no row changed",
            "no embedding changed",
        )
    ]


@contextmanager
def _running(home: Path, *, tables_url: str, ledger_url: str) -> Iterator[None]:
    ours = ("IMAGEPIPELINE_", "DAGSTER_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    settings = {
        "DAGSTER_HOME": str(home),
        "IMAGEPIPELINE_STORAGE": str(home / "data"),
        "IMAGEPIPELINE_TABLES_URL": tables_url,
        "IMAGEPIPELINE_LEDGER_URL": ledger_url,
    }
    command = [
        str(Path(sys.executable).with_name("dagster-daemon")),
        "run",
        "-f",
        str(_DEFINITIONS),
    ]
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env={**inherited, **settings},
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
