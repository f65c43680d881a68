"""The checks of `moderated_images` that are about what the verdicts say."""

from typing import Any

import dagster as dg
import pandas as pd

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import contact_sheet_of, found_table
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.moderation.checks import (
    FEW,
    disagreements,
    judged_pictures,
    objections,
    repetitions,
    too_many_are_rejected,
    wrong_sizes,
)
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.rows import rows_of

__all__ = ["build_moderation_checks"]

_ROWS_SHOWN = 20


def build_moderation_checks(dataset: ImageDataset) -> list[Any]:
    """Return the checks."""
    asset = dataset.key("moderated_images")
    partitions = dataset.partitions

    @dg.asset_check(
        asset=asset,
        name="only_kept_passes_on",
        partitions_def=partitions,
        blocking=True,
        description="Every kept sample has a picture and was checked, or a person or the policy "
        "decided; a release takes nothing else.",
    )
    def only_kept_passes_on(moderated_images: pd.DataFrame) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        problems = objections(image for image in images if image.verdict == Verdict.KEPT)
        shown = [[problem] for problem in problems[:_ROWS_SHOWN]]
        return dg.AssetCheckResult(
            passed=not problems,
            description=f"{len(problems)} samples were kept that must not be",
            metadata=found_table("problems", ["problem"], shown),
        )

    @dg.asset_check(
        asset=asset,
        name="few_are_rejected",
        partitions_def=partitions,
        blocking=True,
        description="No larger share is rejected for what it shows than the policy allows. More is "
        f"a sign that the model or the prompts went wrong. Sets of fewer than {FEW} always pass.",
    )
    def few_are_rejected(moderated_images: pd.DataFrame) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        judged, rejected = judged_pictures(images)
        rules = dataset.moderation.rules_for(images[0].prompt_set)
        limit = rules.max_rejected_share
        return dg.AssetCheckResult(
            passed=not too_many_are_rejected(images, rules),
            description=f"{rejected} of {judged} judged samples are rejected; "
            f"the policy allows {limit:.0%}",
            metadata={"judged": judged, "rejected": rejected, "limit": limit},
        )

    @dg.asset_check(
        asset=asset,
        name="classifier_agrees_with_the_api",
        partitions_def=partitions,
        description="The classifier found nothing in pictures that the API's safety checker let "
        "pass. It looks at them where the policy says checked='classify'.",
    )
    @with_resources_of(dataset)
    def classifier_agrees_with_the_api(
        moderated_images: pd.DataFrame, storage: StorageResource
    ) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        rules = dataset.moderation.rules_for(images[0].prompt_set)
        compared, doubted = disagreements(images, rules)
        description = (
            f"the classifier doubts {len(doubted)} of {len(compared)} pictures that the API let "
            "pass"
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
                "compared": len(compared),
                **found_table("disagreements", headers, rows[:_ROWS_SHOWN]),
                **(
                    {
                        "pictures": contact_sheet_of(
                            doubted, storage.open(), [f"rejected: {i.nsfw_score}" for i in doubted]
                        )
                    }
                    if doubted
                    else {}
                ),
            },
        )

    @dg.asset_check(
        asset=asset,
        name="few_are_duplicates",
        partitions_def=partitions,
        description="The share of pictures that repeat another of their set.",
    )
    def few_are_duplicates(moderated_images: pd.DataFrame) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        rules = dataset.moderation.rules_for(images[0].prompt_set)
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

    @dg.asset_check(
        asset=asset,
        name="sizes_are_as_asked",
        partitions_def=partitions,
        description="Each picture has the width and height that its request asked for.",
    )
    def sizes_are_as_asked(moderated_images: pd.DataFrame) -> dg.AssetCheckResult:
        wrong = wrong_sizes(rows_of(moderated_images, ModeratedImage))
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

    return [
        sizes_are_as_asked,
        only_kept_passes_on,
        few_are_rejected,
        classifier_agrees_with_the_api,
        few_are_duplicates,
    ]
