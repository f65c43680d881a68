"""`image_dataset`: the kept images of all prompt sets as a versioned release."""

import datetime as dt
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import (
    column_schema,
    contact_sheet_of,
    found_table,
    markdown_table,
    seconds_since,
)
from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.moderation.verdicts import ModeratedImage, Verdict
from imagepipeline_dagster.release.publish import NothingToRelease, latest_release, publish
from imagepipeline_dagster.release.shards import fingerprint, shard_schema
from imagepipeline_dagster.resources import StorageResource
from imagepipeline_dagster.rows import rows_of

__all__ = ["build_image_dataset"]

_PROBLEMS_SHOWN = 20
# Beside a contact sheet there is no room for every set of a large dataset.
_COUNTS_BYTES = 4_000


def build_image_dataset(dataset: ImageDataset) -> list[Any]:
    """Return the asset and its checks."""
    key = dataset.key("image_dataset")
    ins = {"moderated_images": dg.AssetIn(dataset.key("moderated_images"))}

    @dg.asset(
        key=key,
        ins=ins,
        group_name=dataset.named("image_dataset"),
        kinds={"parquet", "huggingface"},
        description="The release: the kept images of all prompt sets with their lineage, as an "
        "immutable version. Published once a day, or when materialized here.",
    )
    def image_dataset(
        context: dg.AssetExecutionContext,
        moderated_images: dict[str, pd.DataFrame],
        storage: StorageResource,
    ) -> dg.MaterializeResult[Any]:
        started = time.monotonic()
        images = _images(moderated_images)
        kept = [image for image in images if image.verdict == Verdict.KEPT]
        try:
            release = publish(
                storage.open(),
                name=dataset.title,
                images=images,
                run_id=context.run.run_id,
                created_at=dt.datetime.now(dt.UTC),
                folder=dataset.releases,
            )
        except NothingToRelease as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        return dg.MaterializeResult(
            data_version=dg.DataVersion(release.fingerprint),
            metadata={
                "dagster/uri": f"{storage.open().uri}/{release.path}",
                "dagster/row_count": release.counts.kept,
                "dagster/column_schema": column_schema(shard_schema()),
                "seconds": seconds_since(started),
                "version": release.version,
                "new_version": release.created,
                "emulated": bool(release.emulated),
                "prompt_sets": dg.MetadataValue.md(
                    markdown_table(
                        ["prompt set", "requested", "kept", "rejected", "quarantined"],
                        [
                            (name, c.requested, c.kept, c.rejected, c.quarantined)
                            for name, c in release.prompt_sets.items()
                        ],
                        most_bytes=_COUNTS_BYTES,
                    )
                ),
                "contact_sheet": contact_sheet_of(kept, storage.open(), [None] * len(kept)),
            },
        )

    @dg.asset_check(
        asset=key,
        additional_ins=ins,
        name="nothing_unchecked",
        blocking=True,
        description="Every released image was checked for safety, or a person decided.",
    )
    def nothing_unchecked(moderated_images: dict[str, pd.DataFrame]) -> dg.AssetCheckResult:
        kept = [image for image in _images(moderated_images) if image.verdict == Verdict.KEPT]
        unchecked = objections(kept)
        return dg.AssetCheckResult(
            passed=not unchecked,
            description=f"{len(unchecked)} of {len(kept)} images are unchecked",
            metadata=found_table(
                "problems", ["problem"], [[p] for p in unchecked[:_PROBLEMS_SHOWN]]
            ),
        )

    @dg.asset_check(
        asset=key,
        additional_ins=ins,
        name="only_kept_is_released",
        blocking=True,
        description="The newest release holds the kept images, all of them and no others.",
    )
    def only_kept_is_released(
        moderated_images: dict[str, pd.DataFrame], storage: StorageResource
    ) -> dg.AssetCheckResult:
        kept = [image for image in _images(moderated_images) if image.verdict == Verdict.KEPT]
        release = latest_release(storage.open(), dataset.releases)
        return dg.AssetCheckResult(
            passed=release is not None and release.fingerprint == fingerprint(kept),
            description=f"{release.version if release else 'no release'}; {len(kept)} images kept",
        )

    return [image_dataset, nothing_unchecked, only_kept_is_released]


def _images(tables: Mapping[str, pd.DataFrame]) -> list[ModeratedImage]:
    """Return the rows of all prompt sets, in the order of their names."""
    return [
        image for _, table in sorted(tables.items()) for image in rows_of(table, ModeratedImage)
    ]
