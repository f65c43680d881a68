"""`imagepipeline-dagster approve`: a person lets plans be bought."""

from __future__ import annotations

import dataclasses
import datetime as dt

import click

from imagepipeline_dagster.cli.configured import (
    configured_ledger,
    configured_tables,
    on_dataset,
    resources_of,
    system_user,
    who_option,
)
from imagepipeline_dagster.cli.tables import chosen_sets
from imagepipeline_dagster.cli.terminal import Answer, count_of, moment, why_option
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.plans import forecast_of_sets
from imagepipeline_dagster.planning.approval import approve_plans
from imagepipeline_dagster.tables.spelling import quoted


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
        planned = forecast_of_sets(names, tables, dataset, ledger, origin=origin)
        approved = approve_plans(
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
