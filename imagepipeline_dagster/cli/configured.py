"""What the environment and the options configure: dataset, tables, ledger and API."""

from __future__ import annotations

import getpass
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.terminal import plain_errors, printable
from imagepipeline_dagster.errors import CorrectableError

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.tables.reading import SourceTables

__all__ = [
    "chosen_dataset",
    "configured_ledger",
    "configured_tables",
    "dataset_option",
    "opened_ledger",
    "present_ledger",
    "system_user",
    "tables_url",
]

dataset_option = click.option(
    "--dataset",
    metavar="MODULE:NAME",
    help="The ImageDataset, where it is not the default one; say definitions:dataset.",
)


def tables_url() -> str:
    """Return the URL of the tables."""
    from imagepipeline_dagster.environment import resources_on_command_line

    with plain_errors():
        url: str = resources_on_command_line(os.environ)["tables"].url
        return url


def configured_tables(dataset: ImageDataset) -> SourceTables:
    """Open the tables that the environment names, as a dataset maps them.

    The resource would make sample tables where there are none.
    """
    from imagepipeline_dagster.tables.reading import SourceTables

    return SourceTables(tables_url(), prompts=dataset.prompts, embeddings=dataset.embeddings)


def chosen_dataset(
    where: str | None,
    *,
    price_per_image: float | None = None,
    prompts: str | None = None,
    embeddings: str | None = None,
) -> ImageDataset:
    """Return the dataset at MODULE:NAME, importable from the working folder; else the default.

    A price, and tables under the names of our columns, replace its own.
    """
    from imagepipeline_dagster.tables.schema import TableMapping

    dataset = _dataset_at(where)
    price = dataset.price_per_image if price_per_image is None else price_per_image
    return dataset.changed(
        price_per_image=price,
        prompts=TableMapping(prompts) if prompts else dataset.prompts,
        embeddings=TableMapping(embeddings) if embeddings else dataset.embeddings,
    )


def _dataset_at(where: str | None) -> ImageDataset:
    from imagepipeline_dagster.defs.dataset import ImageDataset

    if where is None:
        return ImageDataset()
    module, _, name = where.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        dataset = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, CorrectableError) as error:
        raise click.BadParameter(str(error), param_hint="--dataset") from error
    if not isinstance(dataset, ImageDataset):
        raise click.BadParameter(f"{where} is no ImageDataset", param_hint="--dataset")
    return dataset


@contextmanager
def configured_ledger(*, create: bool) -> Iterator[Ledger]:
    """Open the ledger that the environment names, as `opened_ledger`."""
    from imagepipeline_dagster.environment import resources_on_command_line

    with opened_ledger(resources_on_command_line(os.environ)["ledger"].url, create=create) as it:
        yield it


@contextmanager
def present_ledger() -> Iterator[Ledger]:
    """Open the ledger that the environment names for reading; fail where there is none."""
    with configured_ledger(create=False) as ledger:
        if ledger.is_absent:
            raise click.ClickException(
                f"There is no ledger at {ledger.shown_url}. IMAGEPIPELINE_LEDGER_URL or "
                "IMAGEPIPELINE_STORAGE names another; a relative path begins in this folder."
            )
        yield ledger


@contextmanager
def opened_ledger(url: str, *, create: bool) -> Iterator[Ledger]:
    """Open the ledger; without `create` it is only read, and an absent one reads as empty."""
    from sqlalchemy.exc import SQLAlchemyError

    from imagepipeline_dagster.databases import cause_of, shown_url
    from imagepipeline_dagster.ledger.opening import LedgerTooNew, LedgerTooOld
    from imagepipeline_dagster.ledger.requests import Ledger

    try:
        ledger = Ledger(url, create=create)
    except ValueError as error:
        raise click.ClickException(f"The ledger's database: {error}") from error
    try:
        yield ledger
    except (LedgerTooNew, LedgerTooOld) as error:
        raise click.ClickException(f"{shown_url(url)}: {error}") from error
    except SQLAlchemyError as error:
        raise click.ClickException(
            f"The ledger at {shown_url(url)} cannot be used: {printable(cause_of(error))} "
            "Check that the database runs, and the URL in IMAGEPIPELINE_LEDGER_URL."
        ) from error
    finally:
        ledger.close()


def system_user() -> str | None:
    """Return the name of the system's user; None in a container that gives it none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
