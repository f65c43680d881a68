"""What a plan shows: what it buys, for how much, the budget's rest, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from imagepipeline_dagster.defs.metadata import found_table, shown_table
from imagepipeline_dagster.ledger.budget import Allowance, Spent, shown_money
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.planning.prompts import Prompt
from imagepipeline_dagster.planning.requests import PlannedRequest, PlanSummary

_REQUESTS_SHOWN = 100
_ROWS_SHOWN = 50
# An event's metadata stays under 48 kB, with three such tables and the columns' descriptions.
_TABLE_BYTES = 12_000


def plan_figures(
    summary: PlanSummary,
    allowance: Allowance,
    spent: Mapping[str, Spent],
    *,
    emulated: bool,
) -> dict[str, Any]:
    """Return what a plan amounts to as the ledger stands, and what of the budget is left."""
    to_buy = summary.images[PlanState.TO_BUY]
    cost, price = allowance.cost(to_buy), allowance.price_text(to_buy)
    budget = allowance.rest_text(spent)
    if budget is None:
        no_limit = "none: nothing but the plan limits what is spent"
        budget = "none; on the emulator nothing is paid" if emulated else no_limit
    calls = [
        (state, count, summary.images[state]) for state, count in summary.calls.items() if count
    ]
    periods = [
        # Purchases without a price say nothing about money.
        (period, of.images, "" if cost is None else shown_money(of.money))
        for period, of in spent.items()
    ]
    return {
        "images_to_buy": to_buy,
        "images_reused": summary.images[PlanState.REUSED],
        "images_unknown": summary.images[PlanState.UNKNOWN],
        **({} if cost is None else {"cost": cost, "price": str(price)}),
        "budget_left": budget,
        "spent": shown_table(["period", "images", "money"], periods),
        "plan": shown_table(["state", "API calls", "images"], calls),
        **found_table("why", ["reason", "images to buy"], list(summary.to_buy_by_reason.items())),
    }


def requests_to_buy(plan: Iterable[PlannedRequest], allowance: Allowance) -> dict[str, Any]:
    """Return a table of the first requests that a plan would buy; nothing where it buys none."""
    distinct: dict[str, PlannedRequest] = {}
    for call in plan:
        if call.state == PlanState.TO_BUY:
            distinct.setdefault(call.request_key, call)
        if len(distinct) == _REQUESTS_SHOWN:
            break
    rows = [
        [
            call.prompt_id,
            *_shown_request(call),
            call.reason,
            allowance.price_text(call.samples) or "",
        ]
        for call in distinct.values()
    ]
    headers = ["prompt_id", "prompt", "parameters", "why", "price"]
    return found_table("requests_to_buy", headers, rows, most_bytes=_TABLE_BYTES)


def refused_rows(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Return how many rows are refused, and a table of what is wrong with each."""
    refused = [prompt for prompt in prompts if not prompt.valid]
    rows = [[prompt.prompt_id, prompt.problems] for prompt in refused[:_ROWS_SHOWN]]
    headers = ["prompt_id", "problems"]
    table = found_table("refused_rows", headers, rows, most_bytes=_TABLE_BYTES)
    return {"refused": len(refused), **table}


def _shown_request(call: PlannedRequest) -> tuple[str, str]:
    fields: dict[str, Any] = json.loads(call.request)
    prompt = str(fields.pop("prompt"))
    parameters = (f"{name}={value}" for name, value in fields.items() if value is not None)
    return prompt, ", ".join(parameters)
