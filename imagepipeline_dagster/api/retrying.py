"""What is asked for again, how often, and after which pause.

A POST buys a picture: it is repeated only where it provably created no job.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime

import httpx
import stamina

from imagepipeline_dagster.api.errors import (
    DownloadFailed,
    StatusUnavailable,
    Throttled,
    Unreachable,
)

__all__ = [
    "attempts",
    "longest_pause",
    "repeat_download",
    "repeat_status",
    "repeat_submit",
    "retry_after",
]

_MAX_RETRY_AFTER_SECONDS = 120.0
_LONGEST_PAUSE_SECONDS = 20.0


def attempts(
    repeat: Callable[[Exception], bool | float], *, most: int, wait_initial: float
) -> AsyncIterator[stamina.Attempt]:
    """Return the attempts at one request: at most so many, with back-off and jitter between them.

    `repeat` says of an error whether to try again, or after how many seconds; `wait_initial` is the
    first pause in seconds, doubled for each further one.
    """
    return stamina.retry_context(
        on=repeat,
        attempts=most,
        timeout=None,
        wait_initial=wait_initial,
        wait_max=_LONGEST_PAUSE_SECONDS,
        wait_jitter=wait_initial,
    )


def repeat_submit(error: Exception) -> bool | float:
    """Tell whether a POST may be sent again: it never arrived, or was refused for now."""
    return isinstance(error, Unreachable | Throttled) and _pause_of(error)


def repeat_status(error: Exception) -> bool | float:
    """Tell whether a status may be asked for again."""
    return isinstance(error, Unreachable | Throttled | StatusUnavailable) and _pause_of(error)


def repeat_download(error: Exception) -> bool | float:
    """Tell whether a download may be tried again."""
    return isinstance(error, DownloadFailed) and _pause_of(error)


def _pause_of(error: Exception) -> bool | float:
    """Return the pause that the server asked for in seconds; True leaves it to the back-off."""
    if isinstance(error, Throttled | DownloadFailed) and error.retry_after is not None:
        return error.retry_after
    return True


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
