"""`hub_dataset`: the newest release on the Hugging Face Hub, where the policy says so."""

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.release.dataset_release import DatasetRelease
from imagepipeline_dagster.release.hub import HubRefused, publish_to_hub


def build_hub_dataset(dataset: ImageDataset) -> list[dg.AssetsDefinition]:
    """Return the asset, where the dataset is published."""
    repo = dataset.release.publish_to
    if repo is None:
        return []

    @dg.asset(
        key=dataset.key("hub_dataset"),
        ins={"image_dataset": dg.AssetIn(dataset.key("image_dataset"))},
        kinds={"huggingface"},
        description=f"The newest release at the Hugging Face Hub: {repo}, a tag a version.",
    )
    def hub_dataset(image_dataset: DatasetRelease) -> dg.MaterializeResult[None]:
        try:
            published = publish_to_hub(image_dataset.storage, image_dataset.manifest, repo)
        except HubRefused as error:
            raise dg.Failure(str(error)) from error
        return dg.MaterializeResult(
            data_version=dg.DataVersion(image_dataset.manifest.fingerprint),
            metadata={
                "dagster/uri": published.url,
                "page": dg.MetadataValue.url(published.url),
                "version": published.version,
                "new_version": published.created,
            },
        )

    return [hub_dataset]
