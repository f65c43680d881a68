"""Which prompts use which requests, with the rows that they come from: what lineage stands on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select

from imagepipeline_dagster.ledger.schema import uses


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
    return [use_of(row) for row in connection.execute(query).mappings()]


def use_of(row: RowMapping) -> PromptUse:
    """Return the use that a row of the table records."""
    return PromptUse(
        call=PromptCall(**{name: row[name] for name in PromptCall.__slots__}),
        prompt_row=row["prompt_row"],
        embedding_row=row["embedding_row"],
        run_id=row["run_id"],
        used_at=row["used_at"],
    )


def calls_of(connection: Connection, request_key: str) -> tuple[PromptCall, ...]:
    """Return the same calls without the rows."""
    return tuple(use.call for use in uses_of(connection, request_key))
