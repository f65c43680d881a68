"""What is asked for again, and after which pause.

A POST buys a picture: it is repeated only where it provably created no job.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import httpx

_MAX_RETRY_AFTER_SECONDS = 120.0


def repeating(*kinds: type[Exception]) -> Callable[[Exception], bool | float]:
    """Return what says of an error whether to try again: after errors of these kinds.

    It gives the pause that the server asked for in seconds; True leaves that to the back-off.
    """

    def pause_of(error: Exception) -> bool | float:
        asked: float | None = getattr(error, "retry_after", None)
        return isinstance(error, kinds) and (True if asked is None else asked)

    return pause_of


def retry_after(response: httpx.Response) -> float | None:
    """Return Retry-After in seconds from now, from either of its forms; at most two minutes."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return longest_pause(float(value))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    seconds = (moment - dt.datetime.now(dt.UTC)).total_seconds()
    return longest_pause(max(seconds, 0.0))


def longest_pause(seconds: float | None) -> float | None:
    """Return a pause that a server asked for, in seconds, as far as it is believed."""
    return None if seconds is None else min(seconds, _MAX_RETRY_AFTER_SECONDS)
