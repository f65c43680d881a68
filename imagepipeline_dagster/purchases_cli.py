"""`imagepipeline-dagster plan`, `ledger …`, `lineage` and `replay`: what is, or was, bought.

Heavy modules are imported by the commands that need them, as in `cli`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import getpass
import importlib
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster.terminal import plain_errors, printable

if TYPE_CHECKING:
    from rich.table import Table

    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.generation.decisions import Decision, PromptCall
    from imagepipeline_dagster.generation.ledger import Entry, Ledger
    from imagepipeline_dagster.generation.likeness import Comparison
    from imagepipeline_dagster.generation.lineage import ImageLineage, SampleLineage
    from imagepipeline_dagster.generation.planning import PlanSummary
    from imagepipeline_dagster.generation.replaying import ReplayReport
    from imagepipeline_dagster.resources import ImagePipelineResource
    from imagepipeline_dagster.tables.reading import SourceTables

__all__ = ["purchase_commands"]

_KEY_DIGITS = 12
_DATASET_OPTION = click.option(
    "--dataset",
    metavar="MODULE:NAME",
    help="The ImageDataset, where it is not the default one; say definitions:dataset.",
)


@click.command()
@click.argument("prompt_sets", nargs=-1, metavar="[SET]...")
@click.option(
    "--price-per-image",
    type=click.FloatRange(min=0),
    metavar="MONEY",
    help="What an image costs; the dataset's own price by default.",
)
@_DATASET_OPTION
def plan(
    *, prompt_sets: tuple[str, ...], price_per_image: float | None, dataset: str | None
) -> None:
    """Show what a purchase would buy now, and why: of these prompt sets, or of all.

    It reads the tables and the ledger, and changes nothing.
    """
    import rich

    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.generation.planning import PlanState
    from imagepipeline_dagster.tables.reading import SourceTables

    with plain_errors():
        chosen = _dataset(dataset)
        if price_per_image is not None:
            chosen = dataclasses.replace(chosen, price_per_image=price_per_image)
        resources = resources_on_command_line(os.environ)
        api = resources["imagepipeline"]
        # Not the resource's own way to open them: that makes sample tables where there are none.
        with (
            SourceTables(
                resources["tables"].url, prompts=chosen.prompts, embeddings=chosen.embeddings
            ) as tables,
            _opened_ledger(resources["ledger"].url, create=False) as ledger,
        ):
            origin = _origin(api)
            names = _chosen_sets(tables, prompt_sets)
            planned = _planned(names, tables, ledger, chosen, origin=origin)
            allowance = chosen.allowance(origin)
            spent = allowance.spent(ledger, today=dt.datetime.now(dt.UTC).date())
    total = planned[-1]
    shown = planned if len(planned) > 2 else planned[:1]
    rich.print(_states_table(shown, allowance.cost))
    if total.to_buy:
        rich.print(_reasons_table(shown))
    to_buy = f"{_count(total.to_buy, 'image')} to buy"
    cost = allowance.cost(total.to_buy)
    click.echo(to_buy if cost is None else f"{to_buy}, for {cost:,.2f}", nl=False)
    click.echo("; on the emulator nothing is paid." if api.emulated else ".")
    if spent["total"].images:
        periods = {"day": "today", "month": "this month", "total": "in all"}
        told = (f"{spent[name].images:,} {when}" for name, when in periods.items())
        click.echo(f"Images bought so far: {', '.join(told)}.")
    if total.summary.images[PlanState.UNKNOWN]:
        click.echo("Unknown: `imagepipeline-dagster ledger unknown` shows what was lost.")
    if total.refused:
        click.echo("Refused rows: `prompt_sets` says what is wrong with each.")


@click.group("ledger")
def ledger_group() -> None:
    """Look at requests whose answer was lost, and decide about them."""


@ledger_group.command("unknown")
def ledger_unknown() -> None:
    """List the requests of which nobody knows whether they were bought."""
    from imagepipeline_dagster.generation.decisions import unknown_requests

    with _ledger_errors(), _configured_ledger(create=False) as ledger:
        found = unknown_requests(ledger)
    if not found:
        click.echo("No request is unknown.")
        return
    for request in found:
        emulated = " (emulator)" if request.emulated else ""
        click.echo(f"{request.request_key[:_KEY_DIGITS]}  {_count(request.samples, 'image')}")
        _echo_fields(
            {
                "prompt": [_call_text(call) for call in request.calls],
                "claimed": _moment(request.claimed_at),
                "sent to": request.endpoint + emulated,
                "job": request.job_id,
                "run": request.run_id,
                "error": request.error,
            }
        )
    images = sum(request.samples for request in found)
    click.echo(
        f"\n{_count(len(found), 'request')}, {_count(images, 'image')}. Look for them in the "
        "vendor's list of jobs, then decide:\n"
        "  imagepipeline-dagster ledger resubmit KEY… --why …   buys them once more\n"
        "  imagepipeline-dagster ledger forget KEY… --why …     gives them up"
    )


def _decision_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--who", metavar="NAME", help="Who decides; the system's user by default."),
        click.option("--why", required=True, metavar="TEXT", help="Kept with the decision."),
        click.option("--all-unknown", is_flag=True, help="All that `ledger unknown` lists."),
        click.argument("keys", nargs=-1, metavar="[KEY]..."),
    ):
        command = option(command)
    return command


@ledger_group.command()
@_decision_options
def resubmit(
    *, keys: tuple[str, ...], all_unknown: bool, why: str, who: str | None, yes: bool
) -> None:
    """Allow one more job for requests; the next run of their prompt sets buys it.

    KEY is a request's key, or the first eight or more of its digits. Besides unknown requests it
    takes those that failed for good or were given up, and those whose pictures expired or cannot
    be decoded.
    """
    from imagepipeline_dagster.generation.decisions import Decision

    _decide(Decision.RESUBMIT, keys, all_unknown=all_unknown, why=why, who=who, yes=yes)


@ledger_group.command()
@_decision_options
def forget(
    *, keys: tuple[str, ...], all_unknown: bool, why: str, who: str | None, yes: bool
) -> None:
    """Give requests up: what they lack is `failed`, and no run buys it.

    KEY is a request's key, or the first eight or more of its digits.
    """
    from imagepipeline_dagster.generation.decisions import Decision

    _decide(Decision.FORGET, keys, all_unknown=all_unknown, why=why, who=who, yes=yes)


@click.command()
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def lineage(*, image: str, as_json: bool) -> None:
    """Show where an image comes from: prompt, request, seed, job and run.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    """
    from imagepipeline_dagster.generation.lineage import lineage_of

    with _ledger_errors(), _configured_ledger(create=False) as ledger:
        found = lineage_of(ledger, image)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2, default=_json_value))
    else:
        _echo_lineage(found)


@click.command()
@click.argument("image")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--elsewhere", is_flag=True, help="Ask another API than the one that made the image.")
@_DATASET_OPTION
def replay(*, image: str, yes: bool, elsewhere: bool, dataset: str | None) -> None:
    """Buy an image's request again, and tell whether the same picture comes.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    Nothing of the original changes. A replay that was interrupted is brought to its end.
    """
    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.generation.lineage import lineage_of
    from imagepipeline_dagster.generation.replaying import Replay

    with _ledger_errors():
        chosen = _dataset(dataset)
        resources = resources_on_command_line(os.environ)
        api, url = resources["imagepipeline"], resources["ledger"].url
        origin = _origin(api)
        with _opened_ledger(url, create=False) as ledger:
            found = lineage_of(ledger, image)
        with _opened_ledger(url, create=True) as ledger:
            again = Replay(
                found,
                ledger=ledger,
                origin=origin,
                emulated=api.emulated,
                elsewhere=elsewhere,
            )
            if not (yes or api.emulated):
                click.confirm(f"This buys {_count(again.images, 'image')}. Go on?", abort=True)
            report = again.carry_out(
                storage=resources["storage"].open(),
                open_client=api.open,
                settings=api.purchase_settings,
                allowance=chosen.allowance(origin),
                run_id=f"replay-{uuid.uuid4()}",
            )
    _echo_replay(report)


purchase_commands: tuple[click.Command, ...] = (plan, ledger_group, lineage, replay)
"""What `cli` registers."""


# The plan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _SetPlan:
    """A row of the plan: of a prompt set, or of all of them."""

    name: str
    summary: PlanSummary
    refused: int

    @property
    def to_buy(self) -> int:
        return self.summary.images["to_buy"]


def _chosen_sets(tables: SourceTables, wanted: Sequence[str]) -> list[str]:
    there = tables.prompt_sets()
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        listed = ", ".join(map(repr, there[:20])) + (", …" if len(there) > 20 else "")
        raise click.ClickException(
            printable(f"The prompts table has no set {unknown[0]!r}. It has: {listed or 'none'}.")
        )
    return list(dict.fromkeys(wanted)) or there


def _planned(
    names: Iterable[str],
    tables: SourceTables,
    ledger: Ledger,
    dataset: ImageDataset,
    *,
    origin: str,
) -> list[_SetPlan]:
    """Return each set's plan, and last that of all: a request that two sets share counts once."""
    from imagepipeline_dagster.generation.planning import (
        PlanSummary,
        plan_prompt_set,
        summarise_plan,
    )
    from imagepipeline_dagster.generation.prompts import validated_prompts

    embeddings = tables.embeddings()
    planned = []
    counted: set[str] = set()
    calls: Counter[str] = Counter()
    images: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for name in names:
        prompts = validated_prompts(tables.prompts(name), embeddings, defaults=dataset.defaults)
        requests = plan_prompt_set(
            prompts,
            prompt_set=name,
            dataset=dataset.name,
            ledger=ledger,
            origin=origin,
            samples_per_call=dataset.samples_per_call,
        )
        refused = sum(not prompt.valid for prompt in prompts)
        planned.append(_SetPlan(name=name, summary=summarise_plan(requests), refused=refused))
        first_seen = summarise_plan([r for r in requests if r.request_key not in counted])
        counted.update(request.request_key for request in requests)
        calls.update(first_seen.calls)
        images.update(first_seen.images)
        reasons.update(first_seen.to_buy_by_reason)
    total = PlanSummary(calls=calls, images=images, to_buy_by_reason=reasons)
    return [
        *planned,
        _SetPlan(name="total", summary=total, refused=sum(each.refused for each in planned)),
    ]


