"""`imagepipeline-dagster verify`: the storage read again against the ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import on_dataset, present_ledger, resources_of
from imagepipeline_dagster.cli.terminal import count_of, echo_json

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.verification import DamagedImage


@click.command(short_help="Compare every stored image with the ledger.")
@click.option("--repair", is_flag=True, help="Say how each image can be had again.")
@on_dataset
def verify(*, repair: bool, as_json: bool, dataset: ImageDataset) -> None:
    """Read every stored image again: is it there, with the size and the SHA-256 that it had?

    Nothing is changed. The exit code is 1 where an image is missing or differs.
    """
    from imagepipeline_dagster.ledger.verification import count_images, damaged_images

    storage = resources_of(dataset)["storage"].open()
    with present_ledger(dataset) as ledger:
        number = count_images(ledger)
        with click.progressbar(
            damaged_images(ledger, storage), length=number, label="images", file=sys.stderr
        ) as looked_at:
            damaged = [image for image in looked_at if image is not None]
    if as_json:
        echo_json({"images": number, "damaged": [asdict(image) for image in damaged]})
    else:
        _echo(damaged, number, repair=repair)
    if damaged:
        raise click.exceptions.Exit(1)


def _echo(damaged: Iterable[DamagedImage], number: int, *, repair: bool) -> None:
    listed = list(damaged)
    for image in listed:
        click.echo(f"{image.damage}: {image.uri}")
        if repair:
            for key in image.request_keys:
                click.echo(f"  imagepipeline-dagster ledger refetch {key[:12]}")
    if not listed:
        click.echo(f"{count_of(number, 'image')}: each is there, as it was bought.")
        return
    click.echo(f"{count_of(len(listed), 'image')} of {number:,} are missing or differ.")
    if repair:
        click.echo("The API keeps an image for a limited time; `ledger resubmit` buys it anew.")
