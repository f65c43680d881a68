"""`imagepipeline-dagster lineage` and `replay`: where an image comes from, and the same again."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from imagepipeline_dagster import io_manager
from imagepipeline_dagster.cli.configured import configured_ledger, on_dataset, resources_of
from imagepipeline_dagster.cli.ledger import call_text
from imagepipeline_dagster.cli.terminal import (
    Answer,
    agree,
    count_of,
    field_lines,
    json_lines,
    moment,
    shown_id,
    yes_option,
)
from imagepipeline_dagster.ledger import lineage as traces
from imagepipeline_dagster.ledger import records
from imagepipeline_dagster.partition_names import partition_key
from imagepipeline_dagster.purchase import replay as replaying
from imagepipeline_dagster.release import fates as image_fates
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.spelling import quoted

if TYPE_CHECKING:
    from imagepipeline_dagster.defs.dataset import ImageDataset
    from imagepipeline_dagster.ledger.lineage import ImageLineage, RequestUse, SampleLineage
    from imagepipeline_dagster.ledger.requests import Ledger
    from imagepipeline_dagster.ledger.uses import Use
    from imagepipeline_dagster.purchase.likeness import Comparison
    from imagepipeline_dagster.purchase.replay import ReplayReport


@click.command()
@click.argument("image", required=False)
@click.option("--prompt", metavar="SET/ID", help="What came of a row of the prompts table.")
@click.option("--embedding", metavar="ID", help="What came of an embedding.")
@on_dataset
def lineage(
    *,
    image: str | None,
    prompt: str | None,
    embedding: str | None,
    dataset: ImageDataset,
) -> Answer:
    """Show where an image comes from and where it went: prompt, request, job, verdict, releases.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    The other way round, --prompt and --embedding show each request, and the images that came.
    """
    if [image, prompt, embedding].count(None) != 2:
        raise click.UsageError("Give an image, --prompt or --embedding.")
    if prompt is not None and "/" not in prompt:
        raise click.BadParameter(
            f"{prompt!r} is no SET/ID, such as spring/boat", param_hint="--prompt"
        )

    resources = resources_of(dataset)
    storage = resources["storage"].open()
    with configured_ledger(dataset, create=False) as ledger:
        if image is None:
            uses = uses_named(ledger, prompt, embedding)
            images = {sha256 for of in uses for sha256 in of.images}
            sets = {of.use.prompt_set for of in uses}
            stored = [sample for of in uses for sample in of.entry.stored]
        else:
            traced = traces.lineage_of(ledger, image)
            images = {traced.image_sha256}
            sets = {use.prompt_set for of in traced.samples for use in of.uses}
            stored = [of.sample for of in traced.samples]
    withdrawn = [str(of.image_sha256) for of in stored if of.outcome == records.Outcome.WITHDRAWN]
    fates = _fates(dataset, storage, sets, images, withdrawn)
    if image is None:
        return Answer([_request_as_json(of, fates) for of in uses], _uses_lines(uses, fates))
    fate = fates[traced.image_sha256]
    told = [_sample_as_json(of) for of in traced.samples]
    facts = {"image_sha256": traced.image_sha256, "samples": told} | fate
    return Answer(facts, _lineage_lines(traced, fate))


def uses_named(ledger: Ledger, prompt: str | None, embedding: str | None) -> list[RequestUse]:
    """Return the uses of a prompt, as SET/ID, or of an embedding."""
    if prompt is None:
        return traces.uses_of_embedding(ledger, embedding or "")
    # A slash may stand in either name; the first split that the ledger knows is meant.
    parts = prompt.split("/")
    for place in range(1, len(parts)):
        if uses := traces.uses_of_prompt(ledger, "/".join(parts[:place]), "/".join(parts[place:])):
            return uses
    return []


_Fates = dict[str, dict[str, list[str]]]
"""By image, its `verdicts` and the `releases` that it is in."""


def _fates(
    dataset: ImageDataset,
    storage: Storage,
    prompt_sets: Collection[str],
    images: Collection[str],
    withdrawn: Collection[str],
) -> _Fates:
    """Return verdicts and releases of each image.

    A set's table does not know yet what was withdrawn since it was moderated.
    """
    key = dataset.key("moderated_images")
    tables = [io_manager.table_path(key, partition_key(name)) for name in sorted(prompt_sets)]
    releases = image_fates.releases_with(storage, dataset.releases, images) if images else {}
    verdicts: dict[str, list[str]] = {}
    for of in image_fates.verdicts_in(storage, tables, images):
        text = f"{quoted(of.prompt_set, of.prompt_id)}: {of.verdict} ({of.moderation_reason})"
        if of.overridden_by is not None:
            text += f", decided by {of.overridden_by}: {of.override_reason}"
        verdicts.setdefault(of.image_sha256, []).append(text)
    verdicts |= {image: ["rejected (withdrawn)"] for image in withdrawn}
    return {
        image: {"verdicts": verdicts.get(image, []), "releases": releases.get(image, [])}
        for image in images
    }


def _uses_lines(uses: Sequence[RequestUse], fates: _Fates) -> Iterator[str]:
    if not uses:
        yield "The ledger knows no request of it: nothing was asked for yet."
    for of in uses:
        use, entry = of
        emulated = " (emulator)" if entry.emulated else ""
        yield f"request {entry.request_key}: {entry.state}{emulated}"
        yield from field_lines(
            {
                "prompt": call_text(use),
                "used": moment(use.used_at),
                "request": json_lines(entry.request),
                "embedding": entry.embedding_version and f"version {entry.embedding_version}",
                "job": shown_id(entry.job_id) if entry.job_id else None,
                "run": use.run_id,
                "error": entry.error,
                "images": [_image_text(sha256, fates[sha256]) for sha256 in of.images],
            }
        )


def _image_text(sha256: str, fate: Mapping[str, list[str]]) -> str:
    releases = f", in {', '.join(fate['releases'])}" if fate["releases"] else ""
    return f"{sha256} {'; '.join(fate['verdicts']) or 'not moderated'}{releases}"


def _request_as_json(of: RequestUse, fates: _Fates) -> dict[str, Any]:
    return {
        **_use_as_json(of.use),
        **fields_of(
            of.entry, "request_key", "state", "error", "embedding_version", "job_id", "emulated"
        ),
        "request": json.loads(of.entry.request),
        "images": [{"image_sha256": sha256, **fates[sha256]} for sha256 in of.images],
    }


def _use_as_json(use: Use) -> dict[str, Any]:
    return {
        **fields_of(use, "dataset", "prompt_set", "prompt_id", "call_index", "run_id", "used_at"),
        "prompt_row": json.loads(use.prompt_row),
        "embedding_row": json.loads(use.embedding_row) if use.embedding_row else None,
    }


@click.command()
@click.argument("image")
@yes_option
@click.option("--elsewhere", is_flag=True, help="Ask another API than the one that made the image.")
@on_dataset
def replay(*, image: str, yes: bool, elsewhere: bool, dataset: ImageDataset) -> Answer:
    """Buy an image's request again, and tell whether the same picture comes.

    IMAGE is a SHA-256 or the first eight or more of its digits, a file, or a file:// or s3:// URI.
    Nothing of the original changes. A replay that was interrupted is brought to its end.
    """
    resources = resources_of(dataset)
    api = resources["imagepipeline"]
    with configured_ledger(dataset, create=False) as ledger:
        original = traces.lineage_of(ledger, image)
    with configured_ledger(dataset, create=True) as ledger:
        storage = resources["storage"].open()
        means = dataset.means(api, ledger, storage, run_id=f"replay-{uuid.uuid4()}")
        again = replaying.Replay(original, means, elsewhere=elsewhere)
        agree(f"This buys {count_of(again.images, 'image')}. Go on?", yes=yes or api.emulated)
        report = again.carry_out()
    facts = {**dataclasses.asdict(report), "likeness": report.likeness}
    return Answer(facts, _replay_lines(report))


def _lineage_lines(image: ImageLineage, fate: Mapping[str, list[str]]) -> Iterator[str]:
    first = image.samples[0].sample
    yield f"image {image.image_sha256}"
    yield from field_lines(
        {
            "picture": f"{first.format}, {first.pixel_width} x {first.pixel_height} pixels, "
            f"{first.bytes or 0:,} bytes",
            "stored at": first.uri,
            "verdict": fate["verdicts"] or "not moderated",
            "releases": ", ".join(fate["releases"]) or "none",
        }
    )
    for number, traced in enumerate(image.samples, start=1):
        of = f" {number} of {len(image.samples)} with these bytes" if len(image.samples) > 1 else ""
        yield f"\nsample{of}"
        yield from field_lines(_sample_fields(traced))


def _sample_fields(traced: SampleLineage) -> dict[str, str | list[str] | None]:
    sample, entry, job = traced.sample, traced.entry, traced.job
    index = "unknown" if sample.sample_index is None else str(sample.sample_index)
    emulated = " (emulator: nothing was paid)" if entry.emulated else ""
    return {
        "prompt": [call_text(use) for use in traced.uses],
        "prompt row": _rows_lines(use.prompt_row for use in traced.uses),
        "embedding": entry.embedding_version and f"version {entry.embedding_version}",
        "embedding row": _rows_lines(use.embedding_row for use in traced.uses),
        "task": entry.task,
        "request": json_lines(entry.request),
        "request key": entry.request_key,
        "seed": f"{traced.seed}, sample {index} of {entry.samples} in its call (from 0)",
        "job": shown_id(job.job_id) if job.job_id else "the API named none",
        "run": job.run_id,
        "endpoint": entry.endpoint + emulated,
        "submitted": moment(job.submitted_at),
        "stored": moment(sample.stored_at),
        "outcome": sample.outcome,
        "earlier": [
            f"attempt {attempt.attempt}: job {shown_id(attempt.job_id or 'unknown')}, "
            f"{attempt.failure}, {moment(attempt.ended_at)}, {attempt.error}"
            for attempt in traced.earlier
        ],
        "decided": [
            f"{moment(decided.decided_at)} {decided.decision} by {decided.who}: {decided.why}"
            for decided in traced.decisions
        ],
    }


def _rows_lines(rows: Iterable[str | None]) -> list[str]:
    """Return the fields of different rows, an empty line between two of them."""
    lines: list[str] = []
    for row in dict.fromkeys(filter(None, rows)):
        lines += [*([""] if lines else []), *json_lines(row)]
    return lines


_OF_REQUEST = ("request_key", "task", "embedding_version", "samples", "endpoint", "emulated")
_OF_SAMPLE = (
    *("slot", "sample_index", "outcome", "stored_at", "uri", "format"),
    *("pixel_width", "pixel_height", "bytes"),
)


def _sample_as_json(of: SampleLineage) -> dict[str, Any]:
    return {
        **fields_of(of.entry, *_OF_REQUEST),
        **fields_of(of.sample, *_OF_SAMPLE),
        **fields_of(of.job, "job_id", "run_id", "submitted_at"),
        "seed": of.seed,
        "request": json.loads(of.entry.request),
        "uses": [_use_as_json(use) for use in of.uses],
        "earlier": [dataclasses.asdict(attempt) for attempt in of.earlier],
        "decisions": [dataclasses.asdict(decision) for decision in of.decisions],
    }


_LIKENESS = {
    "identical_bytes": "identical, byte for byte",
    "identical_pixels": "identical pixels in other bytes",
    "visually_same": "not identical, but the same to the eye",
    "drifted": "another picture",
    "not_comparable": "not comparable",
}


def _replay_lines(report: ReplayReport) -> Iterator[str]:
    for comparison in report.comparisons:
        yield f"sample {comparison.slot}: {_LIKENESS[comparison.likeness]}"
        yield from field_lines(_comparison_fields(comparison))
    yield f"\njob {report.job_id or 'without an id'}"
    yield {
        "drifted": "The model drifted: the same request gives another picture now.",
        "not_comparable": "Nothing can be said about drift: there is no picture to compare.",
        "visually_same": "No drift to the eye, but the pixels are not the same any more.",
    }.get(report.likeness, "No drift: the same request still gives the same picture.")


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
