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
    Answer,
    count_of,
    counts_table,
    field_lines,
    moment,
    shown_number,
)
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.table import Table

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.defs.status import DatasetStatus
    from imagepipeline_dagster.ledger.costs import Bought


@click.command(short_help="Show how the dataset stands, and what comes next.")
@on_dataset
def status(*, dataset: ImageDataset) -> Answer:
    """Show sets, what waits, what is unknown, what was spent, the last release and the next runs.

    It reads tables, ledger and storage, and changes nothing.
    """
    from imagepipeline_dagster.defs.status import status_of

    resources = resources_of(dataset)
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=False) as ledger:
        standing = status_of(
            dataset,
            tables=tables,
            ledger=ledger,
            storage=resources["storage"].open(),
            api=resources["imagepipeline"],
            now=dt.datetime.now(dt.UTC),
        )
    return Answer(dataclasses.asdict(standing), _status_lines(standing))


def _status_lines(standing: DatasetStatus) -> Iterator[str | Table]:
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
    yield counts_table("Prompt sets", headings, [*rows, ("total", total)])
    release = standing.last_release
    spent = standing.spent
    price = f", for {standing.price}" if standing.price else ""
    yield from field_lines(
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
def costs(*, price_per_image: float | None, dataset: ImageDataset) -> Answer:
    """Show what was bought, what was reused instead, and so saved: by day, set and model."""
    from imagepipeline_dagster.ledger.budget import Spent
    from imagepipeline_dagster.ledger.costs import costs_of

    dataset = changed_dataset(dataset, price_per_image=price_per_image)
    resources = resources_of(dataset)
    api = resources["imagepipeline"]
    allowance = dataset.allowance(api.origin)
    with configured_ledger(dataset, create=False) as ledger:
        spent = costs_of(ledger, dataset=dataset.name, scope=allowance.scope, emulated=api.emulated)
    priced = allowance.price_text
    everything = Spent(
        images=sum(of.images for of in spent.by_day.values()),
        money=sum(of.money for of in spent.by_day.values()),
    )
    days = [
        (day, [shown_number(of.images), f"{of.money:,.2f}" if of.money else ""])
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
            counts_table("Bought by day", ["images", "money"], days, of="day"),
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
    rows = [
        (name, [shown_number(of.bought), priced(of.bought) or "", shown_number(of.reused)])
        for name, of in sorted((*counts.items(), ("total", total)), key=lambda row: row[1] is total)
    ]
    return counts_table(f"Bought by {what}", ["images", "money", "reused"], rows, of=what)


@click.command(short_help="Have open or failed sets asked for again without a pause.")
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option("--all", "all_sets", is_flag=True, help="All sets that are not built whole.")
@on_dataset
def retry(*, prompt_sets: tuple[str, ...], all_sets: bool, dataset: ImageDataset) -> Answer:
    """Have sets that are not built whole asked for at the next look of sensor or schedule.

    Their growing pauses end. Requests that failed for good, or are unknown, stay as they are: see
    `ledger resubmit`.
    """
    from imagepipeline_dagster.watching.states import PromptSetStates

    if bool(prompt_sets) == all_sets:
        raise click.UsageError("Name prompt sets, or give --all.")
    with configured_tables(dataset) as tables, configured_ledger(dataset, create=True) as ledger:
        names = set(chosen_sets(tables, prompt_sets))
        states = PromptSetStates(ledger, dataset=dataset.name)
        open_sets = sorted(names.intersection(states.not_whole()))
        states.end_pauses(open_sets)
    told = (
        f"{count_of(len(open_sets), 'set')} will be asked for at the next look."
        if open_sets
        else "Nothing is open: every set that was asked for is built whole."
    )
    return Answer({"prompt_sets": open_sets}, [*map(quoted, open_sets), told])
