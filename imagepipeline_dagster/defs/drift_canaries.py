"""`drift_canaries`: pinned pictures bought again on a schedule, and the check that compares."""

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.defs.metadata import found_table
from imagepipeline_dagster.defs.resource_keys import with_resources_of
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.purchase.canaries import buy_canaries, drift_of, look_at_canaries
from imagepipeline_dagster.resources import ImagePipelineResource, LedgerResource, StorageResource


def build_drift_canaries(dataset: ImageDataset) -> list[dg.AssetsDefinition]:
    """Return the asset that buys the canaries, and its check; nothing where none is pinned."""
    pinned = dataset.canaries.images
    if not pinned:
        return []
    key = dataset.key("drift_canaries")

    @dg.asset(
        key=key,
        pool=dataset.api_pool,
        kinds={"imagepipeline"},
        description=f"{len(pinned)} pinned pictures, whose requests are bought again at most once "
        "a day, within the budget.",
    )
    @with_resources_of(dataset)
    def drift_canaries(
        context: dg.AssetExecutionContext,
        imagepipeline: ImagePipelineResource,
        ledger: LedgerResource,
        storage: StorageResource,
    ) -> dg.MaterializeResult[None]:
        with ledger.open() as opened:
            means = dataset.means(imagepipeline, opened, storage.open(), run_id=context.run.run_id)
            try:
                buy_canaries(pinned, means, approval=dataset.approval, today=opened.today())
            except CorrectableError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
        return dg.MaterializeResult(metadata={"canaries": len(pinned)})

    @dg.asset_check(
        asset=key,
        name="model_has_not_drifted",
        description="The pinned pictures' requests still give the same pictures, to the eye.",
    )
    @with_resources_of(dataset)
    def model_has_not_drifted(
        ledger: LedgerResource, storage: StorageResource
    ) -> dg.AssetCheckResult:
        with ledger.open() as opened:
            looks = look_at_canaries(pinned, opened, storage.open())
        drift = drift_of(looks)
        headers = ["image", "likeness", "bought", "drifted since"]
        rows = [[look.image, look.likeness, look.looked_at, look.drifted_since] for look in looks]
        return dg.AssetCheckResult(
            passed=drift is None,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"since {drift.since:%Y-%m-%d} the model gives other pictures for "
            f"{drift.drifted} of {len(looks)} canaries"
            if drift
            else f"none of {len(looks)} canaries has drifted",
            metadata=found_table("canaries", headers, rows),
        )

    return [drift_canaries, model_has_not_drifted]
