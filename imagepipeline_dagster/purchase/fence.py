"""Which claims this process holds beyond doubt, just before it sends.

A lease that ran out while the machine slept lets another process take the request, and a person
decide about it. A process that wakes up must not send on the word of a claim from before.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

# The clock that goes on while the machine sleeps; elsewhere the wall clock alone sees that.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Moment(NamedTuple):
    """Now, by the clock that leases are compared with and by one that nobody sets; in seconds."""

    wall: float
    running: float

    @classmethod
    def now(cls) -> Moment:
        """Return this moment."""
        return cls(time.time(), time.clock_gettime(_CLOCK))


class Fence:
    """The claims of one process, each with when its lease was last known to be the process's own.

    Half of a lease of `lease_seconds` is trusted: the other half is for what a request takes on
    its way.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._trusted_seconds = lease_seconds / 2
        self._since: dict[str, Moment] = {}

    def raise_around(self, request_key: str, *, since: Moment) -> None:
        """Take in that a claim was made, or confirmed, by a commit that began at `since`."""
        self._since[request_key] = since

    def renew(self, request_keys: Iterable[str], *, since: Moment) -> None:
        """Take in which claims a renewal found, of those that are still to be sent."""
        for key in self._since.keys() & set(request_keys):
            self._since[key] = since

    def drop(self, request_key: str) -> None:
        """Forget a claim: it was sent, or given back."""
        self._since.pop(request_key, None)

    def holds(self, request_key: str) -> bool:
        """Tell whether a claim is this process's own beyond doubt."""
        since = self._since.get(request_key)
        if since is None:
            return False
        now = Moment.now()
        longest = max(now.wall - since.wall, now.running - since.running)
        return longest < self._trusted_seconds
