from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imagepipeline_dagster
from imagepipeline_dagster.release.dataset_release import ReleaseMissing, latest_release
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from tests.release.samples import kept_row, publish_rows

pytest_plugins = ["tests.s3"]


def test_a_release_is_read_in_a_notebook(tmp_path: Path) -> None:
    """`latest_release(storage)` gives the newest version, its files, and its rows."""
    storage = LocalFolder(tmp_path)
    publish_rows(storage, [kept_row(storage, 1)])
    publish_rows(storage, [kept_row(storage, number) for number in range(3)])
    release = imagepipeline_dagster.latest_release(str(tmp_path))
    assert isinstance(release, imagepipeline_dagster.DatasetRelease)
    assert (release.version, release.counts.kept) == ("v0002", 3)
    assert release.uri == (tmp_path / "releases/v0002").as_uri()
    assert Path(release.path, "README.md").is_file()
    assert {file.removeprefix(f"{release.uri}/") for file in release.files()} == {
        "CHANGES.md",
        "README.md",
        "changes.parquet",
        "contact_sheet.webp",
        "croissant.json",
        "parquet/README.md",
        release.manifest.shards[0].path,
    }
    assert release.as_arrow(["seed"]).to_pydict() == {"seed": [0, 1, 2]}


@pytest.mark.usefixtures("datasets")
def test_datasets_has_the_pictures(storage: LocalFolder) -> None:
    """`as_hf_dataset()` is a Hugging Face dataset whose images are Pillow's."""
    publish_rows(storage, [kept_row(storage, number) for number in range(2)])
    rows = latest_release(storage).as_hf_dataset()
    assert [row["prompt_id"] for row in rows] == ["p000", "p001"]
    assert all(isinstance(row["image"], Image.Image) for row in rows)


def test_a_release_in_a_bucket_is_read_the_same(s3_bucket: str) -> None:
    """Path and URI are those of the bucket, and the rows are there."""
    storage = open_storage(f"s3://{s3_bucket}/data")
    publish_rows(storage, [kept_row(storage, 1)], folder="foxes/releases")
    release = latest_release(storage, folder="foxes/releases")
    assert release.path == "foxes/releases/v0001"
    assert release.uri == f"s3://{s3_bucket}/data/foxes/releases/v0001"
    assert release.as_arrow()["prompt_id"].to_pylist() == ["p001"]


class Distant(LocalFolder):
    """A folder that is read as a bucket is: by bytes, with no path on this machine."""

    def uri_of(self, path: str) -> str:
        """Return a URI that is no file's."""
        return f"s3://distant/{path}"


def test_a_release_elsewhere_is_verified_in_little_memory(tmp_path: Path) -> None:
    """Its files are never in memory whole: they are copied to this machine's disk in parts."""
    storage = Distant(tmp_path / "data")
    noise = np.random.default_rng(1).integers(0, 256, (512, 512, 3), np.uint8)
    pictures = []
    for number in range(24):
        encoded = io.BytesIO()
        Image.fromarray(np.roll(noise, number)).save(encoded, "PNG", compress_level=0)
        pictures.append(encoded.getvalue())
    publish_rows(storage, [kept_row(storage, n, data=data) for n, data in enumerate(pictures)])
    release = latest_release(storage)
    [shard] = release.manifest.shards
    tracemalloc.start()
    try:
        assert problems_of(storage, release.manifest) == []
        assert release.as_arrow(["prompt_id"]).num_rows == len(pictures)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < shard.size / 4


def test_no_release_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    """Without a release the error names the folder."""
    with pytest.raises(ReleaseMissing, match=f"{tmp_path.as_uri()}/releases: materialize"):
        latest_release(str(tmp_path))
