"""The formats of a release, each read by a reader that we did not write."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from imagepipeline_dagster.release.dataset_release import (
    PicturesElsewhere,
    latest_release,
    releases_in,
)
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import kept_row, picture, publish_rows

SPLITS = {"train": 0.5, "test": 0.5}
EVERYTHING = ReleasePolicy(
    formats=("parquet", "webdataset", "imagefolder", "lance"), splits=SPLITS, max_lost_share=1
)
PROMPTS = 12


@pytest.fixture(scope="module")
def load_dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Return Hugging Face's loader, cut off from the hub and from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        import datasets  # type: ignore[import-untyped] # it has no types

        yield datasets.load_dataset


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a release of 12 pictures in two splits and three formats."""
    storage = LocalFolder(tmp_path_factory.mktemp("storage"))
    rows = [
        kept_row(storage, n, prompt=f"train at a test station, {n}", prompt_set="test set")
        for n in range(PROMPTS)
    ]
    publish_rows(storage, rows, policy=EVERYTHING)
    return Path(latest_release(storage).path)


@pytest.mark.parametrize("name", ["parquet", "webdataset", "imagefolder"])
def test_each_folder_loads_by_itself_and_by_split(
    released: Path, load_dataset: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    """`load_dataset(folder)` gives both splits with the pictures as they were bought."""
    loaded = load_dataset(str(released / name), cache_dir=str(tmp_path))
    assert set(loaded) == set(SPLITS)
    assert sum(len(rows) for rows in loaded.values()) == PROMPTS
    for split, rows in loaded.items():
        for row in rows:
            lineage = row["json"] if name == "webdataset" else row
            shown = row["png" if name == "webdataset" else "image"]
            assert lineage["split"] == split
            original = Image.open(io.BytesIO(picture(lineage["seed"])))
            assert shown.tobytes() == original.tobytes()
    streamed = load_dataset(str(released / name), split="test", streaming=True)
    assert len(list(streamed)) == len(loaded["test"])


def test_the_root_loads_too(released: Path, load_dataset: Callable[..., Any]) -> None:
    """The release's own card leads to the Parquet files of both splits."""
    assert set(load_dataset(str(released))) == set(SPLITS)


def test_no_name_holds_a_word_of_a_prompt(released: Path) -> None:
    """Prompts and sets with "train" or "test" in them make no file name."""
    names = [path.name for path in released.rglob("*")]
    assert not [name for name in names if "station" in name or "test set" in name]


def test_a_tar_is_read_at_random_by_its_index(released: Path) -> None:
    """The index says where each picture lies in the tar, and what its caption is."""
    for split in SPLITS:
        tar = released / f"webdataset/{split}-00000.tar"
        data = tar.read_bytes()
        index = json.loads(tar.with_suffix(".index.json").read_text())
        with tarfile.open(tar) as opened:
            members = {Path(member.name).stem for member in opened}
        assert members == {entry["key"] for entry in index}
        for entry in index:
            number = int(entry["caption"].rpartition(" ")[2])
            found = data[entry["offset"] : entry["offset"] + entry["size"]]
            assert found.endswith(picture(number)[-60:]), "its pixels; a stamp is before them"
            assert found.startswith(picture(number)[:33])


def test_the_image_folder_has_a_table_of_its_files(released: Path) -> None:
    """Each row names a file that is there; the same picture of two prompts is two files."""
    for split in SPLITS:
        folder = released / "imagefolder" / split
        table = pd.read_parquet(folder / "metadata.parquet")
        assert table["file_name"].is_unique
        assert all((folder / name).is_file() for name in table["file_name"])


def test_other_readers_read_the_parquet_files(released: Path) -> None:
    """Pandas and DuckDB read the folder of Parquet files as one table."""
    import duckdb

    folder = released / "parquet/data"
    assert len(pd.read_parquet(folder)) == PROMPTS
    query = f"SELECT count(*) FROM '{folder}/*.parquet'"  # noqa: S608
    assert duckdb.sql(query).fetchone() == (PROMPTS,)


def test_nothing_tells_of_the_makers_folders(released: Path) -> None:
    """No file of any format names a folder of the machine that made it."""
    home = os.fsencode(released.parent.parent)
    assert [p for p in released.rglob("*") if p.is_file() and home in p.read_bytes()] == []


def test_the_same_picture_of_two_prompts_is_two_rows(tmp_path: Path) -> None:
    """An image folder loses no row where two prompts share their bytes."""
    storage = LocalFolder(tmp_path)
    rows = [kept_row(storage, number, data=picture(1)) for number in (1, 2)]
    publish_rows(storage, rows, policy=EVERYTHING.model_copy(update={"splits": {"train": 1.0}}))
    folder = Path(latest_release(storage).path, "imagefolder/train")
    assert (
        len({(folder / n).name for n in pd.read_parquet(folder / "metadata.parquet")["file_name"]})
        == 2
    )


def links_of(folder: Path) -> dict[str, int]:
    """Return how many names each picture's file has, by its own."""
    return {path.name: path.stat().st_nlink for path in folder.rglob("*.png")}


@pytest.fixture
def scattered(tmp_path: Path) -> LocalFolder:
    """Return a storage with two releases as image folders; every fourth picture changed."""
    storage = LocalFolder(tmp_path / "storage")
    alone = EVERYTHING.changed(formats=("imagefolder",))
    rows = [kept_row(storage, n, prompt_set=f"set {n % 3}") for n in range(PROMPTS)]
    publish_rows(storage, rows, policy=alone)
    rows[::4] = [kept_row(storage, 100 + n, prompt_set=f"set {n % 3}") for n in range(3)]
    publish_rows(storage, rows[:-1], policy=alone)
    return storage


def test_scattered_changes_cost_what_changed(
    scattered: LocalFolder, load_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    """An image folder alone writes new pictures only, and loads and compares as others do."""
    release = latest_release(scattered)
    assert problems_of(scattered, release.manifest) == []
    assert release.manifest.marks == {"stamped": PROMPTS - 1}
    assert not (Path(release.path) / "parquet").exists()
    links = links_of(Path(release.path))
    assert sorted(links.values()) == [1] * 3 + [2] * (PROMPTS - 4)
    table = release.as_arrow()
    assert {PurePosixPath(str(name)).name for name in table["file_name"].to_pylist()} == set(links)
    for here in (release.path, f"{release.path}/imagefolder"):
        loaded = load_dataset(here, cache_dir=str(tmp_path / "cache"))
        rows = [row for split in loaded.values() for row in split]
        assert len(rows) == PROMPTS - 1
        for row in rows:
            original = Image.open(io.BytesIO(picture(row["seed"])))
            assert row["image"].tobytes() == original.tobytes()
    kinds = [change.change for change in release.changes_since(releases_in(scattered)[0])]
    assert sorted(kinds) == ["added"] * 3 + ["removed"] * 4
    with pytest.raises(PicturesElsewhere, match="is an image folder"):
        release.as_hf_dataset()


def test_rows_without_pictures_validate_as_croissant(scattered: LocalFolder) -> None:
    """The description of an image folder names no column that its table lacks."""
    release = latest_release(scattered)
    described = json.loads((Path(release.path) / "croissant.json").read_text())
    names = {field["name"] for field in described["recordSet"][0]["field"]}
    assert names < set(release.as_arrow().column_names)
    pattern = described["distribution"][-1]["includes"]
    assert {path.name for path in Path(release.path).glob(pattern)} == {
        PurePosixPath(file.path).name for file in release.manifest.shards
    }
