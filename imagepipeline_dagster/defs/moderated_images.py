"""`moderated_images`: a verdict for every sample, from evidence; it costs nothing to make again."""

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import column_metadata, found_table, table_metadata
from imagepipeline_dagster.defs.moderation_checks import verdict_checks
from imagepipeline_dagster.defs.moderation_metadata import moderation_metadata
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import Made, StageCheck, build_checks
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.checks import accounting_problems
from imagepipeline_dagster.moderation.moderating import moderate_set
from imagepipeline_dagster.moderation.states import VerdictStates
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.purchase.images import CIRCUMSTANCES, GeneratedImage
from imagepipeline_dagster.resources import LedgerResource, StorageResource, TablesResource
from imagepipeline_dagster.rows import content_hash, rows_of
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override
from imagepipeline_dagster.watching.states import PromptSetStates

__all__ = ["build_moderated_images", "check_moderated_images", "moderate", "record_built"]

_PROBLEMS_SHOWN = 20
# The basis is in the data version as the rules alone: overrides show in the rows they are about.
_NO_CONTENT = CIRCUMSTANCES | {"moderation_basis"}


def moderate(
    dataset: ImageDataset,
    prompt_set: str,
    images: Sequence[GeneratedImage],
    *,
    overrides: Sequence[Override],
    ledger: Ledger,
    storage: Storage,
    small_sheets: bool = False,
) -> Made[ModeratedImage]:
    """Give each sample of one prompt set its verdict."""
    started = time.monotonic()
    moderation = moderate_set(
        images,
        prompt_set=prompt_set,
        dataset=dataset.name,
        policy=dataset.moderation,
        overrides=overrides,
        ledger=ledger,
        storage=storage,
    )
    content = content_hash(moderation.images, leave_out=_NO_CONTENT)
    return Made(
        rows=moderation.images,
        row_type=ModeratedImage,
        data_version=f"{content}-{moderation.rules.digest[:8]}",
        metadata={
            **table_metadata(dataset, "moderated_images", len(moderation.images), started=started),
            **moderation_metadata(moderation, storage, small_sheets=small_sheets),
        },
    )


def record_built(dataset: ImageDataset, images: Sequence[ModeratedImage], ledger: Ledger) -> None:
    """Record what a set whose verdicts are stored was built from: what they say."""
    prompt_set = images[0].prompt_set
    PromptSetStates(ledger, dataset=dataset.name).record_built(
        prompt_set,
        content=images[0].content_version,
        pending=sum(image.is_open for image in images),
    )
    VerdictStates(ledger, dataset=dataset.name).record_built(
        prompt_set, str(images[0].moderation_basis)
    )


def check_moderated_images(dataset: ImageDataset) -> list[StageCheck]:
    """Return the checks."""

    def every_sample_is_accounted_for(
        moderated_images: pd.DataFrame, prompt_sets: pd.DataFrame
    ) -> dg.AssetCheckResult:
        images = rows_of(moderated_images, ModeratedImage)
        asked = prompt_sets.groupby("prompt_id")["samples"].sum()
        problems = accounting_problems(
            {str(prompt_id): int(samples) for prompt_id, samples in asked.items()}, images
        )
        return dg.AssetCheckResult(
            passed=not problems,
            description=f"{len(images)} samples; {len(problems)} of {len(asked)} prompts have "
            "another number than they ask for",
            metadata=found_table(
                "problems", ["problem"], [[p] for p in problems[:_PROBLEMS_SHOWN]]
            ),
        )

    return [
        StageCheck(
            name="every_sample_is_accounted_for",
            description="Each row of the prompt set has as many rows here as it asks for samples.",
            look=every_sample_is_accounted_for,
            blocking=True,
        ),
        *verdict_checks(dataset),
    ]


def build_moderated_images(dataset: ImageDataset) -> list[Any]:
    """Return the asset and its checks."""

    @dg.success_hook(
        name=dataset.named("record_what_was_moderated"),
        required_resource_keys={dataset.resource("ledger")},
    )
    def record_what_was_moderated(context: dg.HookContext) -> None:
        # Called once the rows are stored: they say what the set is built from.
        stored: Any = context.op_output_values["result"]
        ledger: LedgerResource = getattr(context.resources, dataset.resource("ledger"))
        with ledger.open() as opened:
            record_built(dataset, rows_of(stored, ModeratedImage), opened)

    @dg.asset(
        key=dataset.key("moderated_images"),
        ins={"generated_images": dg.AssetIn(dataset.key("generated_images"))},
        partitions_def=dataset.partitions,
        io_manager_key=dataset.resource("io_manager"),
        group_name=dataset.group_name or dataset.named("image_dataset"),
        kinds={"pandas", "parquet"},
        metadata=column_metadata(dataset, "moderated_images"),
        hooks={record_what_was_moderated},
        description="The verdicts: a row a sample asked for, kept, rejected or quarantined, and "
        "why. The pictures: Partitions, a prompt set, `contact_sheet`, where what is not kept is "
        "blurred.",
    )
    @with_resources_of(dataset)
    def moderated_images(
        context: dg.AssetExecutionContext,
        generated_images: pd.DataFrame,
        storage: StorageResource,
        ledger: LedgerResource,
        tables: TablesResource,
    ) -> dg.MaterializeResult[pa.Table]:
        with ledger.open() as opened:
            return moderate(
                dataset,
                prompt_set_of(context.partition_key),
                rows_of(generated_images, GeneratedImage),
                overrides=tables.overrides(dataset.overrides),
                ledger=opened,
                storage=storage.open(),
            ).result()

    checks = build_checks(dataset, "moderated_images", check_moderated_images(dataset))
    return [moderated_images, checks]
