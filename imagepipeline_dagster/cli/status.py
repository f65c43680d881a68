"""`imagepipeline-dagster status`, `costs` and `retry`: how a dataset stands, and what it cost."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
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
)
from imagepipeline_dagster.cli.plan import price_option
from imagepipeline_dagster.cli.tables import chosen_sets
from imagepipeline_dagster.cli.terminal import (
    Answer,
    count_of,
    counts_table,
    field_lines,
    moment,
    shown_number,
)
from imagepipeline_dagster.defs import plans, schedules
from imagepipeline_dagster.ledger import bought, budget, decisions
from imagepipeline_dagster.ledger.records import PlanState
from imagepipeline_dagster.planning import approval
from imagepipeline_dagster.release import reading
from imagepipeline_dagster.tables.spelling import quoted
from imagepipeline_dagster.watching import contents
from imagepipeline_dagster.watching import states as set_states

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.bought import Bought
    from imagepipeline_dagster.planning.forecast import SetPlan
    from imagepipeline_dagster.watching.states import PromptSetState


@click.command()
@on_dataset
def status(*, dataset: ImageDataset) -> Answer:
    """Show sets, what waits, what is unknown, what was spent, the last release and the next runs.

    It reads tables, ledger and storage, and changes nothing.
    """
    resources, now = resources_of(dataset), dt.datetime.now(dt.UTC)
    origin = resources["imagepipeline"].origin
    allowance = dataset.allowance(origin)
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=False) as ledger:
        planned = plans.forecast_of_sets(
            tables.prompt_sets(), tables, dataset, ledger, origin=origin
        )
        states = set_states.PromptSetStates(ledger, dataset=dataset.name).all()
        sets = [
            {
                **_set_facts(plan, states.get(plan.name)),
                "waits_for_approval": approval.waits_for_person(
                    dataset.approval, ledger, plan.wanted(dataset.name, allowance), now=now
                ),
            }
            for plan in planned.sets
        ]
        spent = allowance.spent(ledger, today=ledger.today())
        warning = ledger_warning(dataset, ledger)
        unknown = len(decisions.unknown_requests(ledger))
    release = reading.latest_manifest(resources["storage"].open(), dataset.releases)
    facts = {
        "dataset": dataset.name,
        "api": origin,
        "sets": sets,
        "images_to_buy": planned.total.to_buy,  # what two sets share is bought once
        "price": allowance.price_text(planned.total.to_buy),
        "unknown_requests": unknown,
        "warning": warning,
        "spent": {period: dataclasses.asdict(of) for period, of in spent.items()},
        "budget_left": allowance.rest_text(spent),
        "last_release": release
        and {
            "version": release.version,
            "created_at": release.created_at,
            "images": release.counts.kept,
        },
        "next_runs": schedules.next_ticks(dataset, now=now),
    }
    return Answer(facts, _status_lines(facts))


def _set_facts(plan: SetPlan, state: PromptSetState | None) -> dict[str, Any]:
    """Return how a prompt set stands.

    It is `built` from what its rows say; `open` where samples of that are still to come; `changed`
    where it was built from other rows; `new` where it never was. It is asked for again at
    `retry_at` at the earliest.
    """
    if state is None or state.built_content is None:
        word = "new"
    elif state.built_content != plan.content:
        word = "changed"
    else:
        word = "open" if state.pending else "built"
    return {
        "prompt_set": plan.name,
        "state": word,
        "images_to_buy": plan.to_buy,
        "images_unknown": plan.summary.images[PlanState.UNKNOWN],
        "refused_rows": plan.refused,
        "retry_at": state.retry_at if state and word != "built" else None,
    }


def _status_lines(facts: Mapping[str, Any]) -> Iterator[str | Table]:
    counts = ("images_to_buy", "images_unknown", "refused_rows")
    rows = [
        (
            of["prompt_set"],
            [
                "waits for approval" if of["waits_for_approval"] else of["state"],
                *(shown_number(of[name]) for name in counts),
            ],
        )
        for of in facts["sets"]
    ]
    headings = ["state", "images\nto buy", "images\nunknown", "refused\nrows"]
    total = ["", shown_number(facts["images_to_buy"]), "", ""]
    yield counts_table("Prompt sets", headings, [*rows, ("total", total)])
    release, unknown = facts["last_release"], facts["unknown_requests"]
    spent = {period: of["images"] for period, of in facts["spent"].items()}
    price = f", for {facts['price']}" if facts["price"] else ""
    yield from field_lines(
        {
            "API": facts["api"],
            "warning": facts["warning"],
            "to buy": f"{count_of(facts['images_to_buy'], 'image')}{price}",
            "unknown": count_of(unknown, "request") if unknown else None,
            "spent": f"{spent['day']:,} images today, {spent['month']:,} this month, "
            f"{spent['total']:,} in all",
            "budget left": facts["budget_left"] or "no budget limits what is spent",
            "last release": f"{release['version']}, {count_of(release['images'], 'image')}, "
            f"{moment(release['created_at'])}"
            if release
            else "none yet",
            "next runs": [f"{name} {moment(at)}" for name, at in facts["next_runs"].items()],
        }
    )


@click.command()
@price_option
@on_dataset
def costs(*, price_per_image: float | None, dataset: ImageDataset) -> Answer:
    """Show what was bought, what was reused instead, and so saved: by day, set and model."""
    dataset = changed_dataset(dataset, price_per_image=price_per_image)
    resources = resources_of(dataset)
    api = resources["imagepipeline"]
    allowance = dataset.allowance(api.origin)
    with configured_ledger(dataset, create=False) as ledger:
        spent = bought.costs_of(
            ledger, dataset=dataset.name, scope=allowance.scope, emulated=api.emulated
        )
    priced = allowance.price_text
    everything = budget.Spent(
        images=sum(of.images for of in spent.by_day.values()),
        money=sum(of.money for of in spent.by_day.values()),
    )
    # Money was reserved by the prices of those days, which the dataset may have no more.
    has_money = bool(everything.money)
    days = [
        (day, [shown_number(of.images), *([budget.shown_money(of.money)] if has_money else [])])
        for day, of in (*spent.by_day.items(), ("total", everything))
    ]
    reused, saved_text = count_of(spent.total.reused, "image"), priced(spent.total.reused)
    saved = f": {saved_text} saved" if saved_text else ""
    return Answer(
        {
            **dataclasses.asdict(spent),
            "saved": allowance.cost(spent.total.reused),
            "currency": allowance.currency,
        },
        [
            counts_table(
                "Bought by day", ["images", *(["money"] if has_money else [])], days, of="day"
            ),
            _bought_table("prompt set", spent.by_set, spent.total, priced),
            _bought_table("model", spent.by_model, spent.total, priced),
            f"{reused} reused instead of bought{saved}.",
        ],
    )


def _bought_table(
    what: str,
    counts: Mapping[str, Bought],
    total: Bought,
    priced: Callable[[int], str | None],
) -> Table:
    has_money = priced(0) is not None
    rows = []
    for name, of in (*sorted(counts.items()), ("total", total)):
        money = [priced(of.bought) or ""] if has_money else []
        rows.append((name, [shown_number(of.bought), *money, shown_number(of.reused)]))
    headings = ["images", *(["money"] if has_money else []), "reused"]
    return counts_table(f"Bought by {what}", headings, rows, of=what)


@click.command()
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option("--all", "all_sets", is_flag=True, help="All sets that are not built whole.")
@on_dataset
def retry(*, prompt_sets: tuple[str, ...], all_sets: bool, dataset: ImageDataset) -> Answer:
    """Have sets that are not built whole asked for at the next look of sensor or schedule.

    Their growing pauses end. Requests that failed for good, or are unknown, stay as they are: see
    `ledger resubmit`.
    """
    if bool(prompt_sets) == all_sets:
        raise click.UsageError("Name prompt sets, or give --all.")
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=True) as ledger:
        names = set(chosen_sets(tables, prompt_sets))
        states = set_states.PromptSetStates(ledger, dataset=dataset.name)
        unbuilt = sorted(names.intersection(states.not_whole()))
        # No sensor may have looked yet at what a set was built from.
        with tables.open_prompts() as prompts:
            contents.SetContents(ledger, dataset=dataset.name).look_at(prompts, unbuilt)
        open_sets = sorted(set(unbuilt).intersection(states.not_whole()))
        states.end_pauses(open_sets)
    told = (
        f"{count_of(len(open_sets), 'set')} will be asked for at the next look."
        if open_sets
        else "Nothing is open: every set that was asked for is built whole."
    )
    return Answer({"prompt_sets": open_sets}, [*map(quoted, open_sets), told])
