"""A large prompt set in shards: parts that are bought by themselves, each in a process's memory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.rows import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Shard", "shards_of"]


class Shard(NamedTuple):
    """Consecutive rows of a table, from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def key(self) -> str:
        """Its name among the shards of one set: letters, digits and underscores."""
        return f"{self.start}_{self.stop}"

    @classmethod
    def of_key(cls, key: str) -> Self:
        """Return the shard of this name."""
        start, stop = key.split("_")
        return cls(int(start), int(stop))

    def prompts(self, prompts: pa.Table) -> list[Prompt]:
        """Return its rows of a set's prompts."""
        return rows_of(prompts.slice(self.start, self.stop - self.start), Prompt)

    def plan(self, prompts: pa.Table, plan: pa.Table) -> list[PlannedRequest]:
        """Return the calls of its prompts."""
        return rows_of(self._calls(prompts, plan), PlannedRequest)

    def buys(self, prompts: pa.Table, plan: pa.Table) -> bool:
        """Tell whether anything of it was not bought yet as it was planned."""
        states = self._calls(prompts, plan).column("state").unique().to_pylist()
        return any(state != PlanState.REUSED for state in states)

    def _calls(self, prompts: pa.Table, plan: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        ids = prompts.column("prompt_id").slice(self.start, self.stop - self.start)
        return plan.filter(pc.is_in(plan.column("prompt_id"), value_set=ids.combine_chunks()))


def shards_of(rows: int, *, shard_rows: int) -> list[Shard]:
    """Return the shards of a table of so many rows; a small one is one shard, as is an empty one.

    Their sizes differ by one row at most.
    """
    count = max(1, -(-rows // shard_rows))
    bounds = [rows * number // count for number in range(count + 1)]
    return [Shard(*pair) for pair in pairwise(bounds)]
