"""What the moderation of a set tells the UI: counts, and contact sheets by verdict."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.metadata import contact_sheet_of, shown_table
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict, summarise
from imagepipeline_dagster.storage.contract import Storage

# Name, and bytes of pictures: as base64, with the columns, an event stays under 48 kB.
_SHEETS = {
    Verdict.KEPT: ("contact_sheet", 9_000),
    Verdict.QUARANTINED: ("quarantined_pictures", 6_000),
    Verdict.REJECTED: ("rejected_pictures", 4_500),
}


def moderation_metadata(
    images: Collection[ModeratedImage],
    rules: Rules,
    storage: Storage,
    *,
    classified_now: int,
    small_sheets: bool,
) -> dict[str, Any]:
    """Return the event's metadata; sheets of verdicts that nothing has are left out."""
    counts = summarise(images)
    by_reason: Counter[tuple[str, str]] = Counter()
    classified = duplicates = 0
    for image in images:
        by_reason[image.verdict, image.moderation_reason] += 1
        classified += image.nsfw_score is not None
        duplicates += image.duplicate_of is not None
    metadata: dict[str, Any] = {
        "requested": counts.requested,
        "kept": counts.kept,
        "rejected": counts.rejected,
        "quarantined": counts.quarantined,
        "overridden": counts.overridden,
        "duplicates": duplicates,
        "reasons": shown_table(
            ["verdict", "reason", "samples"],
            [(*why, number) for why, number in by_reason.most_common()],
        ),
    }
    if classified or rules.classifies:
        metadata |= {"classified": classified, "classified_now": classified_now}
    for verdict, (name, byte_budget) in _SHEETS.items():
        count: int = getattr(counts, verdict)
        if count or verdict is Verdict.KEPT:
            metadata[name] = contact_sheet_of(
                ((image, _mark(image)) for image in images if image.verdict == verdict),
                storage,
                count=count,
                byte_budget=byte_budget,
                small=small_sheets,
            )
    # Last, as it is long and mostly the same.
    return metadata | {"policy": dg.MetadataValue.json(rules.model_dump())}


def _mark(image: ModeratedImage) -> str | None:
    if image.verdict == Verdict.KEPT:
        return None
    return f"{image.verdict}: {image.moderation_reason}"
