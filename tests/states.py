"""What a ledger keeps of a dataset's prompt sets."""

from __future__ import annotations

from sqlalchemy import select

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import prompt_sets
from imagepipeline_dagster.watching.states import PromptSetState


def states_in(ledger: Ledger, *, dataset: str) -> dict[str, PromptSetState]:
    """Return the states by prompt set."""
    columns = [prompt_sets.c[name] for name in PromptSetState.__slots__]
    query = select(*columns).where(prompt_sets.c.dataset == dataset)
    with ledger.reading() as connection:
        found = [PromptSetState(**row) for row in connection.execute(query).mappings()]
    return {state.prompt_set: state for state in found}
