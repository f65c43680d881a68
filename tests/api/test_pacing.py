"""When a POST may leave."""

from __future__ import annotations

import asyncio
import itertools
from types import ModuleType, SimpleNamespace

import pytest

from imagepipeline_dagster.api import pacing
from imagepipeline_dagster.api.pacing import Brake


class Time:
    """A clock that stands still until somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.now = 1000.0
        # In this module alone: the event loop and pytest need the real one.
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        sleeping = SimpleNamespace(sleep=self._sleep)
        monkeypatch.setattr(module, "asyncio", sleeping, raising=False)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """A clock of the test's own."""
    return Time(monkeypatch, pacing)


def turn(brake: Brake, clock: Time) -> float:
    """Return how long a sender waits for its turn."""
    before = clock.now
    asyncio.run(brake.turn())
    return clock.now - before


def test_without_trouble_nobody_waits(clock: Time) -> None:
    """A brake that nobody pulled costs no time."""
    brake = Brake(0.25)
    assert [turn(brake, clock) for _ in range(20)] == [0.0] * 20


def test_a_refusal_holds_every_sender_for_what_the_server_asks(clock: Time) -> None:
    """Retry-After is waited for to the full, and those who come after it are spread out."""
    brake = Brake(0.25)
    turn(brake, clock)
    brake.throttled(3.0)
    assert turn(brake, clock) == pytest.approx(3.0)
    assert turn(brake, clock) > 0


def test_a_refusal_without_a_time_pauses_longer_each_time(clock: Time) -> None:
    """Where the server names no time the pauses double."""
    brake = Brake(0.25)
    pauses = []
    for _ in range(4):
        brake.throttled(None)
        pauses.append(turn(brake, clock))
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses))


def test_one_burst_of_refusals_counts_once(clock: Time) -> None:
    """Sixteen senders that are refused in the same moment do not slow the run sixteen times."""
    once, often = Brake(0.25), Brake(0.25)
    once.throttled(1.0)
    for _ in range(16):
        often.throttled(1.0)
    assert turn(often, clock) == pytest.approx(1.0)
    clock.now = 1000.0
    assert turn(once, clock) == pytest.approx(1.0)
    assert turn(often, clock) == pytest.approx(0.02, abs=0.02)


def test_recovery_is_gradual(clock: Time) -> None:
    """Each accepted request takes a little off the gap, until there is none."""
    brake = Brake(0.25)
    for _ in range(6):
        brake.throttled(1.0)
        turn(brake, clock)
    gaps = []
    for _ in range(300):
        gaps.append(turn(brake, clock))
        brake.accepted()
    assert gaps[0] > gaps[20] > gaps[100]
    assert gaps[-1] == 0.0


def test_how_long_nothing_was_taken_is_known(clock: Time) -> None:
    """Refusals count from the first one on, until the server takes a request."""
    brake = Brake(0.25)
    assert brake.throttled(30.0) == 0
    turn(brake, clock)
    assert brake.throttled(30.0) == pytest.approx(30.0)
    brake.accepted()
    turn(brake, clock)
    assert brake.throttled(30.0) == 0