def _states_table(planned: Sequence[_SetPlan], cost: Callable[[int], float | None]) -> Table:
    from imagepipeline_dagster.generation.planning import PlanState

    priced = cost(0) is not None
    states = sorted(PlanState, key=lambda state: state is not PlanState.TO_BUY)
    headings = [*(state.replace("_", "\n") for state in states), "refused\nrows"]
    table = _table("Images", [*headings, *(["cost"] if priced else [])])
    for row in planned:
        counts = [*(row.summary.images[state] for state in states), row.refused]
        money = [f"{cost(row.to_buy):,.2f}"] if priced else []
        _add_row(table, row, planned, [*map(_number, counts), *money])
    return table


def _reasons_table(planned: Sequence[_SetPlan]) -> Table:
    from imagepipeline_dagster.generation.planning import Reason

    table = _table("Images to buy, by reason", [reason.replace("_", "\n") for reason in Reason])
    for row in planned:
        counts = (row.summary.to_buy_by_reason.get(reason, 0) for reason in Reason)
        _add_row(table, row, planned, map(_number, counts))
    return table


def _table(title: str, headings: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("prompt set", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _add_row(
    table: Table, row: _SetPlan, planned: Sequence[_SetPlan], cells: Iterable[str]
) -> None:
    from rich.text import Text

    is_total = len(planned) > 1 and row is planned[-1]
    if is_total:
        table.add_section()
    style = "bold" if is_total else ""
    table.add_row(Text(printable(row.name)), *cells, style=style)


def _number(count: int) -> str:
    return f"{count:,}" if count else "·"


# Decisions


def _decide(
    decision: Decision,
    keys: tuple[str, ...],
    *,
    all_unknown: bool,
    why: str,
    who: str | None,
    yes: bool,
) -> None:
    from imagepipeline_dagster.generation import decisions

    if bool(keys) == all_unknown:
        raise click.UsageError("Give either request keys or --all-unknown.")
    if not why.strip():
        raise click.BadParameter("must not be blank", param_hint="--why")
    with _ledger_errors():
        # Read first: a ledger that is not there must not be made by a decision about it.
        with _configured_ledger(create=False) as ledger:
            if all_unknown:
                keys = tuple(each.request_key for each in decisions.unknown_requests(ledger))
            if not keys:
                click.echo("No request is unknown.")
                return
            entries = decisions.concerned(ledger, keys, decision)
        images = sum(entry.samples for entry in entries)
        about = f"{_count(len(entries), 'request')} of {_count(images, 'image')}"
        buys = decision is decisions.Decision.RESUBMIT
        if not yes:
            will = f"Buy {about} once more?" if buys else f"Give up {about}?"
            click.confirm(will, abort=True)
        with _configured_ledger(create=True) as ledger:
            decide = decisions.resubmit if buys else decisions.forget
            decided = decide(
                ledger,
                # As they were shown: what became unknown meanwhile was not asked about.
                [entry.request_key for entry in entries],
                who=who or _user(),
                why=why,
            )
            sets = _sets_of(ledger, decided)
    what = "The next run buys" if buys else "No run buys"
    click.echo(f"{what} {about}.")
    for name in sets:
        click.echo(f"  materialize {name}" if buys else f"  in {name}")


def _sets_of(ledger: Ledger, entries: Iterable[Entry]) -> list[str]:
    from imagepipeline_dagster.generation.decisions import prompt_calls

    with ledger.reading() as connection:
        calls = prompt_calls(connection, [entry.request_key for entry in entries])
    names = {(call.dataset, call.prompt_set) for found in calls.values() for call in found}
    return [printable(f"{prompt_set} ({dataset})") for dataset, prompt_set in sorted(names)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise click.ClickException("The system names no user: say --who.") from error


# Lineage and replays


def _echo_lineage(image: ImageLineage) -> None:
    first = image.samples[0]
    click.echo(f"image {image.image_sha256}")
    _echo_fields(
        {
            "picture": f"{first.format}, {first.pixel_width} x {first.pixel_height} pixels, "
            f"{first.bytes or 0:,} bytes",
            "stored at": first.uri,
        }
    )
    for number, sample in enumerate(image.samples, start=1):
        of = f" {number} of {len(image.samples)} with these bytes" if len(image.samples) > 1 else ""
        click.echo(f"\nsample{of}")
        _echo_fields(_sample_fields(sample))


def _sample_fields(sample: SampleLineage) -> dict[str, str | list[str] | None]:
    index = "unknown" if sample.sample_index is None else str(sample.sample_index)
    emulated = " (emulator: nothing was paid)" if sample.emulated else ""
    return {
        "prompt": [_call_text(use.call) for use in sample.uses],
        "prompt row": list(dict.fromkeys(use.prompt_row for use in sample.uses)),
        "embedding": sample.embedding_version and f"version {sample.embedding_version}",
        "embedding row": list(
            dict.fromkeys(use.embedding_row for use in sample.uses if use.embedding_row)
        ),
        "request": f"{sample.task} {sample.request}",
        "request key": sample.request_key,
        "seed": f"{sample.seed}, sample {index} of {sample.samples} in its call (from 0)",
        "job": sample.job_id or "the API named none",
        "run": sample.run_id,
        "endpoint": sample.endpoint + emulated,
        "submitted": _moment(sample.submitted_at),
        "stored": _moment(sample.stored_at),
        "outcome": sample.outcome,
        "earlier": [
            f"attempt {each.attempt}: job {each.job_id or 'unknown'}, {each.failure}, "
            f"{_moment(each.ended_at)}, {each.error}"
            for each in sample.earlier
        ],
        "decided": [
            f"{_moment(each.decided_at)} {each.decision} by {each.who}: {each.why}"
            for each in sample.decisions
        ],
    }


def _as_json(image: ImageLineage) -> dict[str, Any]:
    found = dataclasses.asdict(image)
    for sample in found["samples"]:
        sample["request"] = json.loads(sample["request"])
        for use in sample["uses"]:
            use.update(use.pop("call"))
            for name in ("prompt_row", "embedding_row"):
                use[name] = json.loads(use[name]) if use[name] else None
    return found


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


_LIKENESS = {
    "identical_bytes": "identical, byte for byte",
    "identical_pixels": "identical pixels in other bytes",
    "visually_same": "not identical, but the same to the eye",
    "drifted": "another picture",
    "not_comparable": "not comparable",
}


def _echo_replay(report: ReplayReport) -> None:
    for comparison in report.comparisons:
        click.echo(f"sample {comparison.slot}: {_LIKENESS[comparison.likeness]}")
        _echo_fields(_comparison_fields(comparison))
    click.echo(f"\njob {printable(report.job_id or 'without an id')}")
    verdict = {
        "drifted": "The model drifted: the same request gives another picture now.",
        "not_comparable": "Nothing can be said about drift: there is no picture to compare.",
        "visually_same": "No drift to the eye, but the pixels are not the same any more.",
    }.get(report.likeness, "No drift: the same request still gives the same picture.")
    click.echo(verdict)


def _comparison_fields(comparison: Comparison) -> dict[str, str | list[str] | None]:
    then, now = comparison.original_size, comparison.size
    if then is None or now is None:
        return {
            "then": comparison.original_sha256 or "no picture",
            "now": comparison.image_sha256 or comparison.outcome,
        }
    mean = comparison.mean_difference
    return {
        "then": f"{comparison.original_sha256}, {then[0]} x {then[1]} pixels",
        "now": f"{comparison.image_sha256}, {now[0]} x {now[1]} pixels",
        "mean difference": "other size" if mean is None else f"{mean:.2f} of 255",
        "hash distance": f"{comparison.hash_distance} of 64 bits",
    }


# What they share


def _dataset(where: str | None) -> ImageDataset:
    """Return the dataset at MODULE:NAME, importable from the working folder; else the default."""
    from imagepipeline_dagster.defs.dataset import ImageDataset

    if where is None:
        return ImageDataset()
    module, _, name = where.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--dataset") from error
    if not isinstance(found, ImageDataset):
        raise click.BadParameter(f"{where} is no ImageDataset", param_hint="--dataset")
    return found


def _origin(api: ImagePipelineResource) -> str:
    try:
        return api.origin
    except ValueError as error:
        raise click.ClickException(f"IMAGEPIPELINE_BASE_URL: {error}") from error


@contextmanager
def _configured_ledger(*, create: bool) -> Iterator[Ledger]:
    from imagepipeline_dagster.environment import resources_on_command_line

    with _opened_ledger(resources_on_command_line(os.environ)["ledger"].url, create=create) as it:
        yield it


@contextmanager
def _opened_ledger(url: str, *, create: bool) -> Iterator[Ledger]:
    """Open the ledger; without `create` it is only read, and an absent one reads as empty."""
    from sqlalchemy.exc import SQLAlchemyError

    from imagepipeline_dagster.databases import shown_url
    from imagepipeline_dagster.generation.ledger import Ledger
    from imagepipeline_dagster.generation.ledger_schema import LedgerTooNew, LedgerTooOld

    try:
        ledger = Ledger(url, create=create)
    except ValueError as error:
        raise click.ClickException(f"The ledger's database: {error}") from error
    try:
        yield ledger
    except (LedgerTooNew, LedgerTooOld) as error:
        raise click.ClickException(f"{shown_url(url)}: {error}") from error
    except SQLAlchemyError as error:
        cause = printable(str(getattr(error, "orig", None) or error).strip())
        raise click.ClickException(
            f"The ledger at {shown_url(url)} cannot be used: {cause} "
            "Check that the database runs, and the URL in IMAGEPIPELINE_LEDGER_URL."
        ) from error
    finally:
        ledger.close()


@contextmanager
def _ledger_errors() -> Iterator[None]:
    from imagepipeline_dagster.api.errors import ImagePipelineError
    from imagepipeline_dagster.generation.budget import BudgetReached
    from imagepipeline_dagster.generation.decisions import DecisionRefused
    from imagepipeline_dagster.generation.lineage import ImageUnknown
    from imagepipeline_dagster.generation.replaying import OtherOrigin, ReplayFailed

    with plain_errors(
        BudgetReached, DecisionRefused, ImagePipelineError, ImageUnknown, OtherOrigin, ReplayFailed
    ):
        yield


def _echo_fields(fields: dict[str, str | list[str] | None]) -> None:
    """Print what there is of the fields, a line a value."""
    width = max(map(len, fields))
    for name, value in fields.items():
        values = [value] if isinstance(value, str) else value or []
        for label, text in zip([name] + [""] * len(values), values, strict=False):
            click.echo(f"  {label:<{width}}  {printable(text)}")


def _call_text(call: PromptCall) -> str:
    return f"{call.prompt_set} / {call.prompt_id}, call {call.call_index} of {call.dataset}"


def _moment(moment: dt.datetime | None) -> str | None:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else None


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
