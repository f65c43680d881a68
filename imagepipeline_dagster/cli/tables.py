"""`imagepipeline-dagster init` and `export`: the tables made, and their rows in a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster import databases
from imagepipeline_dagster.cli.configured import changed_dataset, on_dataset, tables_url
from imagepipeline_dagster.cli.progress import ShownProgress
from imagepipeline_dagster.cli.terminal import Answer, count_of, printable
from imagepipeline_dagster.tables import creating, reading, samples, schema
from imagepipeline_dagster.tables.spelling import did_you_mean
from imagepipeline_dagster.tables.transfer import export as exporting

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.tables.reading import SourceTables


@click.command()
@click.option("--empty", is_flag=True, help="Create the tables without sample rows.")
@on_dataset
def init(*, empty: bool, dataset: ImageDataset) -> Answer:
    """Create the prompts and embeddings tables, with samples to start from."""
    url = tables_url(dataset)
    if empty:
        creating.create_tables(url)
    with_samples = not empty and samples.create_sample_tables(url)
    where = databases.shown_url(url)
    if empty:
        said = f"The tables prompts and embeddings are at {where}."
    elif with_samples:
        said = f"Created prompts and embeddings with samples at {where}."
    else:
        said = f"There are tables at {where} already: nothing was changed."
    return Answer({"url": where, "samples_created": with_samples}, said)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--set",
    "prompt_sets",
    multiple=True,
    metavar="NAME",
    help="The rows of this prompt set alone. May be repeated.",
)
@click.option("--embeddings", is_flag=True, help="The embeddings table, not the prompts.")
@click.option(
    "--raw",
    is_flag=True,
    help="Leave CSV texts that a spreadsheet would run as they are, without a quote before them.",
)
@click.option("--table", metavar="NAME", help="The table, where it is not ours: schema.table.")
@on_dataset
def export(
    *,
    file: Path,
    prompt_sets: tuple[str, ...],
    embeddings: bool,
    raw: bool,
    table: str | None,
    dataset: ImageDataset,
) -> Answer:
    """Write the prompts table, or the embeddings table, to a file that can be imported again.

    FILE is CSV, TSV, JSON, JSON Lines, Parquet or Excel, by its ending: .csv, .tsv, .json, .jsonl,
    .ndjson, .parquet, .xlsx; .gz or .zst may stand behind.
    A file of this name is replaced once the new one is whole.
    """
    if embeddings and prompt_sets:
        raise click.UsageError("Embeddings belong to no prompt set: leave --set or --embeddings.")
    with closing(ShownProgress()) as on_progress:
        dataset = changed_dataset(dataset, prompts=table, embeddings=table)
        url = tables_url(dataset)
        if prompt_sets:
            with reading.SourceTables(url, prompts=dataset.prompts) as tables:
                prompt_sets = tuple(chosen_sets(tables, prompt_sets))
        row_type: type[Any] = schema.EmbeddingRow if embeddings else schema.PromptRow
        report = exporting.export_table(
            url,
            dataset.embeddings if embeddings else dataset.prompts,
            row_type,
            file,
            prompt_sets=prompt_sets,
            marks_formulas=not raw,
            on_progress=on_progress,
        )
    what = "embeddings" if embeddings else "prompts"
    lines = [f"{what}: {count_of(report.rows, 'row')} exported to {file}"]
    if report.left_out:
        lines.append(f"Left out: {count_of(report.left_out, 'row')} without a prompt set or an id.")
    return Answer({"table": what, "file": file, **asdict(report)}, lines)


def chosen_sets(tables: SourceTables, wanted: Sequence[str]) -> list[str]:
    """Return the prompt sets that are wanted, once each; all that there are if none is."""
    names = tables.prompt_sets()
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        listed = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
        raise click.ClickException(
            printable(
                f"The prompts table has no set {unknown[0]!r}.{did_you_mean(unknown[0], names)} "
                f"It has: {listed or 'none'}."
            )
        )
    return list(dict.fromkeys(wanted)) or names
