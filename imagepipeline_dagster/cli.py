"""`imagepipeline-dagster …`: the tables filled, the emulator served, the demo run.

What has to do with purchases is in `purchases_cli`.

Heavy modules are imported by the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagepipeline_dagster.moderation_cli import override, review
from imagepipeline_dagster.purchases_cli import purchase_commands
from imagepipeline_dagster.terminal import plain_errors

if TYPE_CHECKING:
    from imagepipeline_dagster.tables.importing import ImportReport

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imagepipeline-dagster")
def main() -> None:
    """Image datasets out of ImagePipeline's SDXL API, as Dagster assets.

    The tables are where IMAGEPIPELINE_TABLES_URL says, or in data/tables.db.
    """


main.add_command(review)
main.add_command(override)


@main.command()
@click.option("--empty", is_flag=True, help="Create the tables without sample rows.")
def init(*, empty: bool) -> None:
    """Create the prompts and embeddings tables, with samples to start from."""
    from imagepipeline_dagster.databases import shown_url
    from imagepipeline_dagster.tables.importing import create_tables
    from imagepipeline_dagster.tables.samples import create_sample_tables

    url = _tables_url()
    with plain_errors():
        if empty:
            create_tables(url)
            click.echo(f"The tables prompts and embeddings are at {shown_url(url)}.")
        elif create_sample_tables(url):
            click.echo(f"Created prompts and embeddings with samples at {shown_url(url)}.")
        else:
            click.echo(f"There are tables at {shown_url(url)} already: nothing was changed.")


def _import_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
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


@main.command("import-prompts")
@_import_options
@click.option("--prompt-set", metavar="NAME", help="The prompt set of rows that name none.")
def import_prompts(
    *, file: Path, mapped: tuple[str, ...], table: str | None, prompt_set: str | None
) -> None:
    """Bring a file's rows into the prompts table, by prompt set and prompt id.

    FILE is CSV, TSV, JSON Lines or Parquet. A file with anything wrong in it changes nothing.
    """
    from imagepipeline_dagster.tables.importing import import_prompts as bring_in
    from imagepipeline_dagster.tables.schema import TableMapping

    with plain_errors(), _counting_rows() as progress:
        report = bring_in(
            _fillable_tables_url(),
            TableMapping(table or "prompts"),
            file,
            column_map=_pairs(mapped),
            defaults={"prompt_set": prompt_set} if prompt_set else {},
            on_progress=lambda told: progress(told.rows),
        )
    _echo_report(report, "prompts")


@main.command("import-embeddings")
@_import_options
def import_embeddings(*, file: Path, mapped: tuple[str, ...], table: str | None) -> None:
    """Bring a file's rows into the embeddings table, by embedding id.

    FILE is CSV, TSV, JSON Lines or Parquet. A file with anything wrong in it changes nothing.
    """
    from imagepipeline_dagster.tables.importing import import_embeddings as bring_in
    from imagepipeline_dagster.tables.schema import TableMapping

    with plain_errors(), _counting_rows() as progress:
        report = bring_in(
            _fillable_tables_url(),
            TableMapping(table or "embeddings"),
            file,
            column_map=_pairs(mapped),
            on_progress=lambda told: progress(told.rows),
        )
    _echo_report(report, "embeddings")


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8188,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes any.",
)
@click.option("--api-key", default="emulator", show_default=True, help="The key that it accepts.")
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    default=0.4,
    show_default=True,
    help="Mean seconds of a job.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Jobs that run at once.",
)
def emulator(*, port: int, api_key: str, latency: float, concurrency: int) -> None:
    """Serve the API's contract on loopback, until interrupted."""
    from imagepipeline_dagster.emulator.server import serve
    from imagepipeline_dagster.emulator.settings import EmulatorSettings

    if not api_key:
        raise click.BadParameter("an API key is never empty", param_hint="--api-key")

    def say_where(url: str) -> None:
        click.echo(f"Serving the API at {url}. Point a pipeline at it:")
        click.echo(f"  IMAGEPIPELINE_BASE_URL={url} IMAGEPIPELINE_API_KEY={api_key}")

    with plain_errors():
        settings = EmulatorSettings(
            api_key=api_key, latency_seconds=latency, concurrency=concurrency
        )
        serve(settings, port=port, on_ready=say_where)


@main.command()
def demo() -> None:
    """Make a dataset from the sample tables, edit them, and watch what is bought again."""
    import dagster as dg
    from rich.console import Console

    from imagepipeline_dagster.demo import run_demo
    from imagepipeline_dagster.environment import API_KEY, STORAGE, TABLES_URL

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


def _tables_url() -> str:
    from imagepipeline_dagster.environment import resources_on_command_line

    with plain_errors():
        url: str = resources_on_command_line(os.environ)["tables"].url
        return url


def _fillable_tables_url() -> str:
    """Return the tables' URL; our own default file is made, empty, where there is none."""
    from imagepipeline_dagster.environment import TABLES_URL
    from imagepipeline_dagster.tables.importing import create_tables

    url = _tables_url()
    if not os.environ.get(TABLES_URL):
        create_tables(url)
    return url


def _dagster_home() -> Path:
    """Return the instance's folder: DAGSTER_HOME, or .dagster beside the project's dagster.yaml."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    configuration = Path("dagster.yaml").absolute()
    if configuration.exists() and not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").symlink_to(configuration)
    return home


def _pairs(mapped: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for pair in mapped:
        column, equals, header = pair.partition("=")
        if not (column and equals and header):
            raise click.BadParameter(f"{pair!r} is not COLUMN=HEADER", param_hint="--map")
        pairs[column.strip()] = header
    return pairs


@contextmanager
def _counting_rows() -> Iterator[Callable[[int], None]]:
    """Give a function that shows how many rows were read, where somebody watches."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("import", total=None)
        yield lambda rows: bar.update(task, completed=rows)


def _echo_report(report: ImportReport, table: str) -> None:
    click.echo(
        f"{table}: {report.inserted:,} inserted, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged"
        + (f", {report.duplicates:,} repeated in the file" if report.duplicates else "")
    )
    if report.ignored_columns:
        click.echo(f"Ignored columns: {', '.join(report.ignored_columns)}")


for _command in purchase_commands:
    main.add_command(_command)

if __name__ == "__main__":
    sys.exit(main())
