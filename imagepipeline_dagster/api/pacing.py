"""When a request may leave: at a rate, and more slowly where the server asks for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

_SLOWEST_SECONDS = 20.0
# How soon a pace that was changed is looked at again.
_GLANCE_SECONDS = 0.2


@dataclass(slots=True)
class RequestPace:
    """The gaps between all requests of a run, so that they keep a rate that may change."""

    requests_per_second: float
    _next: float = field(default=0.0, init=False)

    async def turn(self) -> None:
        """Wait for the next moment to ask."""
        while self.requests_per_second <= 0 or (left := self._next - time.monotonic()) > 0:
            waits = left if self.requests_per_second > 0 else _GLANCE_SECONDS
            await asyncio.sleep(min(waits, _GLANCE_SECONDS))
        self._next = max(self._next, time.monotonic()) + 1 / self.requests_per_second


@dataclass(slots=True)
class Brake:
    """The gaps between POSTs, shared by every task of a run: doubled when the server throttles.

    Without trouble there is none. A 429 or 503 stops every sender for what Retry-After says (else
    for a growing pause) and doubles the usual gap; each accepted request then takes a twentieth
    off it.
    """

    shortest_pause: float  # seconds
    _gap: float = field(default=0.0, init=False)
    _pause: float = field(default=0.0, init=False)
    _next_send: float = field(default=0.0, init=False)
    _last_send: float = field(default=0.0, init=False)
    _usual_gap: float = field(default=0.0, init=False)
    _refused_since: float | None = field(default=None, init=False)

    async def turn(self) -> None:
        """Wait for the next moment to send."""
        # Another sender's refusal may have moved the moment while this one slept.
        while (seconds := self._next_send - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(seconds)
        now = time.monotonic()
        if self._last_send:
            self._usual_gap += 0.1 * (min(now - self._last_send, 1.0) - self._usual_gap)
        self._last_send = now
        self._next_send = now + self._gap

    def throttled(self, retry_after: float | None) -> float:
        """Slow every sender down: the server refused a request for now.

        Returns for how long it has done nothing else, in seconds.
        """
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        self._pause = max(self._pause, self.shortest_pause)
        pause = self._pause if retry_after is None else retry_after
        # One refusal speaks for all that were sent in the same moment.
        if self._next_send - now < pause / 2:
            self._gap = min(2 * max(self._gap, self._usual_gap, 0.01), _SLOWEST_SECONDS)
            self._pause = min(2 * self._pause, _SLOWEST_SECONDS)
        self._next_send = max(self._next_send, now + pause)
        return now - self._refused_since

    def accepted(self) -> None:
        """Speed up again, a little: the server took a request."""
        self._refused_since = None
        self._pause /= 2
        self._gap = self._gap * 0.95 if self._gap > 0.001 else 0.0
