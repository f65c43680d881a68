"""`imagepipeline-dagster doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import click

from imagepipeline_dagster.cli.configured import on_dataset, resources_of
from imagepipeline_dagster.cli.terminal import Answer
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.installation import Finding, Grade, findings_of


@click.command()
@on_dataset
def doctor(*, dataset: ImageDataset) -> Answer:
    """Look at versions, key, tables, storage, ledger, clock, pools and daemon.

    Nothing is bought. The storage gets a small object, which is removed again. The exit code is 1
    where something is wrong.
    """
    findings = list(findings_of(dataset, lambda: resources_of(dataset), os.environ))
    return Answer(
        [asdict(finding) for finding in findings],
        _lines(findings),
        failed=any(finding.grade is Grade.WRONG for finding in findings),
    )


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.grade:<5}  {finding.part:<8}  {finding.text}"
        if finding.remedy:
            yield f"{'':17}→ {finding.remedy}"
