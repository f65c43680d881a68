"""`imagepipeline-dagster review` and `override`: people look at pictures, and decide."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath
from secrets import token_urlsafe
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

from imagepipeline_dagster import databases, loopback
from imagepipeline_dagster.cli.configured import (
    chosen_name,
    configured_ledger,
    configured_tables,
    on_dataset,
    resources_of,
    system_user,
    tables_url,
    who_option,
)
from imagepipeline_dagster.cli.terminal import (
    AliasedOption,
    Answer,
    count_of,
    echo_answer,
    printable,
    wants_json,
    why_option,
)
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation import decisions, verdicts
from imagepipeline_dagster.moderation.review import app as review_page
from imagepipeline_dagster.moderation.review import samples
from imagepipeline_dagster.moderation.review import session as review_session
from imagepipeline_dagster.moderation.review import sheet as review_sheet
from imagepipeline_dagster.partition_names import partition_key, path_part, prompt_set_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage
from imagepipeline_dagster.tables import overrides
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.spelling import did_you_mean

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.moderation.decisions import KnownTargets
    from imagepipeline_dagster.moderation.review.session import ReviewSession
    from imagepipeline_dagster.moderation.verdicts import ModeratedImage

_ROWS_OF_A_SHEET = 2_000
_PICTURES_OF_A_PAGE = 5_000


@click.command()
@click.argument("prompt_set", metavar="[SET]", required=False)
@click.option("--serve", is_flag=True, help="Serve a page that records each decision at once.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="With --serve: port on 127.0.0.1; any free one, unless given.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The HTML file.")
@who_option
@click.option("--table", metavar="NAME", help="The table of decisions, if it has another name.")
@click.option("--only", type=click.Choice(["kept", "rejected", "quarantined"]), help="One verdict.")
@on_dataset
def review(
    *,
    prompt_set: str | None,
    serve: bool,
    port: int,
    output: Path | None,
    who: str | None,
    table: str | None,
    only: str | None,
    dataset: ImageDataset,
) -> Answer | None:
    """Review the pictures of SET, and decide about them.

    With --serve a page on this computer shows them, and each key (k, r, q, u to undo) records a
    decision in the table at once; without SET it shows every set with a picture that waits for
    one. Without --serve the pictures are written into one HTML file without scripts, with a
    command beside each.
    """
    if prompt_set is None and not serve:
        raise click.UsageError("name a SET, or serve all that wait for a person by --serve")
    if serve and output is not None:
        raise click.UsageError("--output is where a file goes: give it without --serve")
    storage = resources_of(dataset)["storage"].open()
    images = _images_to_review(dataset, storage, prompt_set, table=table)
    chosen = [image for image in images if only in (None, image.verdict)]
    if prompt_set is None or serve:
        session = _session(dataset, storage, chosen, who=who, table=table)
        _serve(session, prompt_set or "all that waits", port=port)
        return None
    _say_if_cut(len(chosen), _ROWS_OF_A_SHEET)
    file = output or Path(f"review-{path_part(partition_key(prompt_set))}.html")
    sheet = review_sheet.review_sheet(
        chosen[:_ROWS_OF_A_SHEET],
        storage,
        title=f"Review of {prompt_set}",
        reviewer=who or system_user() or "NAME",
        table=table,
        dataset=chosen_name(),
    )
    file.write_text(sheet, encoding="utf-8")
    pictures = [image for image in images if image.image_sha256]
    waiting = sum(image.verdict == verdicts.Verdict.QUARANTINED for image in pictures)
    return Answer(
        {"file": file.absolute(), "pictures": len(pictures), "waiting": waiting},
        [
            f"Waiting for a decision: {waiting:,} of {count_of(len(pictures), 'picture')}.",
            f"Open {file.absolute()} in a browser.",
        ],
    )


def _images_to_review(
    dataset: ImageDataset, storage: Storage, prompt_set: str | None, *, table: str | None
) -> list[ModeratedImage]:
    """Return the samples of a set; of the sets that wait for a person, where none is named."""
    folder = "/".join(dataset.key("moderated_images").path)
    if prompt_set is not None:
        part = path_part(partition_key(prompt_set))
        try:
            return samples.moderated_set(storage, f"{folder}/{part}.parquet")
        except ObjectMissing as error:
            told = _not_moderated(dataset, prompt_set, storage)
            raise click.ClickException(f"{told} ({error})") from error
    decided = overrides.read_overrides(tables_url(dataset), table=table or dataset.overrides)
    images: list[ModeratedImage] = []
    for of_set in samples.sets_that_wait(storage, folder, verdicts.latest_decisions(decided)):
        images += of_set
        if len(images) >= _PICTURES_OF_A_PAGE:
            break
    return images


def _session(
    dataset: ImageDataset,
    storage: Storage,
    images: list[ModeratedImage],
    *,
    who: str | None,
    table: str | None,
) -> ReviewSession:
    reviewer = who or system_user()
    if reviewer is None:
        raise click.UsageError("nobody knows who decides here: give --who NAME")
    pictures = [image for image in samples.most_urgent_first(images) if image.image_sha256]
    if not pictures:
        raise click.ClickException("There is no picture to decide about.")
    _say_if_cut(len(pictures), _PICTURES_OF_A_PAGE)
    return review_session.ReviewSession(
        pictures[:_PICTURES_OF_A_PAGE],
        storage,
        tables_url=tables_url(dataset),
        reviewer=reviewer,
        table=table or dataset.overrides,
    )


def _serve(session: ReviewSession, what: str, *, port: int) -> None:
    """Serve the page until Ctrl-C, and say how many decisions it recorded."""
    token = token_urlsafe(24)
    as_json = wants_json()

    def say_where(url: str) -> None:
        address = f"{url}/{token}/"
        text = f"Review as {session.reviewer} at {address} (Ctrl-C ends)"
        where = Answer({"url": address, "who": session.reviewer}, text)
        echo_answer(where, as_json=as_json)

    app = review_page.review_app(session, title=f"Review of {what}", token=token)
    loopback.QuietServer(app, port=port, on_ready=say_where).serve_until_stopped()
    click.echo(f"{count_of(session.recorded, 'decision')} recorded.", err=as_json)


def _say_if_cut(number: int, most: int) -> None:
    if number > most:
        note = f"The first {most:,} of {number:,}: no browser shows more well."
        click.echo(note, err=True)


def _not_moderated(dataset: ImageDataset, prompt_set: str, storage: Storage) -> str:
    """Return what to do about a set without verdicts; a name that no set has is asked back."""
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


@click.command()
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
@on_dataset
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
    dataset: ImageDataset,
) -> Answer:
    """Record what a person decides about a picture, or about all pictures of a prompt.

    A picture is named by its SHA-256 or the first eight or more of its digits. "clear" takes back
    what was decided: the evidence counts again. The moderation_overrides_sensor makes the verdicts
    of the sets concerned anew.
    """
    if (file is None) is (decision is None):
        raise click.UsageError(
            "give a decision (keep, reject, quarantine, clear), or a file by --from"
        )
    with contextlib.ExitStack() as stack:
        known = _known_targets(dataset, stack, force=force)
        if file is not None:
            decided = decisions.decisions_of_file(file, known)
        else:
            row = {
                "image_sha256": image,
                "prompt_set": prompt_set,
                "prompt_id": prompt_id,
                "decision": decision,
                "reviewer": who or system_user(),
                "reason": why,
            }
            decided = [decisions.decision_of(row, known)]
        recorded = overrides.record_overrides(
            tables_url(dataset), decided, table=table or dataset.overrides
        )
    return Answer({"decisions": recorded}, f"{count_of(recorded, 'decision')} recorded.")


def _known_targets(
    dataset: ImageDataset, stack: contextlib.ExitStack, *, force: bool
) -> KnownTargets | None:
    """Return what the ledger knows, until the stack ends; None where it cannot be read."""
    try:
        ledger = stack.enter_context(configured_ledger(dataset, create=False))
    except CorrectableError as error:
        # People decide last: that nobody can look whether a picture is there must not stop them.
        told = printable(str(error))
        click.echo(f"Not checked whether the pictures are there. {told}", err=True)
        return None
    connection = stack.enter_context(ledger.reading())
    where = f"The ledger at {databases.shown_url(resources_of(dataset)['ledger'].url)}"
    return decisions.KnownTargets(connection, where=where, force=force)
