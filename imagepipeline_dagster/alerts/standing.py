"""Alerts about how a dataset stands: its budget, lost answers, and plans that wait for a person."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace

from imagepipeline_dagster.alerts.alert import Alert, News
from imagepipeline_dagster.ledger.budget import Allowance, Period
from imagepipeline_dagster.ledger.decisions import unknown_requests
from imagepipeline_dagster.ledger.records import Entry
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.uses import uses_of
from imagepipeline_dagster.planning.forecast import SetPlan

_NAMED = 10


def standing_news(
    ledger: Ledger,
    waiting: Sequence[SetPlan],
    *,
    dataset: str,
    allowance: Allowance,
    nearly: float,
    today: dt.date,
    link: str | None,
) -> Iterator[News]:
    """Yield what a person should know of a dataset now, and what all is well with.

    `waiting` are the plans that wait for a person. From the share `nearly` of the budget on, 0 to
    1, it is nearly reached. `today` is in UTC, `link` the dataset's page in Dagster's UI.
    """
    lost = unknown_requests(ledger)
    with ledger.reading() as connection:
        uses = uses_of(connection, (entry.request_key for entry in lost))
    mine = [it for it in lost if dataset in {use.dataset for use in uses[it.request_key]}]
    for news in (
        _of_budget(ledger, allowance, nearly, today),
        _of_lost_answers(mine),
        _of_waiting_plans(waiting, allowance),
    ):
        if isinstance(news, str):
            yield news
        else:
            title, facts = f"{dataset}: {news.title}", {"dataset": dataset, **news.facts}
            yield replace(news, title=title, facts=facts, link=link)


def _of_budget(ledger: Ledger, allowance: Allowance, nearly: float, today: dt.date) -> News:
    spent = allowance.spent(ledger, today=today)
    share = allowance.share_spent(spent)
    if allowance.budget is None or share is None or share < nearly:
        return "budget"
    reached = share >= 1
    word = "reached" if reached else "nearly reached"
    # Another day or month has a budget of its own.
    of = {Period.DAY: str(today), Period.MONTH: f"{today:%Y-%m}", Period.TOTAL: ""}
    return Alert(
        title=f"the budget is {word}",
        text="Nothing more is bought; the rest stays planned. Raise the dataset's `budget`, or "
        "wait for the next period."
        if reached
        else "Once it is reached, nothing more is bought, and the rest stays planned.",
        facts={"spent": f"{share:.0%}", "left": allowance.rest_text(spent) or ""},
        about="budget",
        state=f"{word} {of[allowance.budget.period]} {allowance.budget}",
    )


def _of_lost_answers(lost: Sequence[Entry]) -> News:
    if not lost:
        return "unknown requests"
    images = sum(request.samples for request in lost)
    return Alert(
        title=f"{len(lost):,} requests are unknown",
        text="Their answers were lost, so that nobody knows whether they were bought. No run sends "
        "them again: look at `imagepipeline-dagster ledger unknown`, and decide.",
        facts={"requests": f"{len(lost):,}", "images": f"{images:,}"},
        about="unknown requests",
        state=" ".join(sorted(request.request_key for request in lost)),
    )


def _of_waiting_plans(waiting: Sequence[SetPlan], allowance: Allowance) -> News:
    if not waiting:
        return "approvals"
    images = sum(plan.to_buy for plan in waiting)
    names = [plan.name for plan in waiting[:_NAMED]]
    more = len(waiting) - len(names)
    price = allowance.price_text(images)
    return Alert(
        title=f"{len(waiting):,} plans wait for approval",
        text="Nothing of them is bought until a person approves: `imagepipeline-dagster approve`, "
        "or the job `approve_plan`.",
        facts={
            "prompt sets": ", ".join(names) + (f" and {more:,} more" if more else ""),
            "images": f"{images:,}",
            **({"price": price} if price else {}),
        },
        about="approvals",
        state=" ".join(sorted(plan.fingerprint for plan in waiting)),
    )
