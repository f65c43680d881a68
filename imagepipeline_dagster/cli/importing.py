"""`imagepipeline-dagster import-prompts` and `import-embeddings`: a file's rows into a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.cli.changes import show_changes, show_cost
from imagepipeline_dagster.cli.configured import chosen_dataset, dataset_option, tables_url
from imagepipeline_dagster.cli.plan import price_option
from imagepipeline_dagster.cli.progress import ShownProgress
from imagepipeline_dagster.cli.terminal import count_of, plain_errors, printable

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
    from imagepipeline_dagster.tables.transfer.merge import ImportReport, Merge

__all__ = ["import_embeddings", "import_prompts"]

_NAMED_SETS = 5  # more are only counted


def _import_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        dataset_option,
        price_option,
        click.option(
            "--dry-run",
            is_flag=True,
            help="Show what would change, and what a purchase would then buy; change nothing.",
        ),
        click.option(
            "--table", metavar="NAME", help="The table to fill, where it is not ours: schema.table."
        ),
        click.option(
            "--map",
            "mapped",
            multiple=True,
            metavar="COLUMN=HEADER",
            help="A column of the table, and the file's header for it. May be repeated.",
        ),
        click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    ):
        command = option(command)
    return command


@click.command("import-prompts", short_help="Bring a file's rows into the prompts table.")
@_import_options
@click.option("--prompt-set", metavar="NAME", help="The prompt set of rows that name none.")
@click.option(
    "--replace-set",
    is_flag=True,
    help="Delete the rows which the file lacks from the prompt sets that it has.",
)
@click.option("--yes", is_flag=True, help="Delete rows without asking.")
def import_prompts(
    *,
    file: Path,
    mapped: tuple[str, ...],
    table: str | None,
    prompt_set: str | None,
    replace_set: bool,
    yes: bool,
    dry_run: bool,
    price_per_image: float | None,
    dataset: str | None,
) -> None:
    """Bring a file's rows into the prompts table, by prompt set and prompt id.

    FILE is CSV, TSV, JSON Lines or Parquet. A file with anything wrong in it changes nothing.
    """
    from imagepipeline_dagster.tables.schema import PromptRow

    chosen = chosen_dataset(dataset, price_per_image=price_per_image, prompts=table)
    _import(
        PromptRow,
        file,
        chosen,
        chosen.prompts,
        mapped=mapped,
        defaults={"prompt_set": prompt_set} if prompt_set else {},
        replace_sets=replace_set,
        dry_run=dry_run,
        yes=yes,
    )


@click.command("import-embeddings", short_help="Bring a file's rows into the embeddings table.")
@_import_options
def import_embeddings(
    *,
    file: Path,
    mapped: tuple[str, ...],
    table: str | None,
    dry_run: bool,
    price_per_image: float | None,
    dataset: str | None,
) -> None:
    """Bring a file's rows into the embeddings table, by embedding id.

    FILE is CSV, TSV, JSON Lines or Parquet. A file with anything wrong in it changes nothing.
    """
    from imagepipeline_dagster.tables.schema import EmbeddingRow

    chosen = chosen_dataset(dataset, price_per_image=price_per_image, embeddings=table)
    _import(EmbeddingRow, file, chosen, chosen.embeddings, mapped=mapped, dry_run=dry_run)


def _import(
    row_type: type[PromptRow | EmbeddingRow],
    file: Path,
    dataset: ImageDataset,
    mapping: TableMapping,
    *,
    mapped: tuple[str, ...],
    dry_run: bool,
    defaults: Mapping[str, str] | None = None,
    replace_sets: bool = False,
    yes: bool = False,
) -> None:
    from imagepipeline_dagster.tables.schema import PromptRow
    from imagepipeline_dagster.tables.transfer.merge import merge_of_file

    with plain_errors(), closing(ShownProgress()) as on_progress:
        merge = merge_of_file(
            tables_url(),
            mapping,
            file,
            row_type,
            column_map=_pairs(mapped),
            defaults=defaults,
            replace_sets=replace_sets,
            on_progress=on_progress,
        )
        with closing(merge):
            if dry_run:
                changes = merge.changes()
                show_changes(changes)
                show_cost(dataset, merge, changes, on_progress=on_progress)
                return
            _make_default_tables()
            report = _agreed_on(merge) if replace_sets and not yes else merge.carry_out()
            sets = _sets_text(merge) if row_type is PromptRow else ""
    _echo_report(report, "prompts" if row_type is PromptRow else "embeddings", sets)


def _agreed_on(merge: Merge) -> ImportReport:
    """Carry out an import that deletes rows, once they were shown and somebody agreed."""
    changes = merge.changes()
    deleted = changes.total.deleted
    if deleted:
        show_changes(changes)
        click.confirm(f"Delete {count_of(deleted, 'row')}, and write the others?", abort=True)
    return merge.carry_out(at_most_deleted=deleted)


def _make_default_tables() -> None:
    """Make our own default file, empty, where it is meant and not there."""
    from imagepipeline_dagster.environment import TABLES_URL
    from imagepipeline_dagster.tables.creating import create_tables

    if not os.environ.get(TABLES_URL):
        create_tables(tables_url())


def _pairs(mapped: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for pair in mapped:
        column, equals, header = pair.partition("=")
        if not (column and equals and header):
            raise click.BadParameter(f"{pair!r} is not COLUMN=HEADER", param_hint="--map")
        pairs[column.strip()] = header
    return pairs


def _sets_text(merge: Merge) -> str:
    count, names = merge.prompt_sets(at_most=_NAMED_SETS)
    named = f": {', '.join(map(printable, names))}" if 0 < count <= _NAMED_SETS else ""
    return f", in {count_of(count, 'prompt set')}{named}"


def _echo_report(report: ImportReport, table: str, sets: str) -> None:
    click.echo(
        f"{table}: {report.inserted:,} inserted, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged"
        + (f", {report.deleted:,} deleted" if report.deleted else "")
        + (f", {report.duplicates:,} repeated in the file" if report.duplicates else "")
        + sets
    )
    if report.ignored_columns:
        click.echo(f"Ignored columns: {', '.join(report.ignored_columns)}")
