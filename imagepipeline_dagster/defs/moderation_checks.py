"""The checks of `moderated_images` that are about what the verdicts say."""

from collections.abc import Collection, Sequence

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import contact_sheet_of, found_table
from imagepipeline_dagster.defs.stage import StageCheck
from imagepipeline_dagster.moderation.checks import (
    disagreements,
    judged_pictures,
    objections,
    repetitions,
    too_many_are_rejected,
    wrong_sizes,
)
from imagepipeline_dagster.moderation.policy import Rules
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.rows import StoredTable

_ROWS_SHOWN = 20


@StageCheck.of()
def sizes_are_as_asked(moderated_images: StoredTable) -> dg.AssetCheckResult:
    """Each picture has the width and height that its request asked for."""
    wrong = wrong_sizes(moderated_images.rows(ModeratedImage))
    rows = [
        [i.prompt_id, i.call_index, f"{i.pixel_width} x {i.pixel_height}", i.image_sha256]
        for i in wrong[:_ROWS_SHOWN]
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"pictures of another size than was asked for: {len(wrong)}",
        metadata=found_table("sizes", ["prompt_id", "call", "size", "image_sha256"], rows),
    )


@StageCheck.of(blocking=True)
def only_kept_passes_on(moderated_images: StoredTable) -> dg.AssetCheckResult:
    """Every kept sample has a picture and was checked, or a person or the policy decided.

    A release takes nothing else.
    """
    images = moderated_images.rows(ModeratedImage)
    problems = objections(image for image in images if image.verdict == Verdict.KEPT)
    shown = [[problem] for problem in problems[:_ROWS_SHOWN]]
    return dg.AssetCheckResult(
        passed=not problems,
        description=f"{len(problems)} samples were kept that must not be",
        metadata=found_table("problems", ["problem"], shown),
    )


@StageCheck.of(blocking=True)
def few_are_rejected(moderated_images: StoredTable, dataset: ImageDataset) -> dg.AssetCheckResult:
    """No larger share is rejected for what it shows than the policy allows.

    More is a sign that the model or the prompts went wrong. Sets of fewer than 20 always pass.
    """
    images, rules = _judged(moderated_images, dataset)
    judged, rejected = judged_pictures(images)
    limit = rules.max_rejected_share
    return dg.AssetCheckResult(
        passed=not too_many_are_rejected(images, rules),
        description=f"{rejected} of {judged} judged samples are rejected; "
        f"the policy allows {limit:.0%}",
        metadata={"judged": judged, "rejected": rejected, "limit": limit},
    )


@StageCheck.of()
def classifier_agrees_with_the_api(
    moderated_images: StoredTable, storage: StorageResource, dataset: ImageDataset
) -> dg.AssetCheckResult:
    """The classifier found nothing in pictures that the API's safety checker let pass.

    It looks at them where the policy says checked='classify'.
    """
    images, rules = _judged(moderated_images, dataset)
    compared, doubted = disagreements(images, rules)
    description = (
        f"the classifier doubts {len(doubted)} of {compared} pictures that the API let pass"
        if compared
        else "the classifier looked at no picture that the API let pass: nothing to compare"
    )
    rows = [[i.prompt_id, i.call_index, i.nsfw_score, i.image_sha256] for i in doubted]
    headers = ["prompt_id", "call", "score", "image_sha256"]
    return dg.AssetCheckResult(
        passed=not doubted,
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata={
            "compared": compared,
            **found_table("disagreements", headers, rows[:_ROWS_SHOWN]),
            **_pictures_of(doubted, storage),
        },
    )


@StageCheck.of()
def few_are_duplicates(moderated_images: StoredTable, dataset: ImageDataset) -> dg.AssetCheckResult:
    """Few pictures repeat another of their set."""
    images, rules = _judged(moderated_images, dataset)
    pictures, repeating = repetitions(images)
    rows = [[i.prompt_id, i.call_index, i.image_sha256, i.duplicate_of] for i in repeating]
    headers = ["prompt_id", "call", "image_sha256", "duplicate_of"]
    return dg.AssetCheckResult(
        passed=len(repeating) <= rules.max_duplicate_share * pictures,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(repeating)} of {pictures} pictures repeat another",
        metadata={
            "share": len(repeating) / pictures if pictures else 0.0,
            "near_duplicates_too": rules.near_duplicate_distance is not None,
            **found_table("duplicates", headers, rows[:_ROWS_SHOWN]),
        },
    )


VERDICT_CHECKS = (
    *(sizes_are_as_asked, only_kept_passes_on, few_are_rejected),
    *(classifier_agrees_with_the_api, few_are_duplicates),
)


def _judged(
    moderated_images: StoredTable, dataset: ImageDataset
) -> tuple[Collection[ModeratedImage], Rules]:
    """Return a set's samples, and the rules that its verdicts follow."""
    images = moderated_images.rows(ModeratedImage)
    return images, dataset.moderation.rules_for(next(iter(images)).prompt_set)


def _pictures_of(
    doubted: Sequence[ModeratedImage], storage: StorageResource
) -> dict[str, dg.MarkdownMetadataValue]:
    if not doubted:
        return {}
    marked = ((image, f"rejected: {image.nsfw_score}") for image in doubted)
    return {"pictures": contact_sheet_of(marked, storage.open(), count=len(doubted))}
