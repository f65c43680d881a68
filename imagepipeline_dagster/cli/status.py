"""`imagepipeline-dagster status`, `costs` and `retry`: how a dataset stands, and what it cost."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import (
    changed_dataset,
    configured_ledger,
    configured_tables,
    on_dataset,
    resources_of,
)
from imagepipeline_dagster.cli.plan import price_option
from imagepipeline_dagster.cli.tables import chosen_sets
from imagepipeline_dagster.cli.terminal import (
    count_of,
    counts_table,
    echo_fields,
    echo_json,
    moment,
    shown_number,
)
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.defs.status import DatasetStatus
    from imagepipeline_dagster.ledger.costs import Bought


@click.command(short_help="Show how the dataset stands, and what comes next.")
@on_dataset
def status(*, as_json: bool, dataset: ImageDataset) -> None:
    """Show sets, what waits, what is unknown, what was spent, the last release and the next runs.

    It reads tables, ledger and storage, and changes nothing.
    """
    from imagepipeline_dagster.defs.status import status_of

    resources = resources_of(dataset)
    with (
        configured_tables(dataset) as tables,
        configured_ledger(dataset, create=False) as ledger,
    ):
        standing = status_of(
            dataset,
            tables=tables,
            ledger=ledger,
            storage=resources["storage"].open(),
            api=resources["imagepipeline"],
            now=dt.datetime.now(dt.UTC),
        )
    if as_json:
        echo_json(dataclasses.asdict(standing))
    else:
        _echo_status(standing)


def _echo_status(standing: DatasetStatus) -> None:
    import rich

    rows = [
        (
            of.prompt_set,
            [
                "waits for approval" if of.waits_for_approval else of.state,
                shown_number(of.images_to_buy),
                shown_number(of.images_unknown),
                shown_number(of.refused_rows),
            ],
        )
        for of in standing.sets
    ]
    headings = ["state", "images\nto buy", "images\nunknown", "refused\nrows"]
    total = ["", shown_number(standing.images_to_buy), "", ""]
    rich.print(counts_table("Prompt sets", headings, [*rows, ("total", total)]))
    release = standing.last_release
    spent = standing.spent
    price = f", for {standing.price}" if standing.price else ""
    echo_fields(
        {
            "API": standing.api,
            "to buy": f"{count_of(standing.images_to_buy, 'image')}{price}",
            "unknown": count_of(standing.unknown_requests, "request")
            if standing.unknown_requests
            else None,
            "spent": f"{spent['day'].images:,} images today, {spent['month'].images:,} this month, "
            f"{spent['total'].images:,} in all",
            "budget left": standing.budget_left or "no budget limits what is spent",
            "last release": f"{release.version}, {count_of(release.images, 'image')}, "
            f"{moment(release.created_at)}"
            if release
            else "none yet",
            "next runs": [f"{name} {moment(at)}" for name, at in standing.next_runs.items()],
        }
    )


@click.command(short_help="Show what was bought and reused, by day, set and model.")
@price_option
@on_dataset
def costs(*, price_per_image: float | None, as_json: bool, dataset: ImageDataset) -> None:
    """Show what was bought, what was reused instead, and so saved: by day, set and model."""
    import rich

    from imagepipeline_dagster.ledger.budget import Spent
    from imagepipeline_dagster.ledger.costs import costs_of

    dataset = changed_dataset(dataset, price_per_image=price_per_image)
    resources = resources_of(dataset)
    api = resources["imagepipeline"]
    allowance = dataset.allowance(api.origin)
    with configured_ledger(dataset, create=False) as ledger:
        spent = costs_of(ledger, dataset=dataset.name, scope=allowance.scope, emulated=api.emulated)
    if as_json:
        saved = allowance.cost(spent.total.reused)
        echo_json({**dataclasses.asdict(spent), "saved": saved, "currency": allowance.currency})
        return
    priced = allowance.price_text
    everything = Spent(
        images=sum(of.images for of in spent.by_day.values()),
        money=sum(of.money for of in spent.by_day.values()),
    )
    days = [
        (day, [shown_number(of.images), f"{of.money:,.2f}" if of.money else ""])
        for day, of in (*spent.by_day.items(), ("total", everything))
    ]
    rich.print(counts_table("Bought by day", ["images", "money"], days, of="day"))
    for what, counts in (("prompt set", spent.by_set), ("model", spent.by_model)):
        rich.print(_bought_table(what, counts, spent.total, priced))
    saved_text = priced(spent.total.reused)
    click.echo(
        f"{count_of(spent.total.reused, 'image')} reused instead of bought"
        f"{f': {saved_text} saved' if saved_text else ''}."
    )


def _bought_table(
    what: str,
    counts: Mapping[str, Bought],
    total: Bought,
    priced: Callable[[int], str | None],
) -> object:
    rows = [
        (name, [shown_number(of.bought), priced(of.bought) or "", shown_number(of.reused)])
        for name, of in sorted((*counts.items(), ("total", total)), key=lambda row: row[1] is total)
    ]
    return counts_table(f"Bought by {what}", ["images", "money", "reused"], rows, of=what)


@click.command(short_help="Have open or failed sets asked for again without a pause.")
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option("--all", "all_sets", is_flag=True, help="All sets that are not built whole.")
@on_dataset
def retry(
    *, prompt_sets: tuple[str, ...], all_sets: bool, as_json: bool, dataset: ImageDataset
) -> None:
    """Have sets that are not built whole asked for at the next look of sensor or schedule.

    Their growing pauses end. Requests that failed for good, or are unknown, stay as they are: see
    `ledger resubmit`.
    """
    from imagepipeline_dagster.watching.states import PromptSetStates

    if bool(prompt_sets) == all_sets:
        raise click.UsageError("Name prompt sets, or give --all.")
    with (
        configured_tables(dataset) as tables,
        configured_ledger(dataset, create=True) as ledger,
    ):
        names = set(chosen_sets(tables, prompt_sets))
        states = PromptSetStates(ledger, dataset=dataset.name)
        open_sets = sorted(names.intersection(states.not_whole()))
        states.end_pauses(open_sets)
    if as_json:
        echo_json({"prompt_sets": open_sets})
        return
    for name in open_sets:
        click.echo(quoted(name))
    click.echo(
        f"{count_of(len(open_sets), 'set')} will be asked for at the next look."
        if open_sets
        else "Nothing is open: every set that was asked for is built whole."
    )
