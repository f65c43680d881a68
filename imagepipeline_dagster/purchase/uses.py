"""Which prompts use which requests, with the rows that they come from: what lineage stands on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from sqlalchemy import Connection

from imagepipeline_dagster.ledger.records import Use
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.steps import record_uses
from imagepipeline_dagster.planning.requests import PlannedRequest


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

    def record(self, connection: Connection, uses: Iterable[Use]) -> None:
        """Record these uses."""
        record_uses(connection, self._dataset, self._prompt_set, self._run_id, uses)

    def unrecorded(self, ledger: Ledger, request_keys: Iterable[str]) -> list[Use]:
        """Return the uses of these requests that the ledger does not know as the latest."""
        latest = ledger.latest_uses(
            self._dataset,
            self._prompt_set,
            (use.prompt_id for some in self._uses.values() for use in some),
        )
        return [
            use
            for key in request_keys
            for use in self._uses[key]
            if latest.get((use.prompt_id, use.call_index)) != use
        ]
