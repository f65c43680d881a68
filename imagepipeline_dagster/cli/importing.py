"""`imagepipeline-dagster import-prompts` and `import-embeddings`: a file's rows into a table."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster import databases
from imagepipeline_dagster.cli.changes import change_lines, dry_run_answer, reading_lines
from imagepipeline_dagster.cli.configured import changed_dataset, on_dataset, resources_of
from imagepipeline_dagster.cli.plan import price_option, refusal_lines
from imagepipeline_dagster.cli.progress import ShownProgress
from imagepipeline_dagster.cli.terminal import (
    Answer,
    agree,
    all_of,
    count_of,
    echo_lines,
    wants_json,
    yes_option,
)
from imagepipeline_dagster.planning import forecast, prompts
from imagepipeline_dagster.tables import creating, reading, schema
from imagepipeline_dagster.tables.spelling import quoted
from imagepipeline_dagster.tables.transfer import file_rows
from imagepipeline_dagster.tables.transfer import incoming as incoming_rows
from imagepipeline_dagster.tables.transfer import merge as merging
from imagepipeline_dagster.tables.transfer import refusals as refused_rows

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.planning.forecast import Refusal
    from imagepipeline_dagster.tables.reading import SourceTables
    from imagepipeline_dagster.tables.schema import RowType, TableMapping
    from imagepipeline_dagster.tables.transfer.merge import ImportReport, Merge
    from imagepipeline_dagster.tables.transfer.refusals import RefusedRows

_NAMED_SETS = 5  # more are only counted
_JUDGED_ROWS = 5_000  # more would take longer than their import


def _pairs(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    del context, option
    pairs: dict[str, str] = {}
    for pair in given:
        column, equals, header = pair.partition("=")
        column = column.strip()
        if not (column and equals and header):
            raise click.BadParameter(f"{pair!r} is not COLUMN=HEADER")
        if column in pairs:
            raise click.BadParameter(
                f"{column} is mapped twice: to {pairs[column]!r} and {header!r}"
            )
        pairs[column] = header
    return pairs


def _encoding(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    del context, option
    try:
        codecs.lookup(name or "utf-8")
    except LookupError as error:
        raise click.BadParameter(str(error)) from error
    return name


def _sign(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    del context, option
    sign = {"\\t": "\t", "tab": "\t"}.get(text or "", text)
    if sign is not None and len(sign) != 1:
        raise click.BadParameter(f"{text!r} is not one sign")
    return sign


_import_options = all_of(
    on_dataset,
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
        "column_map",
        multiple=True,
        callback=_pairs,
        metavar="COLUMN=HEADER",
        help="A column of the table, and the file's header for it. May be repeated.",
    ),
    click.option("--guess", is_flag=True, help="Take headers for the columns that they look like."),
    click.option(
        "--ignore",
        "ignored",
        multiple=True,
        metavar="HEADER",
        help="A header that nothing is read from. May be repeated.",
    ),
    click.option(
        "--encoding",
        metavar="NAME",
        callback=_encoding,
        help="The file's encoding, as cp1252.",
    ),
    click.option(
        "--delimiter",
        metavar="SIGN",
        callback=_sign,
        help="What separates the fields of a CSV file.",
    ),
    click.option("--no-quotes", is_flag=True, help="Quotes in a CSV file are part of texts."),
    click.option(
        "--decimal",
        type=click.Choice([".", ","]),
        default=".",
        show_default=True,
        help="The sign before the decimals of a number.",
    ),
    click.option(
        "--report",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A CSV file for each refused row and why, to mend and to import.",
    ),
    click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
)


@click.command("import-prompts")
@_import_options
@click.option(
    "--set", "--prompt-set", "prompt_set", metavar="NAME", help="The set of rows that name none."
)
@click.option(
    "--set-from",
    type=click.Choice(["FILENAME"], case_sensitive=False),
    help="Rows that name no set are of the set that the file is called after.",
)
@click.option(
    "--seed-modulo",
    type=click.IntRange(1, 2**63),
    metavar="NUMBER",
    help="Divide larger seeds by it and take the rest; the column original_seed keeps them.",
)
@click.option(
    "--replace-set",
    is_flag=True,
    help="Delete the rows which the file lacks from the prompt sets that it has.",
)
@yes_option
def import_prompts(
    *,
    file: Path,
    table: str | None,
    prompt_set: str | None,
    set_from: str | None,
    seed_modulo: int | None,
    price_per_image: float | None,
    dataset: ImageDataset,
    **written: Any,  # noqa: ANN401 - the options that both commands have
) -> Answer:
    """Bring a file's rows into the prompts table, by prompt set and prompt id.

    FILE is CSV, TSV, JSON, JSON Lines, Parquet, Excel, or text with a prompt a line; .gz or .zst
    may stand behind. A file with anything wrong in it changes nothing.
    """
    if prompt_set and set_from:
        raise click.UsageError("--set names the set, and so does --set-from: leave one.")
    name = file.name.split(".")[0] if set_from else prompt_set
    chosen = changed_dataset(dataset, price_per_image=price_per_image, prompts=table)
    return _import(
        schema.PromptRow,
        file,
        chosen,
        chosen.prompts,
        defaults={"prompt_set": name} if name else {},
        seed_modulo=seed_modulo,
        **written,
    )


@click.command("import-embeddings")
@_import_options
def import_embeddings(
    *,
    file: Path,
    table: str | None,
    price_per_image: float | None,
    dataset: ImageDataset,
    **written: Any,  # noqa: ANN401 - the options that both commands have
) -> Answer:
    """Bring a file's rows into the embeddings table, by embedding id.

    FILE is as for import-prompts. A file with anything wrong in it changes nothing.
    """
    chosen = changed_dataset(dataset, price_per_image=price_per_image, embeddings=table)
    return _import(schema.EmbeddingRow, file, chosen, chosen.embeddings, **written)


def _import(
    row_type: RowType,
    file: Path,
    dataset: ImageDataset,
    mapping: TableMapping,
    *,
    dry_run: bool,
    report: Path | None,
    encoding: str | None,
    delimiter: str | None,
    no_quotes: bool,
    replace_set: bool = False,
    yes: bool = False,
    **of_rows: Any,  # noqa: ANN401 - those of ImportOptions
) -> Answer:
    if report is not None and report.resolve() == file.resolve():
        raise click.BadParameter("is the file that is imported", param_hint="--report")
    options = incoming_rows.ImportOptions(
        file=file_rows.FileOptions(encoding=encoding, delimiter=delimiter, quotes=not no_quotes),
        **of_rows,
    )
    with (
        closing(ShownProgress()) as on_progress,
        refused_rows.RefusedRows(report) as refused,
        _url_of_tables(dataset, dry_run=dry_run) as url,
    ):
        try:
            incoming = incoming_rows.IncomingRows(
                file, row_type, options=options, on_progress=on_progress, on_refused=refused.add
            )
            merge = merging.Merge(url, mapping, incoming, replace_sets=replace_set)
        finally:
            if refused.count:
                click.echo(f"Refused: {count_of(refused.count, 'row')}, in {report}", err=True)
        with closing(merge):
            if not dry_run and resources_of(dataset)["tables"].create_samples:
                creating.create_tables(url)  # our own default file, empty, unless it is there
            with reading.SourceTables(
                url, prompts=dataset.prompts, embeddings=dataset.embeddings
            ) as tables:
                if dry_run:
                    answer = dry_run_answer(dataset, merge, tables, on_progress=on_progress)
                    _refusals(dataset, merge, tables, refused)
                    return answer
                asks = replace_set and not yes
                done = _agreed_on(merge) if asks else merge.carry_out()
                refusals = _refusals(dataset, merge, tables, refused)
                return _report(done, merge, refusals)


def _refusals(
    dataset: ImageDataset, merge: Merge, tables: SourceTables, report: RefusedRows
) -> list[Refusal] | None:
    """Return which prompts of a file are refused before paying once they are in the table.

    They are written to the report. None where they are too many to look at, or no prompts.
    """
    if not merge.is_of_prompts or len(merge.rows) > _JUDGED_ROWS:
        return None
    refusals: list[Refusal] = []
    embeddings = merge.embeddings_after(tables)
    columns = merge.rows.columns  # the keys too: a mended row has to find the one that it mends
    for name in next(merge.rows.prompt_sets(_JUDGED_ROWS), []):
        rows = merge.prompts_after(name, tables.prompts(name))
        judged = prompts.validated_prompts(
            rows,
            embeddings,
            defaults=dataset.defaults,
            refuses_syntax=dataset.refuse_prompt_syntax,
        )
        for row, prompt in zip(rows, judged, strict=True):
            if prompt.valid or (name, row.prompt_id) not in merge.rows:
                continue
            problems = prompt.problems or ""
            refusals.append(forecast.Refusal(name, row.prompt_id, problems))
            values = {column: getattr(row, column) for column in columns}
            report.add(columns, file_rows.FileRow(quoted(name, row.prompt_id), values), [problems])
    return refusals


def _agreed_on(merge: Merge) -> ImportReport:
    """Carry out an import that deletes rows, once they were shown and somebody agreed."""
    changes = merge.changes()
    deleted = changes.total.deleted
    if deleted:
        if not wants_json():
            echo_lines(change_lines(changes))
        agree(f"Delete {count_of(deleted, 'row')}, and write the others?", yes=False)
    return merge.carry_out(at_most_deleted=deleted)


@contextmanager
def _url_of_tables(dataset: ImageDataset, *, dry_run: bool) -> Iterator[str]:
    """Give the URL of the tables; a dry run sees empty ones where an import would make them."""
    tables = resources_of(dataset)["tables"]
    # Where we would make the tables the URL is our own default, of a file.
    makes_tables = dry_run and tables.create_samples
    if not makes_tables or Path(str(databases.parsed_url(tables.url).database)).exists():
        yield tables.url
        return
    with TemporaryDirectory() as folder:
        empty = f"sqlite:///{folder}/tables.db"
        creating.create_tables(empty)
        yield empty


def _report(report: ImportReport, merge: Merge, refusals: Sequence[Refusal] | None) -> Answer:
    """Return what was imported; the refusals are None where nobody looked."""
    table = "prompts" if merge.is_of_prompts else "embeddings"
    facts = {"table": table, **dataclasses.asdict(report), "guessed": dict(merge.incoming.guessed)}
    lines = [
        f"{table}: {report.inserted:,} inserted, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged"
        + (f", {report.deleted:,} deleted" if report.deleted else "")
        + (f", {report.duplicates:,} repeated in the file" if report.duplicates else "")
        + (_sets_text(merge) if merge.is_of_prompts else ""),
        *reading_lines(merge),
    ]
    if merge.is_of_prompts:
        named = None if refusals is None else [dataclasses.asdict(one) for one in refusals]
        facts |= {"prompt_sets": merge.rows.count_prompt_sets(), "refusals": named}
    if refusals is not None:
        lines += refusal_lines(refusals, len(refusals))
    elif merge.is_of_prompts:
        lines.append("Rows that would be refused before paying: `imagepipeline-dagster plan` says.")
    return Answer(facts, lines)


def _sets_text(merge: Merge) -> str:
    count, names = merge.rows.count_prompt_sets(), next(merge.rows.prompt_sets(_NAMED_SETS), [])
    named = f": {', '.join(map(quoted, names))}" if 0 < count <= _NAMED_SETS else ""
    return f", in {count_of(count, 'prompt set')}{named}"
