"""`imagepipeline-dagster lineage` and `replay`: where an image comes from, and the same again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster.cli.configured import (
    chosen_dataset,
    configured_ledger,
    dataset_option,
    opened_ledger,
)
from imagepipeline_dagster.cli.ledger import call_text
from imagepipeline_dagster.cli.terminal import (
    count_of,
    echo_fields,
    json_lines,
    moment,
    plain_errors,
    printable,
    shown_id,
)

if TYPE_CHECKING:
    from imagepipeline_dagster.ledger.lineage import ImageLineage, SampleLineage
    from imagepipeline_dagster.purchase.likeness import Comparison
    from imagepipeline_dagster.purchase.replay import ReplayReport

__all__ = ["lineage", "replay"]


@click.command(short_help="Show which row, request and job made an image.")
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def lineage(*, image: str, as_json: bool) -> None:
    """Show where an image comes from: prompt, request, seed, job and run.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    """
    from imagepipeline_dagster.ledger.lineage import lineage_of

    with plain_errors(), configured_ledger(create=False) as ledger:
        found = lineage_of(ledger, image)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2, default=_json_value))
    else:
        _echo_lineage(found)


@click.command(short_help="Buy an image's request again, and compare.")
@click.argument("image")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--elsewhere", is_flag=True, help="Ask another API than the one that made the image.")
@dataset_option
def replay(*, image: str, yes: bool, elsewhere: bool, dataset: str | None) -> None:
    """Buy an image's request again, and tell whether the same picture comes.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    Nothing of the original changes. A replay that was interrupted is brought to its end.
    """
    from imagepipeline_dagster.environment import resources_on_command_line
    from imagepipeline_dagster.ledger.lineage import lineage_of
    from imagepipeline_dagster.purchase.replay import Replay

    with plain_errors():
        chosen = chosen_dataset(dataset)
        resources = resources_on_command_line(os.environ)
        api, url = resources["imagepipeline"], resources["ledger"].url
        origin = api.origin
        with opened_ledger(url, create=False) as ledger:
            found = lineage_of(ledger, image)
        with opened_ledger(url, create=True) as ledger:
            again = Replay(
                found,
                ledger=ledger,
                origin=origin,
                emulated=api.emulated,
                elsewhere=elsewhere,
            )
            if not (yes or api.emulated):
                click.confirm(f"This buys {count_of(again.images, 'image')}. Go on?", abort=True)
            report = again.carry_out(
                storage=resources["storage"].open(),
                open_client=api.open,
                settings=api.purchase_settings,
                allowance=chosen.allowance(origin),
                run_id=f"replay-{uuid.uuid4()}",
            )
    _echo_replay(report)


def _echo_lineage(image: ImageLineage) -> None:
    first = image.samples[0]
    click.echo(f"image {image.image_sha256}")
    echo_fields(
        {
            "picture": f"{first.format}, {first.pixel_width} x {first.pixel_height} pixels, "
            f"{first.bytes or 0:,} bytes",
            "stored at": first.uri,
        }
    )
    for number, sample in enumerate(image.samples, start=1):
        of = f" {number} of {len(image.samples)} with these bytes" if len(image.samples) > 1 else ""
        click.echo(f"\nsample{of}")
        echo_fields(_sample_fields(sample))


def _sample_fields(sample: SampleLineage) -> dict[str, str | list[str] | None]:
    index = "unknown" if sample.sample_index is None else str(sample.sample_index)
    emulated = " (emulator: nothing was paid)" if sample.emulated else ""
    return {
        "prompt": [call_text(use.call) for use in sample.uses],
        "prompt row": _rows_lines(use.prompt_row for use in sample.uses),
        "embedding": sample.embedding_version and f"version {sample.embedding_version}",
        "embedding row": _rows_lines(use.embedding_row for use in sample.uses),
        "task": sample.task,
        "request": json_lines(sample.request),
        "request key": sample.request_key,
        "seed": f"{sample.seed}, sample {index} of {sample.samples} in its call (from 0)",
        "job": shown_id(sample.job_id) if sample.job_id else "the API named none",
        "run": sample.run_id,
        "endpoint": sample.endpoint + emulated,
        "submitted": moment(sample.submitted_at),
        "stored": moment(sample.stored_at),
        "outcome": sample.outcome,
        "earlier": [
            f"attempt {each.attempt}: job {shown_id(each.job_id or 'unknown')}, {each.failure}, "
            f"{moment(each.ended_at)}, {each.error}"
            for each in sample.earlier
        ],
        "decided": [
            f"{moment(each.decided_at)} {each.decision} by {each.who}: {each.why}"
            for each in sample.decisions
        ],
    }


def _rows_lines(rows: Iterable[str | None]) -> list[str]:
    """Return the fields of different rows, an empty line between two of them."""
    lines: list[str] = []
    for row in dict.fromkeys(filter(None, rows)):
        lines += [*([""] if lines else []), *json_lines(row)]
    return lines


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
        echo_fields(_comparison_fields(comparison))
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
