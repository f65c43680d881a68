"""When to ask for a job: soon after it is likely done."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import NamedTuple


class _Latency(NamedTuple):
    """How long a job took, or, where its first poll found it done, at most took."""

    seconds: float
    is_bound: bool


class PollClock:
    """Learns how long jobs of a shape take, so that the first poll comes when one is likely done.

    The rule is measured (400 jobs of about a second): the first poll at the median of the last 64
    latencies, then steps of a tenth of it, each a quarter longer than the one before. While no job
    needed a second poll, all may have been done long before: the next is asked for in half the
    time.
    """

    def __init__(self, *, poll_min_seconds: float, poll_max_seconds: float) -> None:
        self._poll_min = poll_min_seconds
        self._poll_max = poll_max_seconds
        self._latencies: dict[Hashable, deque[_Latency]] = defaultdict(lambda: deque(maxlen=64))

    def timer(self, shape: Hashable) -> PollTimer:
        """Return the pauses before each poll of a job that was just accepted."""
        usual = self._usual(shape)
        if usual is None:
            learned = partial(self._usual, shape)
            return PollTimer(self._poll_min, self._poll_min, self._poll_max, learned=learned)
        return PollTimer(usual, _step(usual), self._poll_max)

    def _usual(self, shape: Hashable) -> float | None:
        known = self._latencies[shape]
        if not known:
            return None
        seconds = [latency.seconds for latency in known]
        return min(seconds) / 2 if _are_bounds(known) else statistics.median(seconds)

    def learn(self, shape: Hashable, timer: PollTimer) -> None:
        """Take in that the timer's job was found done at its last poll."""
        if not timer.polls:
            return
        known = self._latencies[shape]
        latency = _Latency(timer.estimated_latency(), is_bound=timer.polls == 1)
        if _are_bounds(known) and not latency.is_bound:
            # They are far off now that one is known.
            known.clear()
        known.append(latency)


def _are_bounds(latencies: Iterable[_Latency]) -> bool:
    return all(latency.is_bound for latency in latencies)


class PollTimer:
    """The pauses before each poll of one job, in seconds; remembers what they amount to.

    `learned` tells a timer that began without knowing how long such jobs take, once it is known:
    a run's first jobs are all sent before one of them has finished.
    """

    def __init__(
        self,
        first: float,
        step: float,
        longest: float,
        *,
        learned: Callable[[], float | None] | None = None,
    ) -> None:
        self._learned = learned
        self._step = min(step, longest)
        self._next = first
        self._longest = longest
        self._last_pause = 0.0
        self._started = time.monotonic()
        self.polls = 0

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        if self._learned is not None and (usual := self._learned()) is not None:
            self._learned = None
            self._step = min(_step(usual), self._longest)
            left = usual - (time.monotonic() - self._started)
            self._next = max(left, self._step)
        self._last_pause = self._next
        self._next, self._step = self._step, min(1.25 * self._step, self._longest)
        self.polls += 1
        return self._last_pause

    def estimated_latency(self) -> float:
        """Return how long the job took, as well as the polls can tell, in seconds.

        A first poll that finds the job done only bounds its latency from above; without the
        discount the estimate would only ever grow.
        """
        elapsed = time.monotonic() - self._started
        return 0.94 * elapsed if self.polls == 1 else elapsed - self._last_pause / 2


def _step(usual: float) -> float:
    """Return the pause after a first poll that came too early, in seconds."""
    return max(0.1 * usual, 0.01)
