"""The samples of a set as sheet and page show them: in order, with their facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from imagepipeline_dagster.moderation.verdicts import (
    Decisions,
    ModeratedImage,
    Verdict,
    decision_about,
)
from imagepipeline_dagster.rows import parquet_table, rows_of
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import OverrideDecision

_URGENCY = {Verdict.QUARANTINED: 0, Verdict.REJECTED: 1, Verdict.KEPT: 2}


def most_urgent_first(images: Iterable[ModeratedImage]) -> list[ModeratedImage]:
    """Return the samples with what waits for a person before the rest, and the kept last."""
    return sorted(images, key=lambda image: _URGENCY[Verdict(image.verdict)])


def facts_of(image: ModeratedImage) -> Iterator[str]:
    """Yield what the evidence says beside verdict and reason."""
    if image.nsfw_score is not None:
        yield f"score {image.nsfw_score:.3f}"
    if image.duplicate_of is not None:
        yield f"repeats {image.duplicate_of[:12]}…"
    if image.carries_more is not None:
        yield image.carries_more
    if image.error is not None:
        yield image.error


def moderated_set(storage: Storage, path: str) -> list[ModeratedImage]:
    """Return the samples of a set with their verdicts, as they are stored at `path`.

    Raises:
        ObjectMissing: the set was not moderated yet.
    """
    return rows_of(parquet_table(storage.read(path)), ModeratedImage)


def sets_that_wait(
    storage: Storage, folder: str, decisions: Decisions
) -> Iterator[list[ModeratedImage]]:
    """Yield the sets below a folder with a picture that nobody decided about, one after another."""
    for path in storage.list(folder):
        images = moderated_set(storage, path)
        if any(_waits(image, decisions) for image in images):
            yield images


def _waits(image: ModeratedImage, decisions: Decisions) -> bool:
    if image.image_sha256 is None or image.verdict != Verdict.QUARANTINED:
        return False
    decided = decision_about(image, decisions)
    return decided is None or decided.decision is OverrideDecision.CLEAR
