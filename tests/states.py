"""What a ledger keeps of a dataset's prompt sets."""

from __future__ import annotations

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.watching.states import PromptSetState, PromptSetStates


def states_in(ledger: Ledger, *, dataset: str) -> dict[str, PromptSetState]:
    """Return the states by prompt set."""
    return PromptSetStates(ledger, dataset=dataset).all()
