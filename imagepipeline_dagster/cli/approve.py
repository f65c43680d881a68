"""`imagepipeline-dagster approve`: a person lets plans be bought."""

from __future__ import annotations

import datetime as dt
import os

import click

from imagepipeline_dagster.cli.configured import (
    chosen_dataset,
    configured_ledger,
    configured_tables,
    dataset_option,
    system_user,
)
from imagepipeline_dagster.cli.tables import chosen_sets
from imagepipeline_dagster.cli.terminal import (
    count_of,
    moment,
    plain_errors,
    printable,
    why_option,
)

__all__ = ["approve"]


@click.command(short_help="Let the plans of prompt sets be bought.")
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option("--all", "all_sets", is_flag=True, help="All prompt sets of the table.")
@click.option(
    "--up-to",
    type=click.FloatRange(min=0),
    metavar="MONEY",
    help="The most that they may cost together; images, where the dataset has no price.",
)
@click.option("--who", metavar="NAME", help="Who approves; the system's user by default.")
@why_option(default="approved on the command line", help="Kept with the approval.")
@dataset_option
def approve(
    *,
    prompt_sets: tuple[str, ...],
    all_sets: bool,
    up_to: float | None,
    who: str | None,
    why: str,
    dataset: str | None,
) -> None:
    """Let the plans of these prompt sets be bought, for what they cost now.

    An approval is for the plan as it stands: an edited plan needs another. A sensor then asks for
    the purchase; the dataset's budget limits it all the same.
    """
    from imagepipeline_dagster.defs.plans import forecast_of_sets
    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.planning.approval import approve_plans

    if bool(prompt_sets) == all_sets:
        raise click.UsageError("Name prompt sets, or give --all.")
    with plain_errors():
        chosen = chosen_dataset(dataset)
        origin = resources_on_command_line(os.environ)["imagepipeline"].origin
        allowance = chosen.allowance(origin)
        with (
            configured_tables(chosen) as tables,
            configured_ledger(create=True) as ledger,
        ):
            names = chosen_sets(tables, prompt_sets)
            planned = forecast_of_sets(names, tables, chosen, ledger, origin=origin)
            approved = approve_plans(
                planned,
                up_to=up_to,
                who=who or system_user() or "",
                why=why,
                dataset=chosen.name,
                ledger=ledger,
                allowance=allowance,
                valid_hours=chosen.approval.valid_hours,
                now=dt.datetime.now(dt.UTC),
            )
    for approval in approved:
        images = approval.max_images or 0
        price = allowance.price_text(images)
        click.echo(
            f"{printable(approval.prompt_set)}: {count_of(images, 'image')}"
            f"{f' for {price}' if price else ''}, until {moment(approval.expires_at)}"
        )
    if not approved:
        click.echo("There is nothing to buy, and so nothing to approve.")
    elif chosen.approval.required == "never":
        click.echo("No purchase of this dataset waits for a person: its `approval` is `never`.")
