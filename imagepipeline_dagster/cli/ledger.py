"""`imagepipeline-dagster ledger …`: requests whose answer was lost, and the ledger itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster.cli.configured import (
    configured_ledger,
    decider,
    on_dataset,
    present_ledger,
    resources_of,
    who_option,
)
from imagepipeline_dagster.cli.terminal import (
    agree,
    count_of,
    echo_fields,
    echo_json,
    moment,
    printable,
    why_option,
    yes_option,
)
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.decisions import LedgerDecision
    from imagepipeline_dagster.ledger.records import Entry
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.ledger.uses import PromptCall


_KEY_DIGITS = 12


@click.group("ledger", short_help="Decide about lost answers; copy the ledger.")
def ledger_group() -> None:
    """Look at requests whose answer was lost, decide about them, and copy the ledger."""


@ledger_group.command("unknown", short_help="List requests that nobody knows the end of.")
@on_dataset
def ledger_unknown(*, as_json: bool, dataset: ImageDataset) -> None:
    """List the requests of which nobody knows whether they were bought."""
    from imagepipeline_dagster.ledger.decisions import unknown_requests

    with present_ledger(dataset) as ledger:
        lost = unknown_requests(ledger)
    if as_json:
        echo_json({"unknown": [asdict(request) for request in lost]})
        return
    if not lost:
        click.echo("No request is unknown.")
        return
    for request in lost:
        emulated = " (emulator)" if request.emulated else ""
        click.echo(f"{request.request_key[:_KEY_DIGITS]}  {count_of(request.samples, 'image')}")
        echo_fields(
            {
                "prompt": [call_text(call) for call in request.calls],
                "claimed": moment(request.claimed_at),
                "sent to": request.endpoint + emulated,
                "job": request.job_id,
                "run": request.run_id,
                "error": request.error,
            }
        )
    images = sum(request.samples for request in lost)
    click.echo(
        f"\n{count_of(len(lost), 'request')}, {count_of(images, 'image')}. Look for them in the "
        "vendor's list of jobs, then decide:\n"
        "  imagepipeline-dagster ledger resubmit KEY… --why …   buys them once more\n"
        "  imagepipeline-dagster ledger forget KEY… --why …     gives them up"
    )


def _decision_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        on_dataset,
        yes_option,
        who_option,
        why_option(required=True, help="Kept with the decision."),
        click.option("--all-unknown", is_flag=True, help="All that `ledger unknown` lists."),
        click.argument("keys", nargs=-1, metavar="[KEY]..."),
    ):
        command = option(command)
    return command


@ledger_group.command(short_help="Copy a SQLite ledger that is in use.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@on_dataset
def backup(*, file: Path, as_json: bool, dataset: ImageDataset) -> None:
    """Copy a SQLite ledger to FILE, whole also while runs write to it.

    A plain copy of the file lacks what stands in its -wal file. With PostgreSQL use pg_dump.
    """
    from imagepipeline_dagster.databases import copy_sqlite

    if file.exists():
        raise click.ClickException(f"{file} exists already; a backup replaces nothing.")
    with present_ledger(dataset) as ledger:
        if ledger.file is None:
            raise click.ClickException(
                f"The ledger at {ledger.shown_url} is no SQLite file: back it up by its database's "
                "own means, such as pg_dump."
            )
        copy_sqlite(ledger.file, file)
    if as_json:
        echo_json({"file": file, "ledger": ledger.shown_url})
        return
    click.echo(f"{file} is a copy of {ledger.file}.")


@ledger_group.command(short_help="Take the ledger as it is for the storage's own.")
@yes_option
@on_dataset
def adopt(*, yes: bool, as_json: bool, dataset: ImageDataset) -> None:
    """Take the ledger as it is for the storage's own.

    A ledger that knows less than was bought into the storage buys nothing: it may be new, another
    one, or an old copy. Adopted, it buys again what it does not know. `ledger rebuild` comes first
    where the right ledger is lost.
    """
    from imagepipeline_dagster.ledger import identity

    with configured_ledger(dataset, create=True) as ledger:
        storage = resources_of(dataset)["storage"].open()
        agree(
            f"The ledger at {ledger.shown_url} becomes the one of {storage.uri}, and what it does "
            "not know is bought again. Go on?",
            yes=yes,
        )
        identity.adopt(ledger, storage)
    if as_json:
        echo_json({"ledger": ledger.shown_url, "storage": storage.uri})
    else:
        click.echo(f"{ledger.shown_url} is the ledger of {storage.uri}: runs buy again.")


@ledger_group.command(short_help="Restore a lost ledger from what the storage keeps.")
@click.option(
    "--unbought",
    is_flag=True,
    help="Take what the tables show as not bought for not bought; else it is unknown.",
)
@yes_option
@on_dataset
def rebuild(*, unbought: bool, yes: bool, as_json: bool, dataset: ImageDataset) -> None:
    """Restore what the ledger lacks from the tables on the storage; what it has stays.

    A request that the tables do not show as bought may have been bought by a run that never came to
    its end. It becomes unknown, and no run sends it until you decide.
    """
    from imagepipeline_dagster.api.contract import submit_path
    from imagepipeline_dagster.purchase.rebuild import Rebuilding, StoredTables

    resources = resources_of(dataset)
    api = resources["imagepipeline"]
    folders = {
        asset: "/".join(dataset.key(asset).path)
        for asset in ("prompt_sets", "generation_requests", "generated_images")
    }
    rebuilding = Rebuilding(
        storage=resources["storage"].open(),
        tables=StoredTables(**folders),
        dataset=dataset.name,
        allowance=dataset.allowance(api.origin),
        endpoint=lambda task: f"{api.origin}{submit_path(task)}",
        emulated=api.emulated,
        unbought=unbought,
    )
    with configured_ledger(dataset, create=True) as ledger:
        agree(
            f"Restore {dataset.name} from {rebuilding.storage.uri} in {ledger.shown_url}?",
            yes=yes,
        )
        restored = [part for part in rebuilding.restore(ledger) if part.requests]
        strangers = rebuilding.adopt(ledger)
    if as_json:
        echo_json({"restored": [asdict(part) for part in restored], "strangers": strangers})
        return
    for part in restored:
        unknown = f", {part.unknown:,} of them unknown" if part.unknown else ""
        click.echo(
            f"{quoted(part.prompt_set)}: {count_of(part.requests, 'request')}{unknown}, "
            f"{count_of(part.images, 'image')}"
        )
    if not restored:
        click.echo("The ledger lacks nothing that the storage tells of.")
    if any(part.unknown for part in restored):
        click.echo("`imagepipeline-dagster ledger unknown` lists what you have to decide about.")
    if strangers:
        click.echo(
            f"{count_of(strangers, 'image')} on the storage belong to no entry: to another dataset "
            "(--dataset), to rows that have changed since, or to a run that died. Runs buy again "
            "after `imagepipeline-dagster ledger adopt`."
        )


@ledger_group.command(short_help="Allow one more job for requests.")
@_decision_options
def resubmit(**options: Any) -> None:  # noqa: ANN401 - those of both decisions
    """Allow one more job for requests; the next run of their prompt sets buys it.

    KEY is a request's key, or the first eight or more of its digits. Besides unknown requests it
    takes those that failed for good or were given up, those whose pictures expired, were filtered
    or cannot be decoded, and those whose job has no end an hour after it was submitted.
    """
    _decide("resubmit", **options)


@ledger_group.command(short_help="Give requests up: no run buys them.")
@_decision_options
def forget(**options: Any) -> None:  # noqa: ANN401 - those of both decisions
    """Give requests up: their open samples are `failed`, and no run buys them.

    KEY is a request's key, or the first eight or more of its digits. A job that has no end can be
    given up an hour after it was submitted.
    """
    _decide("forget", **options)


@ledger_group.command(short_help="Ask jobs for pictures again; it costs nothing.")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@on_dataset
def refetch(*, keys: tuple[str, ...], as_json: bool, dataset: ImageDataset) -> None:
    """Ask the jobs of requests for their pictures again; nothing is bought.

    KEY is a request's key, or the first eight or more of its digits. It takes each sample that
    lacks a picture, final ones too, and pictures that the storage lost or holds in other bytes.
    """
    from imagepipeline_dagster.ledger.decisions import entries_named
    from imagepipeline_dagster.purchase.refetching import refetch as ask_again

    with present_ledger(dataset) as ledger:
        entries = entries_named(ledger, keys)
        resources = resources_of(dataset)
    api = resources["imagepipeline"]
    with configured_ledger(dataset, create=True) as ledger:
        answers = ask_again(
            entries,
            ledger=ledger,
            storage=resources["storage"].open(),
            open_client=api.open,
            origin=api.origin,
            emulated=api.emulated,
        )
        sets = _sets_of(ledger, entries)
    if as_json:
        echo_json({"requests": [asdict(answer) for answer in answers], "prompt_sets": sets})
        return
    for answer in answers:
        missing = f", {answer.missing} still missing" if answer.missing else ""
        trouble = f": {printable(answer.trouble)}" if answer.trouble else ""
        came = count_of(answer.came, "picture")
        click.echo(f"{answer.request_key[:_KEY_DIGITS]}  {came} came{missing}{trouble}")
    if any(answer.came for answer in answers):
        for name in sets:
            click.echo(f"  materialize {_set_text(name)}")


def _decide(
    name: str,
    *,
    keys: tuple[str, ...],
    all_unknown: bool,
    why: str,
    who: str | None,
    yes: bool,
    as_json: bool,
    dataset: ImageDataset,
) -> None:
    from imagepipeline_dagster.ledger import decisions

    decision = decisions.LedgerDecision(name)

    if bool(keys) == all_unknown:
        raise click.UsageError("Give either request keys or --all-unknown.")
    who = decider(who, why)
    # Read first: a ledger that is not there must not be made by a decision about it.
    with present_ledger(dataset) as ledger:
        if all_unknown:
            keys = tuple(request.request_key for request in decisions.unknown_requests(ledger))
        if not keys:
            _echo_decided(decision, [], [], as_json=as_json)
            return
        entries = decisions.concerned(ledger, keys, decision)
    buys = decision is decisions.LedgerDecision.RESUBMIT
    about = _requests_text(entries)
    agree(f"Buy {about} once more?" if buys else f"Give up {about}?", yes=yes)
    with configured_ledger(dataset, create=True) as ledger:
        # As they were shown: nobody was asked about requests that became unknown meanwhile.
        shown = [entry.request_key for entry in entries]
        decided = decisions.decide(ledger, shown, decision, who=who, why=why)
        sets = _sets_of(ledger, decided)
    _echo_decided(decision, decided, sets, as_json=as_json)


def _requests_text(entries: Sequence[Entry]) -> str:
    images = sum(entry.samples for entry in entries)
    return f"{count_of(len(entries), 'request')} of {count_of(images, 'image')}"


def _echo_decided(
    decision: LedgerDecision,
    entries: Sequence[Entry],
    sets: Sequence[Mapping[str, str]],
    *,
    as_json: bool,
) -> None:
    if as_json:
        requests = [{"request_key": of.request_key, "samples": of.samples} for of in entries]
        echo_json({"decision": decision, "requests": requests, "prompt_sets": sets})
        return
    if not entries:
        click.echo("No request is unknown.")
        return
    buys = decision == "resubmit"
    click.echo(f"{'The next run buys' if buys else 'No run buys'} {_requests_text(entries)}.")
    for name in sets:
        click.echo(f"  {'materialize' if buys else 'in'} {_set_text(name)}")


def _set_text(of: Mapping[str, str]) -> str:
    return f"{quoted(of['prompt_set'])} ({printable(of['dataset'])})"


def _sets_of(ledger: Ledger, entries: Iterable[Entry]) -> list[dict[str, str]]:
    from imagepipeline_dagster.ledger.uses import calls_of

    with ledger.reading() as connection:
        calls = [call for entry in entries for call in calls_of(connection, entry.request_key)]
    names = {(call.dataset, call.prompt_set) for call in calls}
    return [{"dataset": dataset, "prompt_set": name} for dataset, name in sorted(names)]


def call_text(call: PromptCall) -> str:
    """Return which call of which prompt it is."""
    return f"{quoted(call.prompt_set, call.prompt_id)}, call {call.call_index} of {call.dataset}"
