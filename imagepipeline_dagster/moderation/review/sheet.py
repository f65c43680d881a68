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
from functools import partial
from importlib.resources import files

from markupsafe import Markup

from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.decisions import OVERRIDE_COLUMNS
from imagepipeline_dagster.moderation.review.samples import facts_of, most_urgent_first
from imagepipeline_dagster.moderation.verdicts import VERDICT_OF, ModeratedImage, Verdict
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnails
from imagepipeline_dagster.storage.contract import Storage


def review_sheet(
    images: Sequence[ModeratedImage],
    storage: Storage,
    *,
    title: str,
    reviewer: str = "NAME",
    table: str | None = None,
    dataset: str | None = None,
) -> str:
    """Return the sheet as HTML; what is not kept comes first.

    Args:
        images: a set's moderated samples.
        storage: where their thumbnails are.
        title: the sheet's title, any text.
        reviewer: stands in the ready-made commands.
        table: the table of decisions, where it is not the usual one.
        dataset: what the command line calls the dataset, where there are several.
    """
    command = ["imagepipeline-dagster", "override"]
    command += ["--dataset", dataset] if dataset else []
    command += ["--table", table] if table else []
    styles = (files(__package__).joinpath(name) for name in ("base.css", "sheet.css"))
    style = "".join(file.read_text("utf-8") for file in styles)
    shown = most_urgent_first(images)
    thumbnails = stored_thumbnails(storage, (image.image_sha256 for image in shown))
    return template("moderation/review/sheet.html.jinja").render(
        title=title,
        style=Markup(style),  # noqa: S704 - our own
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        from_file=shlex.join([*command, "--from", "FILE.csv"]),
        columns=",".join(OVERRIDE_COLUMNS),
        verdicts=list(Verdict),
        counts=Counter(image.verdict for image in images),
        samples=[
            (image, base64.b64encode(thumbnail).decode() if thumbnail else None)
            for image, thumbnail in zip(shown, thumbnails, strict=True)
        ],
        facts=_facts,
        decisions=partial(_decisions, override=command, reviewer=reviewer),
    )


def _facts(image: ModeratedImage) -> Iterator[str]:
    yield f"{image.verdict}: {image.moderation_reason}"
    yield from facts_of(image)
    if image.overridden_by is not None:
        yield f"by {image.overridden_by}: {image.override_reason}"


def _decisions(
    image: ModeratedImage, *, override: Sequence[str], reviewer: str
) -> Iterator[tuple[str, str]]:
    """Yield how each decision is recorded: the command, and the row of a file."""
    if image.image_sha256 is None:
        return
    for decision, verdict in VERDICT_OF.items():
        if verdict == image.verdict:
            continue
        command = [*override, decision, "--image", image.image_sha256]
        command += ["--who", reviewer, "--why", "WHY"]
        row = io.StringIO()
        values = (image.image_sha256, "", "", decision, reviewer, "WHY")
        csv.writer(row, lineterminator="").writerow(values)
        yield shlex.join(command), row.getvalue()
