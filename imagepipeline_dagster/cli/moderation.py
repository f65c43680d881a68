"""`imagepipeline-dagster review` and `override`: people look at pictures, and decide."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

from imagepipeline_dagster.cli.configured import (
    configured_ledger,
    configured_tables,
    dataset_option,
    resources_of,
    system_user,
    tables_url,
    who_option,
)
from imagepipeline_dagster.cli.terminal import (
    AliasedOption,
    count_of,
    echo_json,
    json_option,
    plain_errors,
    printable,
    why_option,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.moderation.override_targets import KnownTargets
    from imagepipeline_dagster.storage.contract import Storage

__all__ = ["override", "review"]

_ROWS_OF_A_SHEET = 2_000


@click.command(short_help="Write a page to review a set's pictures on.")
@click.argument("prompt_set", metavar="SET")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The HTML file.")
@who_option
@click.option("--table", metavar="NAME", help="The table of decisions, if it has another name.")
@click.option("--only", type=click.Choice(["kept", "rejected", "quarantined"]), help="One verdict.")
@json_option
@dataset_option
def review(
    *,
    prompt_set: str,
    output: Path | None,
    who: str | None,
    table: str | None,
    only: str | None,
    as_json: bool,
    dataset: ImageDataset,
) -> None:
    """Write a sheet to review the pictures of SET on, and to decide about them.

    It is one HTML file for a browser, without scripts. A picture that is not kept is blurred until
    clicked.
    """
    import pandas as pd

    from imagepipeline_dagster.moderation.review import review_sheet
    from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
    from imagepipeline_dagster.partition_names import partition_key, path_part
    from imagepipeline_dagster.rows import rows_of
    from imagepipeline_dagster.storage.contract import ObjectMissing

    part = path_part(partition_key(prompt_set))
    folder = "/".join(dataset.key("moderated_images").path)
    file = output or Path(f"review-{part}.html")
    with plain_errors():
        storage = resources_of(dataset)["storage"].open()
        try:
            stored = storage.read(f"{folder}/{part}.parquet")
        except ObjectMissing as error:
            told = _not_moderated(dataset, prompt_set, storage)
            raise click.ClickException(f"{told} ({error})") from error
        frame = pd.read_parquet(io.BytesIO(stored), dtype_backend="numpy_nullable")
        samples = rows_of(frame, ModeratedImage)
        rows = [row for row in samples if only in (None, row.verdict)]
        sheet = review_sheet(
            rows[:_ROWS_OF_A_SHEET],
            storage,
            title=f"Review of {prompt_set}",
            reviewer=who or system_user() or "NAME",
            table=table,
        )
        file.write_text(sheet, encoding="utf-8")
    pictures = [row for row in samples if row.image_sha256]
    waiting = sum(row.verdict == Verdict.QUARANTINED for row in pictures)
    if as_json:
        echo_json({"file": file.absolute(), "pictures": len(pictures), "waiting": waiting})
        return
    if len(rows) > _ROWS_OF_A_SHEET:
        click.echo(f"The first {_ROWS_OF_A_SHEET:,} of {len(rows):,}: no browser shows more well.")
    click.echo(f"Waiting for a decision: {waiting:,} of {count_of(len(pictures), 'picture')}.")
    click.echo(f"Open {printable(str(file.absolute()))} in a browser.")


def _not_moderated(dataset: ImageDataset, prompt_set: str, storage: Storage) -> str:
    """Return what to do about a set without verdicts; a name that no set has is asked back."""
    from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
    from imagepipeline_dagster.tables.errors import TablesError
    from imagepipeline_dagster.tables.spelling import did_you_mean

    folder = "/".join(dataset.key("moderated_images").path)
    nothing_yet = f"Prompt set {prompt_set!r} was not moderated yet."
    # A name that was cut to a path part is not told in full: it only misses as a suggestion.
    files = map(PurePosixPath, storage.list(folder))
    moderated = [prompt_set_of(unquote(file.stem)) for file in files]
    try:
        with configured_tables(dataset) as tables:
            there = tables.prompt_sets()
    except TablesError:
        there = []  # the dataset's own tables may have other names
    if there and prompt_set not in there:
        asked = did_you_mean(prompt_set, [*moderated, *there])
        return f"{nothing_yet} The prompts table has no such set.{asked}"
    asked = "" if there else did_you_mean(prompt_set, moderated)
    return (
        f"{nothing_yet}{asked} Materialize its partition {partition_key(prompt_set)!r} of {folder}."
    )


@click.command(short_help="Record what a person decides about pictures.")
@click.argument(
    "decision", type=click.Choice(["keep", "reject", "quarantine", "clear"]), required=False
)
@click.option("--image", metavar="SHA256", help="The picture; 8 digits do.")
@click.option(
    "--set",
    "--prompt-set",
    "prompt_set",
    cls=AliasedOption,
    metavar="SET",
    help="With --prompt-id: all pictures of a prompt. With --image: the set that it holds in, * "
    "for all; else in those that have the picture now.",
)
@click.option("--prompt-id", metavar="ID")
@who_option
@why_option(help="Kept with the decision.")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of decisions, as for imports, all or none: image_sha256, prompt_set, prompt_id, "
    "decision, reviewer, reason.",
)
@click.option("--table", metavar="NAME", help="The table of decisions, if it has another name.")
@click.option("--force", is_flag=True, help="Decide about pictures that are not there yet, too.")
@json_option
@dataset_option
def override(
    *,
    decision: str | None,
    image: str | None,
    prompt_set: str | None,
    prompt_id: str | None,
    who: str | None,
    why: str | None,
    file: Path | None,
    table: str | None,
    force: bool,
    as_json: bool,
    dataset: ImageDataset,
) -> None:
    """Record what a person decides about a picture, or about all pictures of a prompt.

    A picture is named by its SHA-256 or the first eight or more of its digits. "clear" takes back
    what was decided: the evidence counts again. The moderation_overrides_sensor makes the verdicts
    of the sets concerned anew.
    """
    from imagepipeline_dagster.moderation.decisions import DecisionReader
    from imagepipeline_dagster.tables.overrides import record_overrides

    if (file is None) is (decision is None):
        raise click.UsageError(
            "give a decision (keep, reject, quarantine, clear), or a file by --from"
        )
    with plain_errors(), contextlib.ExitStack() as stack:
        reader = DecisionReader(_known_targets(dataset, stack), force=force)
        if file is not None:
            decided = reader.of_file(file)
        else:
            row = {
                "image_sha256": image,
                "prompt_set": prompt_set,
                "prompt_id": prompt_id,
                "decision": decision,
                "reviewer": who or system_user(),
                "reason": why,
            }
            decided = [reader.of_row(row)]
        recorded = record_overrides(tables_url(dataset), decided, table=table or dataset.overrides)
    if as_json:
        echo_json({"decisions": recorded})
        return
    click.echo(f"{count_of(recorded, 'decision')} recorded.")


def _known_targets(dataset: ImageDataset, stack: contextlib.ExitStack) -> KnownTargets | None:
    """Return what the ledger knows, until the stack ends; None where it cannot be read."""
    from imagepipeline_dagster.databases import shown_url
    from imagepipeline_dagster.moderation.override_targets import KnownTargets

    url = resources_of(dataset)["ledger"].url
    try:
        connection = stack.enter_context(_reading_ledger(dataset))
    except click.ClickException as error:
        # People decide last: that nobody can look whether a picture is there must not stop them.
        click.echo(f"Not checked whether the pictures are there. {error.message}", err=True)
        return None
    return KnownTargets(connection, where=f"The ledger at {shown_url(url)}")


@contextlib.contextmanager
def _reading_ledger(dataset: ImageDataset) -> Iterator[Connection]:
    with configured_ledger(dataset, create=False) as ledger, ledger.reading() as connection:
        yield connection
