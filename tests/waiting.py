"""Waiting for something, on a machine that may be slow, busy, or both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_SECONDS", "until"]

T = TypeVar("T")

# Long enough that only what hangs is given up: other tests may have both cores meanwhile.
PATIENCE_SECONDS = 600.0


def until(ask: Callable[[], T | None], *, what: str) -> T:
    """Return the first answer that is neither None, false nor empty; fail once patience is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        began = time.monotonic()
        if answer := ask():
            return answer
        assert began < deadline, f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}"
        # What is waited for may need the processor that a slow answer takes.
        time.sleep(max(0.02, time.monotonic() - began))
