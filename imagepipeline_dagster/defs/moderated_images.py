"""`moderated_images`: a verdict for every sample, from evidence; it costs nothing to make again."""

import time
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    contact_sheet_of,
    found_table,
    markdown_table,
    table_metadata,
)
from imagepipeline_dagster.generation.images import CIRCUMSTANCES, OPEN_OUTCOMES, GeneratedImage
from imagepipeline_dagster.generation.reconciling import PromptSetStates
from imagepipeline_dagster.moderation.verdicts import (
    ModeratedImage,
    Verdict,
    accounting_problems,
    moderate,
    summarise,
)
from imagepipeline_dagster.resources import LedgerResource, StorageResource
from imagepipeline_dagster.rows import arrow_table, content_hash, rows_of

__all__ = ["build_moderated_images"]

_PROBLEMS_SHOWN = 20


def build_moderated_images(dataset: ImageDataset) -> list[Any]:
    """Return the asset and its check."""

    @dg.asset(
        key=dataset.key("moderated_images"),
        ins={"generated_images": dg.AssetIn(dataset.key("generated_images"))},
        partitions_def=dataset.partitions,
        group_name=dataset.named("image_dataset"),
        kinds={"pandas", "parquet"},
        description="The verdicts: a row a sample asked for, kept, rejected or quarantined, and "
        "why. The pictures: Partitions, a prompt set, `contact_sheet`, where what is not kept is "
        "blurred.",
    )
    def moderated_images(
        generated_images: pd.DataFrame,
        storage: StorageResource,
    ) -> dg.MaterializeResult[pa.Table]:
        started = time.monotonic()
        images = moderate(rows_of(generated_images, GeneratedImage))
        counts = summarise(images)
        return dg.MaterializeResult(
            value=arrow_table(images, ModeratedImage),
            data_version=dg.DataVersion(content_hash(images, leave_out=CIRCUMSTANCES)),
            metadata={
                **table_metadata(ModeratedImage, len(images), started=started),
                "requested": counts.requested,
                "kept": counts.kept,
                "rejected": counts.rejected,
                "quarantined": counts.quarantined,
                "reasons": dg.MetadataValue.md(
                    markdown_table(["reason", "samples"], list(counts.by_reason.items()))
                ),
                "contact_sheet": contact_sheet_of(
                    images,
                    storage.open(),
                    [_mark(image) for image in images],
                ),
            },
        )

    @dg.asset_check(
        asset=dataset.key("moderated_images"),
        additional_ins={"prompt_sets": dg.AssetIn(dataset.key("prompt_sets"))},
        name="every_sample_is_accounted_for",
        partitions_def=dataset.partitions,
        blocking=True,
        description="Each row of the prompt set has as many rows here as it asks for samples.",
    )
    def every_sample_is_accounted_for(
        moderated_images: pd.DataFrame, prompt_sets: pd.DataFrame, ledger: LedgerResource
    ) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        asked = prompt_sets.groupby("prompt_id")["samples"].sum()
        problems = accounting_problems(
            {str(prompt_id): int(samples) for prompt_id, samples in asked.items()}, images
        )
        if not problems:
            # Here and not in the asset: only now are the rows stored for certain. What the set is
            # built from is what they say.
            with ledger.open() as opened:
                PromptSetStates(opened, dataset=dataset.name).note_built(
                    images[0].prompt_set,
                    content=images[0].content_version,
                    pending=sum(image.outcome in OPEN_OUTCOMES for image in images),
                )
        return dg.AssetCheckResult(
            passed=not problems,
            description=f"{len(images)} samples; {len(problems)} of {len(asked)} prompts have "
            "another number than they ask for",
            metadata=found_table(
                "problems", ["problem"], [[p] for p in problems[:_PROBLEMS_SHOWN]]
            ),
        )

    return [moderated_images, every_sample_is_accounted_for]


def _mark(image: ModeratedImage) -> str | None:
    if image.verdict == Verdict.KEPT:
        return None
    return f"{image.verdict}: {image.moderation_reason}"
