"""`imagepipeline-dagster ledger …`: requests whose answer was lost, and the ledger itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster import databases
from imagepipeline_dagster.cli.configured import (
    configured_ledger,
    decider,
    on_dataset,
    present_ledger,
    resources_of,
    who_option,
)
from imagepipeline_dagster.cli.terminal import (
    Answer,
    agree,
    all_of,
    count_of,
    field_lines,
    moment,
    why_option,
    yes_option,
)
from imagepipeline_dagster.ledger import decisions, identity
from imagepipeline_dagster.ledger import uses as request_uses
from imagepipeline_dagster.ledger.records import Entry
from imagepipeline_dagster.purchase import rebuild as rebuilding_ledgers
from imagepipeline_dagster.purchase import refetching
from imagepipeline_dagster.release import withdrawal
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.decisions import LedgerDecision
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.ledger.uses import Use
    from imagepipeline_dagster.purchase.rebuild import Hindrances, Restored

_KEY_DIGITS = 12
_NONE_UNKNOWN = "No request is unknown."


@click.group("ledger")
def ledger_group() -> None:
    """Look at requests whose answer was lost, decide about them, and copy the ledger."""


@ledger_group.command("unknown", short_help="List requests that nobody knows the end of.")
@on_dataset
def ledger_unknown(*, dataset: ImageDataset) -> Answer:
    """List the requests of which nobody knows whether they were bought."""
    with present_ledger(dataset) as ledger, ledger.reading() as connection:
        lost = decisions.unknown_requests(ledger)
        uses = request_uses.uses_of(connection, (request.request_key for request in lost))
    facts = [
        fields_of(request, *_OF_UNKNOWN)
        | {"calls": [fields_of(use, *_OF_CALL) for use in uses[request.request_key]]}
        for request in lost
    ]
    return Answer({"unknown": facts}, _unknown_lines(lost, uses))


_OF_UNKNOWN = (
    *("request_key", "claimed_at", "endpoint", "emulated"),
    *("run_id", "job_id", "samples", "error"),
)
_OF_CALL = ("dataset", "prompt_set", "prompt_id", "call_index")


def _unknown_lines(lost: Sequence[Entry], uses: Mapping[str, Sequence[Use]]) -> Iterator[str]:
    if not lost:
        yield _NONE_UNKNOWN
        return
    for request in lost:
        emulated = " (emulator)" if request.emulated else ""
        yield f"{request.request_key[:_KEY_DIGITS]}  {count_of(request.samples, 'image')}"
        yield from field_lines(
            {
                "prompt": [call_text(use) for use in uses[request.request_key]],
                "claimed": moment(request.claimed_at),
                "sent to": request.endpoint + emulated,
                "job": request.job_id,
                "run": request.run_id,
                "error": request.error,
            }
        )
    images = sum(request.samples for request in lost)
    yield (
        f"\n{count_of(len(lost), 'request')}, {count_of(images, 'image')}. Look for them in the "
        "vendor's list of jobs, then decide:\n"
        "  imagepipeline-dagster ledger resubmit KEY… --why …   buys them once more\n"
        "  imagepipeline-dagster ledger forget KEY… --why …     gives them up"
    )


_decision_options = all_of(
    on_dataset,
    yes_option,
    who_option,
    why_option(required=True, help="Kept with the decision."),
    click.option("--all-unknown", is_flag=True, help="All that `ledger unknown` lists."),
    click.argument("keys", nargs=-1, metavar="[KEY]..."),
)


@ledger_group.command(short_help="Copy a SQLite ledger that is in use.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@on_dataset
def backup(*, file: Path, dataset: ImageDataset) -> Answer:
    """Copy a SQLite ledger to FILE, whole also while runs write to it.

    A plain copy of the file lacks what stands in its -wal file. With PostgreSQL use pg_dump.
    """
    if file.exists():
        raise click.ClickException(f"{file} exists already; a backup replaces nothing.")
    with present_ledger(dataset) as ledger:
        if ledger.file is None:
            raise click.ClickException(
                f"The ledger at {ledger.shown_url} is no SQLite file: back it up by its database's "
                "own means, such as pg_dump."
            )
        databases.copy_sqlite(ledger.file, file)
    facts = {"file": file, "ledger": ledger.shown_url}
    return Answer(facts, f"{file} is a copy of {ledger.file}.")


@ledger_group.command(short_help="Take the ledger as it is for the storage's own.")
@yes_option
@on_dataset
def adopt(*, yes: bool, dataset: ImageDataset) -> Answer:
    """Take the ledger as it is for the storage's own.

    A ledger that knows less than was bought into the storage buys nothing: it may be new, another
    one, or an old copy. Adopted, it buys again what it does not know. `ledger rebuild` comes first
    where the right ledger is lost.
    """
    with configured_ledger(dataset, create=True) as ledger:
        storage = resources_of(dataset)["storage"].open()
        agree(
            f"The ledger at {ledger.shown_url} becomes the one of {storage.uri}, and what it does "
            "not know is bought again. Go on?",
            yes=yes,
        )
        withdrawal.tell_ledger(storage, ledger)
        identity.adopt(ledger, storage)
    return Answer(
        {"ledger": ledger.shown_url, "storage": storage.uri},
        f"{ledger.shown_url} is the ledger of {storage.uri}: runs buy again.",
    )


@ledger_group.command(short_help="Restore a lost ledger from what the storage keeps.")
@click.option(
    "--unbought",
    is_flag=True,
    help="Take what the tables show as not bought for not bought; else it is unknown.",
)
@yes_option
@on_dataset
def rebuild(*, unbought: bool, yes: bool, dataset: ImageDataset) -> Answer:
    """Restore what the ledger lacks from the tables on the storage; what it has stays.

    A request that the tables do not show as bought may have been bought by a run that never came to
    its end. It becomes unknown, and no run sends it until you decide.
    """
    resources = resources_of(dataset)
    api, storage = resources["imagepipeline"], resources["storage"].open()
    with configured_ledger(dataset, create=True) as ledger:
        agree(f"Restore {dataset.name} from {storage.uri} in {ledger.shown_url}?", yes=yes)
        rebuilding = rebuilding_ledgers.Rebuilding(
            means=dataset.means(api, ledger, storage, run_id="rebuild"),
            dataset=dataset.name,
            key_prefix=dataset.key_prefix,
            unbought=unbought,
        )
        restored = [part for part in rebuilding.restore() if part.requests]
        withdrawal.tell_ledger(storage, ledger)
        hindrances = rebuilding.adopt()
    facts = {"restored": [asdict(part) for part in restored], **asdict(hindrances)}
    return Answer(facts, _restored_lines(restored, hindrances))


def _restored_lines(restored: Sequence[Restored], hindrances: Hindrances) -> Iterator[str]:
    for part in restored:
        unknown = f", {part.unknown:,} of them unknown" if part.unknown else ""
        yield (
            f"{quoted(part.prompt_set)}: {count_of(part.requests, 'request')}{unknown}, "
            f"{count_of(part.images, 'image')}"
        )
    if not restored:
        yield "The ledger lacks nothing that the storage tells of."
    if any(part.unknown for part in restored):
        yield "`imagepipeline-dagster ledger unknown` lists what you have to decide about."
    if hindrances.datasets:
        others = ", ".join(map(quoted, hindrances.datasets))
        yield f"The ledger is an older copy, also of {others}: rebuild each (--dataset)."
    if hindrances.strangers:
        yield (
            f"{count_of(hindrances.strangers, 'image')} on the storage without an entry: of "
            "another dataset (--dataset), of rows that have changed since, or of a run that died."
        )
    if hindrances.datasets or hindrances.strangers:
        yield "Runs buy again after `imagepipeline-dagster ledger adopt`."


@ledger_group.command(short_help="Allow one more job for requests.")
@_decision_options
def resubmit(**options: Any) -> Answer:  # noqa: ANN401 - those of both decisions
    """Allow one more job for requests; the next run of their prompt sets buys it.

    KEY is a request's key, or the first eight or more of its digits. Besides unknown requests it
    takes those that failed for good or were given up, those whose pictures expired, were filtered
    or cannot be decoded, and those whose job has no end an hour after it was submitted.
    """
    return _decide("resubmit", **options)


@ledger_group.command(short_help="Give requests up: no run buys them.")
@_decision_options
def forget(**options: Any) -> Answer:  # noqa: ANN401 - those of both decisions
    """Give requests up: their open samples are `failed`, and no run buys them.

    KEY is a request's key, or the first eight or more of its digits. A job that has no end can be
    given up an hour after it was submitted.
    """
    return _decide("forget", **options)


@ledger_group.command(short_help="Ask jobs for pictures again; it costs nothing.")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@on_dataset
def refetch(*, keys: tuple[str, ...], dataset: ImageDataset) -> Answer:
    """Ask the jobs of requests for their pictures again; nothing is bought.

    KEY is a request's key, or the first eight or more of its digits. It takes each sample that
    lacks a picture, final ones too, and pictures that the storage lost or holds in other bytes.
    """
    with present_ledger(dataset) as ledger:
        entries = decisions.entries_named(ledger, keys)
        resources = resources_of(dataset)
    api, storage = resources["imagepipeline"], resources["storage"].open()
    with configured_ledger(dataset, create=True) as ledger:
        answers = refetching.refetch(entries, dataset.means(api, ledger, storage, run_id="refetch"))
        sets = _sets_of(ledger, entries)
    lines = []
    for answer in answers:
        missing = f", {answer.missing} still missing" if answer.missing else ""
        trouble = f": {answer.trouble}" if answer.trouble else ""
        came = count_of(answer.came, "picture")
        lines.append(f"{answer.request_key[:_KEY_DIGITS]}  {came} came{missing}{trouble}")
    if any(answer.came for answer in answers):
        lines += [f"  materialize {_set_text(name)}" for name in sets]
    return Answer({"requests": [asdict(answer) for answer in answers], "prompt_sets": sets}, lines)


def _decide(
    name: str,
    *,
    keys: tuple[str, ...],
    all_unknown: bool,
    why: str,
    who: str | None,
    yes: bool,
    dataset: ImageDataset,
) -> Answer:
    decision = decisions.LedgerDecision(name)
    if bool(keys) == all_unknown:
        raise click.UsageError("Give either request keys or --all-unknown.")
    who = decider(who, why)
    # Read first: a ledger that is not there must not be made by a decision about it.
    with present_ledger(dataset) as ledger, ledger.reading() as connection:
        if all_unknown:
            keys = tuple(request.request_key for request in decisions.unknown_requests(ledger))
        if not keys:
            return _decided(decision, [], [])
        entries = decisions.concerned(connection, keys, decision)
    buys = decision is decisions.LedgerDecision.RESUBMIT
    about = _requests_text(entries)
    agree(f"Buy {about} once more?" if buys else f"Give up {about}?", yes=yes)
    with configured_ledger(dataset, create=True) as ledger:
        # As they were shown: nobody was asked about requests that became unknown meanwhile.
        shown = [entry.request_key for entry in entries]
        decided = decisions.decide(ledger, shown, decision, who=who, why=why)
        sets = _sets_of(ledger, decided)
    return _decided(decision, decided, sets)


def _requests_text(entries: Sequence[Entry]) -> str:
    images = sum(entry.samples for entry in entries)
    return f"{count_of(len(entries), 'request')} of {count_of(images, 'image')}"


def _decided(
    decision: LedgerDecision, entries: Sequence[Entry], sets: Sequence[Mapping[str, str]]
) -> Answer:
    requests = [{"request_key": of.request_key, "samples": of.samples} for of in entries]
    facts = {"decision": decision, "requests": requests, "prompt_sets": sets}
    if not entries:
        return Answer(facts, _NONE_UNKNOWN)
    buys = decision == "resubmit"
    lines = [f"{'The next run buys' if buys else 'No run buys'} {_requests_text(entries)}."]
    lines += [f"  {'materialize' if buys else 'in'} {_set_text(name)}" for name in sets]
    return Answer(facts, lines)


def _set_text(of: Mapping[str, str]) -> str:
    return f"{quoted(of['prompt_set'])} ({of['dataset']})"


def _sets_of(ledger: Ledger, entries: Iterable[Entry]) -> list[dict[str, str]]:
    with ledger.reading() as connection:
        names = request_uses.sets_using(connection, (entry.request_key for entry in entries))
    return [{"dataset": dataset, "prompt_set": name} for dataset, name in names]


def call_text(use: Use) -> str:
    """Return which call of which prompt it is."""
    return f"{quoted(use.prompt_set, use.prompt_id)}, call {use.call_index} of {use.dataset}"
