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
from html import escape
from string import Template

from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, thumbnail_path
from imagepipeline_dagster.tables.overrides import OverrideDecision

__all__ = ["OVERRIDE_COLUMNS", "review_sheet"]

OVERRIDE_COLUMNS = ("image_sha256", "prompt_set", "prompt_id", "decision", "reviewer", "reason")
"""The columns of a file of decisions."""

_LARGEST_THUMBNAIL = 100_000  # bytes; ours have at most a tenth of it
_VERDICT_OF = {
    OverrideDecision.KEEP: Verdict.KEPT,
    OverrideDecision.REJECT: Verdict.REJECTED,
    OverrideDecision.QUARANTINE: Verdict.QUARANTINED,
}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px; color: #2b3440; background: #f5f6f8; }
nav label { display: inline-block; margin: 0 8px 16px 0; padding: 5px 12px; border-radius: 14px;
  background: #e3e6eb; cursor: pointer; }
nav input { position: absolute; opacity: 0; }
nav label:has(:checked) { background: #2b3440; color: #fff; }
nav label:has(:focus-visible) { outline: 3px solid #6aa4ff; }
body:has(#only-kept:checked) article:not(.kept),
body:has(#only-rejected:checked) article:not(.rejected),
body:has(#only-quarantined:checked) article:not(.quarantined) { display: none; }
article { display: flex; gap: 18px; margin: 0 0 14px; padding: 14px; background: #fff;
  border-radius: 8px; border-left: 6px solid #1f7a4d; }
article.rejected { border-color: #b3261e; } article.quarantined { border-color: #9a5b00; }
.picture { flex: none; width: 160px; text-align: center; overflow: hidden; }
.picture img { max-width: 160px; max-height: 160px; }
.picture input { position: absolute; opacity: 0; }
.flagged img { filter: blur(18px); clip-path: inset(0); cursor: pointer; }
.flagged input:checked ~ img { filter: none; }
.flagged:has(:focus-visible) { outline: 3px solid #6aa4ff; }
.none { display: block; padding: 60px 8px; background: #e3e6eb; }
.text { min-width: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 4px; } p { margin: 0 0 6px; }
article p { white-space: pre-wrap; }
code { display: block; margin: 2px 0 8px; padding: 5px 8px; background: #f0f1f4; user-select: all;
  white-space: pre-wrap; }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p>$counts. What is not kept is blurred until it is clicked. To decide, run a command below, or
collect the CSV rows in a file under the line
<code>$columns</code>and run <code>imagepipeline-dagster override --from FILE.csv</code></p>
<nav>$filters</nav>
<main>
$articles
</main>
</body>
</html>
""")


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
    urgency = {Verdict.QUARANTINED: 0, Verdict.REJECTED: 1, Verdict.KEPT: 2}
    ordered = sorted(images, key=lambda image: urgency[Verdict(image.verdict)])
    counts = Counter(image.verdict for image in images)
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return _PAGE.substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        style=_STYLE,
        title=_shown(title),
        counts=", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict),
        columns=",".join(OVERRIDE_COLUMNS),
        filters="".join(_filters(counts, len(images))),
        articles="\n".join(_article(image, storage, reviewer, table) for image in ordered),
    )


def _filters(counts: Counter[str], total: int) -> Iterator[str]:
    yield _filter("all", total, checked=True)
    for verdict in Verdict:
        yield _filter(verdict, counts[verdict], checked=False)


def _filter(name: str, number: int, *, checked: bool) -> str:
    state = " checked" if checked else ""
    return (
        f'<label><input type="radio" name="only" id="only-{name}"{state}>{name} ({number})</label>'
    )


def _article(image: ModeratedImage, storage: Storage, reviewer: str, table: str | None) -> str:
    verdict = Verdict(image.verdict)
    facts = [f"{verdict}: {image.moderation_reason}"]
    if image.nsfw_score is not None:
        facts.append(f"score {image.nsfw_score:.3f}")
    if image.duplicate_of is not None:
        facts.append(f"repeats {image.duplicate_of[:12]}…")
    if image.overridden_by is not None:
        facts.append(f"by {image.overridden_by}: {image.override_reason}")
    if image.error is not None:
        facts.append(image.error)
    place = f"{image.prompt_id} · call {image.call_index} · sample {image.sample_index}"
    return (
        f'<article class="{verdict}">{_picture(image, storage)}<div class="text">'
        f"<h2>{_shown(place)}</h2><p>{_shown(' · '.join(facts))}</p>"
        f"<p>{_shown(image.prompt or '')}</p>{_decisions(image, reviewer, table)}</div></article>"
    )


def _picture(image: ModeratedImage, storage: Storage) -> str:
    thumbnail = _thumbnail(image, storage)
    if thumbnail is None:
        return '<div class="picture"><span class="none">no picture</span></div>'
    source = f"data:image/webp;base64,{base64.b64encode(thumbnail).decode()}"
    if image.verdict == Verdict.KEPT:
        return f'<div class="picture"><img alt="kept" src="{source}"></div>'
    return (
        '<label class="picture flagged"><input type="checkbox" aria-label="show the picture">'
        f'<img alt="{image.verdict}" src="{source}"></label>'
    )


def _thumbnail(image: ModeratedImage, storage: Storage) -> bytes | None:
    if image.image_sha256 is None:
        return None
    try:
        found = storage.read(thumbnail_path(image.image_sha256))
    except ObjectMissing:
        return None
    # Only what this package makes itself: whatever else lies there is not shown.
    is_webp = found[:4] == b"RIFF" and found[8:12] == b"WEBP"
    return found if is_webp and len(found) <= _LARGEST_THUMBNAIL else None


def _decisions(image: ModeratedImage, reviewer: str, table: str | None) -> str:
    if image.image_sha256 is None:
        return ""
    shown = []
    for decision in OverrideDecision:
        if _VERDICT_OF[decision] == image.verdict:
            continue
        command = ["imagepipeline-dagster", "override", decision, "--image", image.image_sha256]
        command += ["--table", table] if table else []
        command += ["--reviewer", reviewer, "--reason", "WHY"]
        row = io.StringIO()
        values = (image.image_sha256, "", "", decision, reviewer, "WHY")
        csv.writer(row, lineterminator="").writerow(values)
        shown.append(
            f"<code>{_shown(shlex.join(command))}</code><code>{_shown(row.getvalue())}</code>"
        )
    # A thumbnail may be too small to decide by.
    whole = f"<p>The whole picture:</p><code>{_shown(image.uri)}</code>" if image.uri else ""
    return f"<details><summary>Decide</summary>{whole}{''.join(shown)}</details>"


def _shown(text: str) -> str:
    """Return the text for HTML; what could turn the reading direction round shows as a box."""
    plain = "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)
    return escape(plain, quote=True)
