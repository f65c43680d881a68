"""`imagepipeline-dagster demo`: a dataset from the sample tables."""

from __future__ import annotations

import os
from pathlib import Path

import click
import dagster as dg
from rich.console import Console

from imagepipeline_dagster.cli.terminal import plain_errors
from imagepipeline_dagster.demo import run_demo
from imagepipeline_dagster.environment import API_KEY, STORAGE, TABLES_URL


@click.command()
def demo() -> None:
    """Make a dataset from the sample tables, edit them, and watch what is bought again."""
    for variable in (API_KEY, TABLES_URL):
        if os.environ.get(variable):
            raise click.ClickException(
                f"the demo edits sample tables and runs on the emulator: unset {variable}"
            )
    with plain_errors(), dg.DagsterInstance.from_config(str(_dagster_home())) as instance:
        run_demo(
            instance=instance,
            storage_uri=os.environ.get(STORAGE) or "data",
            console=Console(),
        )


def _dagster_home() -> Path:
    """Return the instance's folder: DAGSTER_HOME, or .dagster in the working directory."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    return home
