"""What the moderation of a set tells the UI: counts, and contact sheets by verdict."""

from collections import Counter
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.metadata import contact_sheet_of, markdown_table
from imagepipeline_dagster.moderation.moderating import Moderation
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict, summarise
from imagepipeline_dagster.storage.contract import Storage

__all__ = ["moderation_metadata"]

# Bytes of pictures; as base64, with the columns, an event stays under 48 kB.
_SHEET_BYTES = {Verdict.KEPT: 9_000, Verdict.QUARANTINED: 6_000, Verdict.REJECTED: 4_500}
_SHEET_NAMES = {
    Verdict.KEPT: "contact_sheet",
    Verdict.QUARANTINED: "quarantined_pictures",
    Verdict.REJECTED: "rejected_pictures",
}


def moderation_metadata(
    moderation: Moderation, storage: Storage, *, small_sheets: bool
) -> dict[str, Any]:
    """Return the event's metadata; sheets of verdicts that nothing has are left out."""
    images = moderation.images
    counts = summarise(images)
    by_reason = Counter((image.verdict, image.moderation_reason) for image in images)
    classified = sum(image.nsfw_score is not None for image in images)
    rules = moderation.rules
    metadata: dict[str, Any] = {
        "requested": counts.requested,
        "kept": counts.kept,
        "rejected": counts.rejected,
        "quarantined": counts.quarantined,
        "overridden": sum(image.overridden_by is not None for image in images),
        "duplicates": sum(image.duplicate_of is not None for image in images),
        "reasons": dg.MetadataValue.md(
            markdown_table(
                ["verdict", "reason", "samples"],
                [(*why, number) for why, number in by_reason.most_common()],
            )
        ),
    }
    if classified or rules.classifies:
        metadata |= {"classified": classified, "classified_now": moderation.classified}
    for verdict, name in _SHEET_NAMES.items():
        shown = [image for image in images if image.verdict == verdict]
        if shown or verdict is Verdict.KEPT:
            marks_of = [_mark(image) for image in shown]
            metadata[name] = contact_sheet_of(
                shown,
                storage,
                marks_of,
                byte_budget=_SHEET_BYTES[verdict],
                small=small_sheets,
            )
    # Last, as it is long and mostly the same.
    return metadata | {"policy": dg.MetadataValue.json(rules.model_dump())}


def _mark(image: ModeratedImage) -> str | None:
    if image.verdict == Verdict.KEPT:
        return None
    return f"{image.verdict}: {image.moderation_reason}"
