"""Which prompts use which requests, with the rows that they come from: what lineage stands on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, select

from imagepipeline_dagster.generation.ledger import Ledger
from imagepipeline_dagster.generation.ledger_records import Use
from imagepipeline_dagster.generation.ledger_schema import uses
from imagepipeline_dagster.generation.planning import PlannedRequest

__all__ = ["PromptCall", "PromptSetUses", "PromptUse", "SourceRow", "calls_of", "uses_of"]


class SourceRow(Protocol):
    """Where a call comes from: a `Prompt`, or what the ledger kept of one."""

    @property
    def prompt_id(self) -> str:
        """Unique within the set."""

    @property
    def prompt_row(self) -> str:
        """The row of the prompts table as it was, JSON."""

    @property
    def embedding_row(self) -> str | None:
        """The row of the embeddings table as it was, JSON."""


class PromptSetUses:
    """The uses of one prompt set's plan, and their place in the ledger.

    Args:
        plan: the calls, all of one prompt set; several may use the same request.
        prompts: the rows that the calls come from.
        dataset: the name of the dataset that asks.
        run_id: of the Dagster run.
    """

    def __init__(
        self,
        *,
        plan: Sequence[PlannedRequest],
        prompts: Sequence[SourceRow],
        dataset: str,
        run_id: str,
    ) -> None:
        self._prompt_set = plan[0].prompt_set if plan else ""
        self._dataset = dataset
        self._run_id = run_id
        self._uses: dict[str, list[Use]] = {}
        rows = {prompt.prompt_id: prompt for prompt in prompts}
        for call in plan:
            row = rows[call.prompt_id]
            use = Use(
                prompt_id=call.prompt_id,
                call_index=call.call_index,
                request_key=call.request_key,
                prompt_row=row.prompt_row,
                embedding_row=row.embedding_row,
            )
            self._uses.setdefault(call.request_key, []).append(use)

    def record_request(self, connection: Connection, request_key: str) -> None:
        """Record all uses of one request, in the transaction of its claim."""
        self.record(connection, self._uses[request_key])

    def record(self, connection: Connection, found: Iterable[Use]) -> None:
        """Record these uses."""
        Ledger.used(connection, self._dataset, self._prompt_set, self._run_id, found)

    def unrecorded(self, ledger: Ledger, request_keys: Iterable[str]) -> list[Use]:
        """Return the uses of these requests that the ledger does not know as the latest."""
        latest = ledger.latest_uses(self._dataset, self._prompt_set)
        return [
            use
            for key in request_keys
            for use in self._uses[key]
            if latest.get((use.prompt_id, use.call_index)) != use
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCall:
    """A prompt's call that uses a request."""

    dataset: str
    prompt_set: str
    prompt_id: str
    call_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptUse:
    """A prompt's call that uses the request, with the rows of both tables as they were, JSON."""

    call: PromptCall
    prompt_row: str
    embedding_row: str | None
    run_id: str
    used_at: dt.datetime


def uses_of(connection: Connection, request_key: str) -> list[PromptUse]:
    """Return the calls that use, or used, a request, the first use first."""
    calls = (uses.c.dataset, uses.c.prompt_set, uses.c.prompt_id, uses.c.call_index)
    query = select(uses).where(uses.c.request_key == request_key).order_by(uses.c.used_at, *calls)
    return [
        PromptUse(
            call=PromptCall(**{name: row[name] for name in PromptCall.__slots__}),
            prompt_row=row["prompt_row"],
            embedding_row=row["embedding_row"],
            run_id=row["run_id"],
            used_at=row["used_at"],
        )
        for row in connection.execute(query).mappings()
    ]


def calls_of(connection: Connection, request_key: str) -> tuple[PromptCall, ...]:
    """Return the same calls without the rows."""
    return tuple(use.call for use in uses_of(connection, request_key))
