"""A large prompt set in shards: parts that are bought by themselves, each in a process's memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.planning.requests import PlannedRequest
from imagepipeline_dagster.rows import StoredTable, arrow_schema, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import DataclassInstance


RowT = TypeVar("RowT", bound="DataclassInstance")


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

    def rows(self, table: StoredTable, row_type: type[RowT]) -> list[RowT]:
        """Return its rows of a table."""
        return table.rows_between(self.start, self.stop, row_type)

    def plan(self, prompts: StoredTable, plan: StoredTable) -> list[PlannedRequest]:
        """Return the calls of its prompts."""
        columns = arrow_schema(PlannedRequest).names
        return rows_of(self._calls(prompts, plan, columns), PlannedRequest)

    def buys(self, prompts: StoredTable, plan: StoredTable) -> bool:
        """Tell whether anything of it was not bought yet as it was planned."""
        calls = self._calls(prompts, plan, ["prompt_id", "state"])
        return any(state != PlanState.REUSED for state in calls.column("state").to_pylist())

    def _calls(self, prompts: StoredTable, plan: StoredTable, columns: Sequence[str]) -> pa.Table:
        import pyarrow.compute as pc

        ids = prompts.between(self.start, self.stop, ["prompt_id"]).column(0).combine_chunks()
        # A plan is in the order of its prompts: the calls of some stand together.
        its_own = pc.is_in(plan.columns("prompt_id").column(0), value_set=ids)
        places = pc.indices_nonzero(its_own)
        if not len(places):
            return plan.between(0, 0, columns)
        calls = plan.between(places[0].as_py(), places[-1].as_py() + 1, columns)
        return calls.filter(pc.is_in(calls.column("prompt_id"), value_set=ids))


def shards_of(rows: int, *, shard_rows: int) -> list[Shard]:
    """Return the shards of a table of so many rows; a small one is one shard, as is an empty one.

    Their sizes differ by one row at most.
    """
    count = max(1, -(-rows // shard_rows))
    bounds = [rows * number // count for number in range(count + 1)]
    return [Shard(*pair) for pair in pairwise(bounds)]
