"""`imagepipeline-dagster plan` and `approve`: what a purchase would buy now, and its approval."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from imagepipeline_dagster.cli.configured import (
    changed_dataset,
    configured_ledger,
    configured_tables,
    ledger_warning,
    on_dataset,
    resources_of,
    system_user,
    who_option,
)
from imagepipeline_dagster.cli.tables import chosen_sets
from imagepipeline_dagster.cli.terminal import (
    Answer,
    count_of,
    counts_table,
    moment,
    shown_number,
    why_option,
)
from imagepipeline_dagster.defs import plans
from imagepipeline_dagster.ledger import budget
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.planning import approval as approving
from imagepipeline_dagster.planning import requests
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.budget import Allowance
    from imagepipeline_dagster.planning.forecast import Forecast, Refusal, SetPlan

_REFUSALS_SHOWN = 20

price_option = click.option(
    "--price-per-image",
    type=click.FloatRange(min=0),
    metavar="MONEY",
    help="What an image costs; the dataset's own price by default.",
)


@click.command()
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@price_option
@on_dataset
def plan(
    *, prompt_sets: tuple[str, ...], price_per_image: float | None, dataset: ImageDataset
) -> Answer:
    """Show what a purchase would buy now, and why: of these prompt sets, or of all.

    It reads the tables and the ledger, and changes nothing.
    """
    dataset = changed_dataset(dataset, price_per_image=price_per_image)
    api = resources_of(dataset)["imagepipeline"]
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=False) as ledger:
        origin = api.origin
        names = chosen_sets(tables, prompt_sets)
        planned = plans.forecast_of_sets(names, tables, dataset, ledger, origin=origin)
        allowance = dataset.allowance(origin)
        spent = allowance.spent(ledger, today=ledger.today())
        warning = ledger_warning(dataset, ledger)
    canaries = dataset.canaries_price(allowance)
    total = planned.total
    facts = {
        "sets": [_plan_as_json(of, allowance) for of in planned.sets],
        "total": _plan_as_json(total, allowance),
        "currency": allowance.currency,
        "budget_left": allowance.rest_text(spent),
        "spent": {period: dataclasses.asdict(of) for period, of in spent.items()},
        "emulated": api.emulated,
        "canaries": canaries,
        "warning": warning,
    }
    lines = list(_plan_lines(planned, allowance, emulated=api.emulated, warning=warning))
    if spent["total"].images:
        periods = {"day": "today", "month": "this month", "total": "in all"}
        counts = (f"{spent[name].images:,} {when}" for name, when in periods.items())
        lines.append(f"Images bought so far: {', '.join(counts)}.")
    if canaries is not None:
        lines.append(f"Besides, the canaries buy {canaries}.")
    if total.summary.images[PlanState.UNKNOWN]:
        lines.append("Unknown: `imagepipeline-dagster ledger unknown` shows what was lost.")
    return Answer(facts, [*lines, *refusal_lines(total.refusals, total.refused)])


def _plan_lines(
    planned: Forecast, allowance: Allowance, *, emulated: bool, warning: str | None
) -> Iterator[str | Table]:
    total = planned.total
    shown = planned.sets if len(planned.sets) == 1 else (*planned.sets, total)
    yield _states_table(shown, allowance.cost)
    reasons = {reason for of in planned.sets for reason in of.summary.to_buy_by_reason}
    if len(reasons) > 1:
        yield _reasons_table(shown)
    if not emulated and allowance.budget is None:
        yield "No budget limits what is spent."
    if warning is not None:
        yield warning
    yield to_buy_text(total.to_buy, allowance.cost(total.to_buy), emulated=emulated)
    if len(reasons) == 1:
        yield f"Reason of all: {''.join(reasons).replace('_', ' ')}."


def to_buy_text(images: int, cost: float | None, *, emulated: bool) -> str:
    """Return how many images are to buy, and for how much."""
    to_buy = f"{count_of(images, 'image')} to buy"
    priced = to_buy if cost is None else f"{to_buy}, for {budget.shown_money(cost)}"
    return priced + ("; on the emulator nothing is paid." if emulated else ".")


def refusal_lines(refusals: Sequence[Refusal], count: int) -> Iterator[str]:
    """Yield which rows are refused before anything is paid, and why; `count` is how many."""
    if not count:
        return
    shown = refusals[:_REFUSALS_SHOWN]
    yield f"Refused before paying: {count_of(count, 'row')}."
    for refusal in shown:
        yield f"  {quoted(refusal.prompt_set, refusal.prompt_id)}: {refusal.problems}"
    if count > len(shown):
        yield f"  … and {count - len(shown):,} more"


def _plan_as_json(planned: SetPlan, allowance: Allowance) -> dict[str, Any]:
    return {
        "prompt_set": planned.name,
        "fingerprint": planned.fingerprint,
        "images_to_buy": planned.to_buy,
        "cost": allowance.cost(planned.to_buy),
        "images": dict(planned.summary.images),
        "api_calls": dict(planned.summary.calls),
        "to_buy_by_reason": dict(planned.summary.to_buy_by_reason),
        "refused_rows": planned.refused,
    }


def _states_table(planned: Sequence[SetPlan], cost: Callable[[int], float | None]) -> Table:
    priced = cost(0) is not None
    states = sorted(PlanState, key=lambda state: state is not PlanState.TO_BUY)
    headings = [*(state.replace("_", "\n") for state in states), "refused\nrows"]
    rows = []
    for row in planned:
        counts = [*(row.summary.images[state] for state in states), row.refused]
        money = [budget.shown_money(cost(row.to_buy) or 0)] if priced else []
        rows.append((row.name, [*map(shown_number, counts), *money]))
    return counts_table("Images", [*headings, *(["cost"] if priced else [])], rows)


def _reasons_table(planned: Sequence[SetPlan]) -> Table:
    # The total may lack a reason that a set has: of two equal requests one is bought.
    present = {reason for row in planned for reason in row.summary.to_buy_by_reason}
    reasons = [reason for reason in requests.Reason if reason in present]
    rows = []
    for row in planned:
        counts = (row.summary.to_buy_by_reason.get(reason, 0) for reason in reasons)
        rows.append((row.name, [*map(shown_number, counts)]))
    headings = [reason.replace("_", "\n") for reason in reasons]
    return counts_table("Images to buy, by reason", headings, rows)


@click.command()
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option("--all", "all_sets", is_flag=True, help="All prompt sets of the table.")
@click.option(
    "--up-to",
    type=click.FloatRange(min=0),
    metavar="MONEY",
    help="The most that they may cost together; images, where the dataset has no price.",
)
@who_option
@why_option(default="approved on the command line", help="Kept with the approval.")
@on_dataset
def approve(
    *,
    prompt_sets: tuple[str, ...],
    all_sets: bool,
    up_to: float | None,
    who: str | None,
    why: str,
    dataset: ImageDataset,
) -> Answer:
    """Let the plans of these prompt sets be bought, for what they cost now.

    An approval is for the plan as it stands: an edited plan needs another. A sensor then asks for
    the purchase; the dataset's budget limits it all the same.
    """
    if bool(prompt_sets) == all_sets:
        raise click.UsageError("Name prompt sets, or give --all.")
    origin = resources_of(dataset)["imagepipeline"].origin
    allowance = dataset.allowance(origin)
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=True) as ledger:
        names = chosen_sets(tables, prompt_sets)
        planned = plans.forecast_of_sets(names, tables, dataset, ledger, origin=origin)
        approved = approving.approve_plans(
            planned,
            up_to=up_to,
            who=who or system_user() or "",
            why=why,
            dataset=dataset.name,
            ledger=ledger,
            allowance=allowance,
            valid_hours=dataset.approval.valid_hours,
            now=dt.datetime.now(dt.UTC),
        )
    rows = [dataclasses.asdict(approval) for approval in approved]
    for row in rows:
        del row["number"]  # the database gives it
    lines = []
    for approval in approved:
        images = approval.max_images or 0
        price = allowance.price_text(images)
        lines.append(
            f"{quoted(approval.prompt_set)}: {count_of(images, 'image')}"
            f"{f' for {price}' if price else ''}, until {moment(approval.expires_at)}"
        )
    if not approved:
        lines.append("There is nothing to buy, and so nothing to approve.")
    elif dataset.approval.required == "never":
        lines.append("No purchase of this dataset waits for a person: its `approval` is `never`.")
    return Answer({"approved": rows, "currency": allowance.currency}, lines)
