"""How sets that wait are put together into runs: a run each would cost more than they do."""

from __future__ import annotations

from collections.abc import Sequence

# Sets that one tick asks for at most: each takes some hundredths of its sixty seconds.
_MOST_SETS = 1000
# A larger set is a run's work by itself: it would keep the others back.
_ROWS_PER_RUN = 2000


def batch_sizes(rows: Sequence[int], *, max_runs: int, sets_per_run: int) -> list[int]:
    """Return how many of these sets, in their order, each run makes; the rest waits.

    `rows` are the prompts of each set.
    """
    sizes: list[int] = []
    filled = 0
    for prompts in rows[:_MOST_SETS]:
        if not sizes or sizes[-1] == sets_per_run or filled + prompts > _ROWS_PER_RUN:
            if len(sizes) == max_runs:
                break
            sizes.append(0)
            filled = 0
        sizes[-1] += 1
        filled += prompts
    return sizes
