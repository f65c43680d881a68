"""`imagepipeline-dagster verify`: the storage read again against the ledger."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import on_dataset, present_ledger, resources_of
from imagepipeline_dagster.cli.terminal import Answer, count_of, printable
from imagepipeline_dagster.ledger import verification

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.verification import DamagedImage


@click.command()
@click.option("--repair", is_flag=True, help="Say how each image can be had again.")
@on_dataset
def verify(*, repair: bool, dataset: ImageDataset) -> Answer:
    """Read every stored image again: is it there, with the size and the SHA-256 that it had?

    Nothing is changed. The exit code is 1 where an image is missing or differs.
    """
    storage = resources_of(dataset)["storage"].open()
    with present_ledger(dataset) as ledger:
        number = verification.count_images(ledger)
        with click.progressbar(
            verification.damaged_images(ledger, storage),
            length=number,
            label="images",
            file=sys.stderr,
        ) as looked_at:
            damaged = [image for image in looked_at if image is not None]
    return Answer(
        {"images": number, "damaged": [asdict(image) for image in damaged]},
        _lines(damaged, number, repair=repair),
        failed=bool(damaged),
    )


def _lines(damaged: Sequence[DamagedImage], number: int, *, repair: bool) -> Iterator[str]:
    if not damaged:
        yield f"{count_of(number, 'image')}: each is there, as it was bought."
        return
    for image in damaged:
        yield f"{image.damage}: {image.uri}"
        for key in image.request_keys if repair else ():
            yield f"  imagepipeline-dagster ledger refetch {key[:12]}"
        for link in image.links if repair else ():
            yield f"  a backup, or its link: {printable(link)}"
    yield f"{count_of(len(damaged), 'image')} of {number:,} are missing or differ."
    if repair:
        yield "The API keeps an image for a limited time; `ledger resubmit` buys it anew."
