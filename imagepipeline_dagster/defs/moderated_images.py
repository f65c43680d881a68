"""`moderated_images`: a verdict for every sample, from evidence; it costs nothing to make again."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import column_metadata, found_table, table_metadata
from imagepipeline_dagster.defs.moderation_checks import VERDICT_CHECKS
from imagepipeline_dagster.defs.moderation_metadata import moderation_metadata
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.defs.stage import SHARD_RETRIES, Made, StageCheck, build_checks
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.moderation.checks import accounting_problems
from imagepipeline_dagster.moderation.moderating import measure, moderate_set
from imagepipeline_dagster.moderation.states import VerdictStates
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.partition_names import prompt_set_of
from imagepipeline_dagster.planning.shards import Shard, shards_of
from imagepipeline_dagster.purchase.images import CIRCUMSTANCES, GeneratedImage
from imagepipeline_dagster.resources import LedgerResource, StorageResource, TablesResource
from imagepipeline_dagster.rows import StoredTable, content_hash
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import Override
from imagepipeline_dagster.watching.states import PromptSetStates

_PROBLEMS_SHOWN = 20
# The basis is in the data version as the rules alone: overrides show in the rows they are about.
_NO_CONTENT = CIRCUMSTANCES | {"moderation_basis"}


def moderate(
    dataset: ImageDataset,
    prompt_set: str,
    images: Iterable[GeneratedImage],
    *,
    overrides: Sequence[Override],
    ledger: Ledger,
    storage: Storage,
    small_sheets: bool = False,
) -> Made:
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
    table = StoredTable.of(moderation.images, ModeratedImage)
    rows = table.rows(ModeratedImage)
    content = content_hash(rows, leave_out=_NO_CONTENT)
    return Made(
        table=table,
        data_version=f"{content}-{moderation.rules.digest[:8]}",
        metadata={
            **table_metadata(len(rows), started=started),
            **moderation_metadata(
                rows,
                moderation.rules,
                storage,
                classified_now=moderation.classified,
                small_sheets=small_sheets,
            ),
        },
    )


def record_built(dataset: ImageDataset, images: Iterable[ModeratedImage], ledger: Ledger) -> None:
    """Record what a set whose verdicts are stored was built from: what they say."""
    first = next(iter(images))
    PromptSetStates(ledger, dataset=dataset.name).record_built(
        first.prompt_set,
        content=first.content_version,
        pending=sum(image.is_open for image in images),
    )
    VerdictStates(ledger, dataset=dataset.name).record_built(
        first.prompt_set, str(first.moderation_basis)
    )


@StageCheck.of(blocking=True)
def every_sample_is_accounted_for(
    moderated_images: StoredTable, prompt_sets: StoredTable
) -> dg.AssetCheckResult:
    """Each row of the prompt set has as many rows here as it asks for samples."""
    asked = Counter[str]()
    for prompt_id, samples in prompt_sets.values("prompt_id", "samples"):
        asked[prompt_id] += samples
    problems = accounting_problems(asked, moderated_images.rows(ModeratedImage))
    return dg.AssetCheckResult(
        passed=not problems,
        description=f"{moderated_images.num_rows} samples; {len(problems)} of {len(asked)} "
        "prompts have another number than they ask for",
        metadata=found_table("problems", ["problem"], [[p] for p in problems[:_PROBLEMS_SHOWN]]),
    )


MODERATED_IMAGES_CHECKS = (every_sample_is_accounted_for, *VERDICT_CHECKS)


def build_moderated_images(dataset: ImageDataset, *, in_shards: bool) -> list[dg.AssetsDefinition]:
    """Return the asset and its checks.

    The asset is a graph of one step, which looks at the pictures and gives the verdicts. With
    `in_shards`, and where the policy looks at pictures, those of a large set are looked at before
    it, in steps that the executor can run side by side.
    """
    looks = any(
        rules.classifies or rules.near_duplicate_distance is not None
        for rules in dataset.moderation.possible_rules
    )
    give_verdicts = _op_for_set(dataset).with_hooks({_hook_after_set(dataset)})

    @dg.graph_asset(
        key=dataset.key("moderated_images"),
        ins={"generated_images": dg.AssetIn(dataset.key("generated_images"))},
        partitions_def=dataset.partitions,
        kinds={"arrow", "parquet"},
        metadata=column_metadata(dataset, "moderated_images"),
        description="The verdicts: a row a sample asked for, kept, rejected or quarantined, and "
        "why. The pictures: Partitions, a prompt set, `contact_sheet`, where what is not kept is "
        "blurred.",
    )
    def moderated_images(generated_images: Any) -> Any:  # noqa: ANN401
        if not (looks and in_shards):
            return give_verdicts(generated_images)
        look_at_shard = _op_for_shard(dataset)
        shards = _op_that_names_shards(dataset)(generated_images)
        looked_at = shards.map(lambda shard: look_at_shard(generated_images, shard=shard))
        return give_verdicts(generated_images, looked_at=looked_at.collect())

    checks = build_checks(dataset, "moderated_images", MODERATED_IMAGES_CHECKS)
    return [moderated_images, checks]


def _op_that_names_shards(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("shards_to_look_at"),
        out=dg.DynamicOut(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        description="Names the shards of a large set.",
    )
    def shards_to_look_at(generated_images: StoredTable) -> Iterator[dg.DynamicOutput[None]]:
        shards = shards_of(generated_images.num_rows, shard_rows=dataset.shard_rows)
        for shard in shards if len(shards) > 1 else []:
            yield dg.DynamicOutput(None, mapping_key=shard.key)

    return shards_to_look_at


def _op_for_shard(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("look_at_shard"),
        ins={"shard": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing, io_manager_key=dataset.resource("io_manager")),
        retry_policy=SHARD_RETRIES,
        description="Measures the pictures of one shard: scores and hashes, each once for ever.",
    )
    @with_resources_of(dataset)
    def look_at_shard(
        context: dg.OpExecutionContext,
        generated_images: StoredTable,
        storage: StorageResource,
        ledger: LedgerResource,
    ) -> None:
        shard = Shard.of_key(str(context.get_mapping_key()))
        with ledger.open() as opened:
            measured = measure(
                shard.rows(generated_images, GeneratedImage),
                dataset.moderation,
                prompt_set=prompt_set_of(context.partition_key),
                ledger=opened,
                storage=storage.open(),
            )
        context.add_output_metadata({"classified_now": measured.computed})

    return look_at_shard


def _op_for_set(dataset: ImageDataset) -> dg.OpDefinition:
    @dg.op(
        name=dataset.named("give_verdicts"),
        ins={"looked_at": dg.In(dg.Nothing)},
        out=dg.Out(io_manager_key=dataset.resource("io_manager")),
        description="Gives each sample its verdict, and stores the table.",
    )
    @with_resources_of(dataset)
    def give_verdicts(
        context: dg.AssetExecutionContext,
        generated_images: StoredTable,
        storage: StorageResource,
        ledger: LedgerResource,
        tables: TablesResource,
    ) -> dg.Output[StoredTable]:
        with ledger.open() as opened:
            return moderate(
                dataset,
                prompt_set_of(context.partition_key),
                generated_images.rows(GeneratedImage),
                overrides=tables.overrides(dataset.overrides),
                ledger=opened,
                storage=storage.open(),
            ).output(context)

    return give_verdicts


def _hook_after_set(dataset: ImageDataset) -> dg.HookDefinition:
    @dg.success_hook(
        name=dataset.named("record_what_was_moderated"),
        required_resource_keys={dataset.resource("ledger")},
    )
    def record_what_was_moderated(context: dg.HookContext) -> None:
        # Called once the rows are stored: they say what the set is built from.
        stored: Any = context.op_output_values["result"]
        ledger: LedgerResource = getattr(context.resources, dataset.resource("ledger"))
        with ledger.open() as opened:
            record_built(dataset, stored.rows(ModeratedImage), opened)

    return record_what_was_moderated
