"""When to ask for a job."""

from __future__ import annotations

import itertools
import time

import pytest

from imagepipeline_dagster.purchase import pacing
from imagepipeline_dagster.purchase.pacing import PollClock
from tests.api.test_pacing import Time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """A clock of the test's own."""
    return Time(monkeypatch, pacing)


def test_the_first_polls_of_a_run_follow_the_settings(clock: Time) -> None:
    """With nothing learned, the pauses grow from the shortest to the longest."""
    timer = PollClock(poll_min_seconds=0.5, poll_max_seconds=2.0).timer("shape")
    pauses = list(itertools.islice(timer, 12))
    assert pauses[:2] == [0.5, 0.5]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2.0
    assert clock.now == 1000.0


def test_the_first_poll_comes_when_a_job_is_likely_done(clock: Time) -> None:
    """Jobs of a shape that took four seconds are first asked for after four seconds."""
    polls = PollClock(poll_min_seconds=0.5, poll_max_seconds=10.0)
    for _ in range(64):
        timer = polls.timer("slow")
        next(timer)
        next(timer)
        clock.now += 4.0 + timer._last_pause / 2
        polls.learn("slow", timer)

    pauses = list(itertools.islice(polls.timer("slow"), 3))

    assert pauses == pytest.approx([4.0, 0.4, 0.5])
    assert next(polls.timer("another shape")) == 0.5


def test_the_estimate_follows_jobs_that_get_quicker(clock: Time) -> None:
    """A first poll that finds a job done lowers the estimate, so that it does not only grow."""
    polls = PollClock(poll_min_seconds=0.5, poll_max_seconds=10.0)
    first = []
    for _ in range(300):
        timer = polls.timer("shape")
        for pause in timer:
            clock.now += pause
            if clock.now - timer._started >= 1.0:
                break
        polls.learn("shape", timer)
        first.append(timer.estimated_latency())
    assert 0.85 <= first[-1] <= 1.1


@pytest.mark.parametrize("before", [0, 100], ids=["from the start", "after slow ones"])
def test_jobs_that_are_done_at_once_are_soon_asked_for_at_once(clock: Time, before: int) -> None:
    """While each first poll finds its job done, the next comes after half the time."""
    polls = PollClock(poll_min_seconds=0.5, poll_max_seconds=10.0)
    for number in range(before + 100):
        latency = 1.0 if number < before else 0.01
        timer = polls.timer("shape")
        began = clock.now
        while clock.now - began < latency:
            clock.now += next(timer)
        polls.learn("shape", timer)

    assert next(polls.timer("shape")) < 0.02


def test_a_timer_measures_real_time() -> None:
    """Latency is counted from the moment that the job was accepted."""
    timer = PollClock(poll_min_seconds=0.01, poll_max_seconds=1.0).timer("shape")
    next(timer)
    time.sleep(0.02)
    assert timer.estimated_latency() >= 0.015
