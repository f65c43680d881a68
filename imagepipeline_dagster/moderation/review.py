"""The sheet that a person reviews a set on: one HTML file, without a script and without a link.

Everything is in the file: thumbnails as `data:` pictures, styles, and the command or CSV row that
records each decision. Blurring and filtering are done by check boxes and CSS alone, and the policy
in its head forbids every script, so no prompt can run one.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.decisions import OVERRIDE_COLUMNS
from imagepipeline_dagster.moderation.verdicts import VERDICT_OF, ModeratedImage, Verdict
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, thumbnail_path

__all__ = ["review_sheet"]

_LARGEST_THUMBNAIL = 100_000  # bytes; ours have at most a tenth of it
_URGENCY = {Verdict.QUARANTINED: 0, Verdict.REJECTED: 1, Verdict.KEPT: 2}


@dataclass(frozen=True, slots=True)
class _Decision:
    """How a decision is recorded: the command, or the row of a file."""

    command: str
    row: str


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the sheet shows of a sample; `thumbnail` is base64."""

    image: ModeratedImage
    thumbnail: str | None
    facts: list[str]
    decisions: list[_Decision]


def review_sheet(
    images: Sequence[ModeratedImage],
    storage: Storage,
    *,
    title: str,
    reviewer: str = "NAME",
    table: str | None = None,
) -> str:
    """Return the sheet as HTML; what is not kept comes first.

    Args:
        images: a set's moderated samples.
        storage: where their thumbnails are.
        title: the sheet's title, any text.
        reviewer: stands in the ready-made commands.
        table: the table of decisions, where it is not the usual one.
    """
    ordered = sorted(images, key=lambda image: _URGENCY[Verdict(image.verdict)])
    style = files(__package__).joinpath("review.css").read_text("utf-8")
    return template("moderation/review.html.jinja").render(
        title=title,
        style=Markup(style),  # noqa: S704 - our own
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        columns=",".join(OVERRIDE_COLUMNS),
        verdicts=list(Verdict),
        counts=Counter(image.verdict for image in images),
        samples=[
            _Sample(
                image,
                _thumbnail(image, storage),
                list(_facts(image)),
                list(_decisions(image, reviewer, table)),
            )
            for image in ordered
        ],
    )


def _facts(image: ModeratedImage) -> Iterator[str]:
    yield f"{image.verdict}: {image.moderation_reason}"
    if image.nsfw_score is not None:
        yield f"score {image.nsfw_score:.3f}"
    if image.duplicate_of is not None:
        yield f"repeats {image.duplicate_of[:12]}…"
    if image.carries_more is not None:
        yield image.carries_more
    if image.overridden_by is not None:
        yield f"by {image.overridden_by}: {image.override_reason}"
    if image.error is not None:
        yield image.error


def _thumbnail(image: ModeratedImage, storage: Storage) -> str | None:
    if image.image_sha256 is None:
        return None
    try:
        data = storage.read(thumbnail_path(image.image_sha256))
    except ObjectMissing:
        return None
    # Only what this package makes itself: whatever else lies there is not shown.
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    shown = is_webp and len(data) <= _LARGEST_THUMBNAIL
    return base64.b64encode(data).decode() if shown else None


def _decisions(image: ModeratedImage, reviewer: str, table: str | None) -> Iterator[_Decision]:
    if image.image_sha256 is None:
        return
    for decision, verdict in VERDICT_OF.items():
        if verdict == image.verdict:
            continue
        command = ["imagepipeline-dagster", "override", decision, "--image", image.image_sha256]
        command += ["--table", table] if table else []
        command += ["--reviewer", reviewer, "--why", "WHY"]
        row = io.StringIO()
        values = (image.image_sha256, "", "", decision, reviewer, "WHY")
        csv.writer(row, lineterminator="").writerow(values)
        yield _Decision(shlex.join(command), row.getvalue())
