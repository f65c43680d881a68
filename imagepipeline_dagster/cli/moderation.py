"""`imagepipeline-dagster review` and `override`: people look at pictures, and decide."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

from imagepipeline_dagster.cli.configured import opened_ledger, system_user, tables_url
from imagepipeline_dagster.cli.terminal import count_of, plain_errors, printable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from imagepipeline_dagster.moderation.override_targets import KnownTargets
    from imagepipeline_dagster.storage.contract import Storage
    from imagepipeline_dagster.tables.overrides import Override

__all__ = ["override", "review"]

_ROWS_OF_A_SHEET = 2_000
_PROBLEMS = 20  # shown of a file


@click.command(short_help="Write a page to review a set's pictures on.")
@click.argument("prompt_set", metavar="SET")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The HTML file.")
@click.option("--prefix", default="", metavar="A/B", help="The dataset's key prefix.")
@click.option("--reviewer", metavar="NAME", help="Stands in the commands; you, by default.")
@click.option("--table", metavar="NAME", help="The table of decisions, if it has another name.")
@click.option("--only", type=click.Choice(["kept", "rejected", "quarantined"]), help="One verdict.")
def review(
    *,
    prompt_set: str,
    output: Path | None,
    prefix: str,
    reviewer: str | None,
    table: str | None,
    only: str | None,
) -> None:
    """Write a sheet to review the pictures of SET on, and to decide about them.

    It is one HTML file for a browser, without scripts. What is not kept is blurred until clicked.
    """
    import pandas as pd

    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.moderation.review import review_sheet
    from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
    from imagepipeline_dagster.partition_names import partition_key, path_part
    from imagepipeline_dagster.rows import rows_of
    from imagepipeline_dagster.storage.contract import ObjectMissing

    part = path_part(partition_key(prompt_set))
    folder = "/".join([*filter(None, prefix.split("/")), "moderated_images"])
    file = output or Path(f"review-{part}.html")
    with plain_errors():
        storage = resources_on_command_line(os.environ)["storage"].open()
        try:
            stored = storage.read(f"{folder}/{part}.parquet")
        except ObjectMissing as error:
            told = _not_moderated(prompt_set, storage, folder)
            raise click.ClickException(f"{told} ({error})") from error
        frame = pd.read_parquet(io.BytesIO(stored), dtype_backend="numpy_nullable")
        samples = rows_of(frame, ModeratedImage)
        rows = [row for row in samples if only in (None, row.verdict)]
        sheet = review_sheet(
            rows[:_ROWS_OF_A_SHEET],
            storage,
            title=f"Review of {prompt_set}",
            reviewer=reviewer or system_user() or "NAME",
            table=table,
        )
        file.write_text(sheet, encoding="utf-8")
    if len(rows) > _ROWS_OF_A_SHEET:
        click.echo(f"The first {_ROWS_OF_A_SHEET:,} of {len(rows):,}: no browser shows more well.")
    pictures = [row for row in samples if row.image_sha256]
    waiting = sum(row.verdict == Verdict.QUARANTINED for row in pictures)
    click.echo(f"Waiting for a decision: {waiting:,} of {count_of(len(pictures), 'picture')}.")
    click.echo(f"Open {printable(str(file.absolute()))} in a browser.")


def _not_moderated(prompt_set: str, storage: Storage, folder: str) -> str:
    """Return what to do about a set without verdicts; a name that no set has is asked back."""
    from imagepipeline_dagster.partition_names import partition_key, prompt_set_of
    from imagepipeline_dagster.tables.errors import TablesError
    from imagepipeline_dagster.tables.reading import SourceTables
    from imagepipeline_dagster.tables.spelling import did_you_mean

    told = f"Prompt set {prompt_set!r} was not moderated yet."
    # A name that was cut to a path part is not told in full: it only misses as a suggestion.
    files = map(PurePosixPath, storage.list(folder))
    moderated = [prompt_set_of(unquote(file.stem)) for file in files]
    try:
        with SourceTables(tables_url()) as tables:
            there = tables.prompt_sets()
    except TablesError:
        there = []  # the dataset's own tables may have other names
    if there and prompt_set not in there:
        asked = did_you_mean(prompt_set, [*moderated, *there])
        return f"{told} The prompts table has no such set.{asked}"
    asked = "" if there else did_you_mean(prompt_set, moderated)
    return f"{told}{asked} Materialize its partition {partition_key(prompt_set)!r} of {folder}."


@click.command(short_help="Record what a person decides about pictures.")
@click.argument("decision", type=click.Choice(["keep", "reject", "quarantine"]), required=False)
@click.option("--image", metavar="SHA256", help="The picture; 8 digits do.")
@click.option("--prompt-set", metavar="SET", help="With --prompt-id: all pictures of a prompt.")
@click.option("--prompt-id", metavar="ID")
@click.option("--reviewer", metavar="NAME", help="Who decides; you, by default.")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of decisions, as for imports, all or none: image_sha256, prompt_set, prompt_id, "
    "decision, reviewer, reason.",
)
@click.option("--table", metavar="NAME", help="The table of decisions, if it has another name.")
@click.option("--force", is_flag=True, help="Decide about pictures that are not there yet, too.")
def override(
    *,
    decision: str | None,
    image: str | None,
    prompt_set: str | None,
    prompt_id: str | None,
    reviewer: str | None,
    reason: str | None,
    file: Path | None,
    table: str | None,
    force: bool,
) -> None:
    """Record what a person decides about a picture, or about all pictures of a prompt.

    A picture is named by its SHA-256 or the first eight or more of its digits. The
    moderation_overrides_sensor makes the verdicts of the sets concerned anew.
    """
    from imagepipeline_dagster.tables.overrides import OVERRIDES, record_overrides

    if (file is None) is (decision is None):
        raise click.UsageError("give a decision (keep, reject, quarantine), or a file by --from")
    with plain_errors(), contextlib.ExitStack() as stack:
        reading = _Reading(_known_targets(stack), force=force)
        if file is not None:
            decided = _decided_in(file, reading)
        else:
            row = {
                "image_sha256": image,
                "prompt_set": prompt_set,
                "prompt_id": prompt_id,
                "decision": decision,
                "reviewer": reviewer or system_user(),
                "reason": reason,
            }
            decided = [reading.decided(row)]
        recorded = record_overrides(tables_url(), decided, table=table or OVERRIDES)
    click.echo(f"{count_of(recorded, 'decision')} recorded.")


def _known_targets(stack: contextlib.ExitStack) -> KnownTargets | None:
    """Return what the ledger knows, until the stack ends; None where it cannot be read."""
    from imagepipeline_dagster.databases import shown_url
    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.moderation.override_targets import KnownTargets

    url = resources_on_command_line(os.environ)["ledger"].url
    try:
        connection = stack.enter_context(_reading_ledger(url))
    except click.ClickException as error:
        # People decide last: that nobody can look whether a picture is there must not stop them.
        click.echo(f"Not checked whether the pictures are there. {error.message}", err=True)
        return None
    return KnownTargets(connection, where=f"The ledger at {shown_url(url)}")


@contextlib.contextmanager
def _reading_ledger(url: str) -> Iterator[Connection]:
    with opened_ledger(url, create=False) as ledger, ledger.reading() as connection:
        yield connection


def _decided_in(file: Path, reading: _Reading) -> list[Override]:
    """Return the decisions of a file, all of them checked."""
    from imagepipeline_dagster.tables.overrides import OverrideInvalid
    from imagepipeline_dagster.tables.transfer.incoming import ImportRefused
    from imagepipeline_dagster.tables.transfer.reading_files import (
        FileUnreadable,
        RowUnreadable,
        open_file,
    )
    from imagepipeline_dagster.tables.values import read_text

    try:
        opened = open_file(file)
        headers = opened.headers()
    except FileUnreadable as error:
        raise click.ClickException(f"{file} {error}") from error
    there = ", ".join(map(repr, headers))
    missing = [name for name in ("decision", "reviewer", "reason") if name not in headers]
    if missing:
        lacks = (f"the file has no column {name!r}; it has {there}" for name in missing)
        raise ImportRefused(file, tuple(lacks))
    decided = []
    problems = []
    for row in opened.rows():
        if isinstance(row, RowUnreadable):
            problems.append(f"{row.place} {row.problem}")
            continue
        try:
            values = {name: read_text(value) for name, value in row.values.items()}
            decided.append(reading.decided(values))
        except OverrideInvalid as error:
            column = f", column {error.column!r}" if error.column else ""
            problems.append(f"{row.place}{column}: {error}")
    if problems:
        raise ImportRefused(file, tuple(problems[:_PROBLEMS]), count=len(problems))
    return decided


class _Reading:
    """Reads rows as decisions; what they are about must be among what is known, unless forced."""

    def __init__(self, known: KnownTargets | None, *, force: bool) -> None:
        self._known = known
        self._force = force

    def decided(self, row: Mapping[str, str | None]) -> Override:
        """Return a row as a decision.

        Raises:
            OverrideInvalid: says what is wrong with it, and where.
        """
        from imagepipeline_dagster.tables.overrides import (
            Override,
            OverrideDecision,
            OverrideInvalid,
        )

        word = (row.get("decision") or "").strip().lower()
        if word not in set(OverrideDecision):
            raise OverrideInvalid(
                f"{word!r} is none of {', '.join(OverrideDecision)}.", column="decision"
            )
        image = row.get("image_sha256")
        override = Override(
            image_sha256=self._full(image.strip().lower()) if image else None,
            prompt_set=row.get("prompt_set") or None,
            prompt_id=row.get("prompt_id") or None,
            decision=OverrideDecision(word),
            reviewer=row.get("reviewer") or "",
            reason=row.get("reason") or "",
            decided_at=dt.datetime.now(dt.UTC),
        )
        if self._known and override.prompt_set is not None and override.prompt_id is not None:
            with self._asking():
                self._known.check_prompt(override.prompt_set, override.prompt_id)
        return override

    def _full(self, image: str) -> str:
        if self._known:
            with self._asking():
                return self._known.image(image)
        return image

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        from imagepipeline_dagster.moderation.override_targets import TargetUnknown

        try:
            yield
        except TargetUnknown as error:
            if not self._force:
                hint = "--force decides about what is not there yet."
                raise TargetUnknown(f"{error} {hint}", column=error.column) from None
