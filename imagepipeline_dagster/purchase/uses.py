"""Which prompts use which requests, with the rows that they come from: what lineage stands on."""

from __future__ import annotations

from collections.abc import Sequence

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.uses import Use
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest


def uses_of_plan(
    plan: Sequence[PlannedRequest], prompts: Sequence[Prompt], *, dataset: str, run_id: str
) -> list[Use]:
    """Return the use of each call, with the rows that it comes from."""
    rows = {prompt.prompt_id: prompt for prompt in prompts}
    return [
        Use(
            dataset=dataset,
            prompt_set=call.prompt_set,
            prompt_id=call.prompt_id,
            call_index=call.call_index,
            request_key=call.request_key,
            prompt_row=rows[call.prompt_id].prompt_row,
            embedding_row=rows[call.prompt_id].embedding_row,
            run_id=run_id,
        )
        for call in plan
    ]


def unrecorded(ledger: Ledger, uses: Sequence[Use]) -> list[Use]:
    """Return those, all of one set, that the ledger does not know as their calls' latest."""
    if not uses:
        return []
    ids = (use.prompt_id for use in uses)
    latest = ledger.latest_uses(uses[0].dataset, uses[0].prompt_set, ids)
    return [use for use in uses if latest.get((use.prompt_id, use.call_index)) != use]
