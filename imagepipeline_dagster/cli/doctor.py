"""`imagepipeline-dagster doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.configured import on_dataset, resources_of
from imagepipeline_dagster.cli.terminal import echo_json, printable

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset


@click.command(short_help="Say what is wrong with this installation.")
@on_dataset
def doctor(*, as_json: bool, dataset: ImageDataset) -> None:
    """Look at versions, key, tables, storage, ledger, clock, pools and daemon.

    Nothing is bought. The storage gets a small object, which is removed again. The exit code is 1
    where something is wrong.
    """
    from imagepipeline_dagster.defs.installation import Grade, findings_of

    findings = list(findings_of(dataset, lambda: resources_of(dataset), os.environ))
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.grade:<5}  {finding.part:<8}  {printable(finding.text)}")
            if finding.remedy:
                click.echo(f"{'':17}→ {printable(finding.remedy)}")
    if any(finding.grade is Grade.WRONG for finding in findings):
        raise click.exceptions.Exit(1)
