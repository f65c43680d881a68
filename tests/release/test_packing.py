"""The formats of a release, each read by a reader that we did not write."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import lance
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imagepipeline_dagster.release import pictures
from imagepipeline_dagster.release.dataset_release import (
    PicturesElsewhere,
    latest_release,
    releases_in,
)
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import EVERYTHING, HALVES, kept_row, picture, publish_rows

PROMPTS = 12


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a release of 12 pictures in two splits and three formats."""
    storage = LocalFolder(tmp_path_factory.mktemp("storage"))
    rows = [
        kept_row(storage, n, prompt=f"train at a test station, {n}", prompt_set="test set")
        for n in range(PROMPTS)
    ]
    publish_rows(storage, rows, policy=HALVES)
    return Path(latest_release(storage).path)


@pytest.mark.parametrize("name", [".", "parquet", "webdataset", "imagefolder"])
def test_each_folder_loads_by_itself_and_by_split(
    released: Path,
    datasets: Any,  # noqa: ANN401 - it has no types
    name: str,
    tmp_path: Path,
) -> None:
    """`load_dataset(folder)` gives both splits with the pictures as they were bought."""
    loaded = datasets.load_dataset(str(released / name), cache_dir=str(tmp_path))
    assert set(loaded) == set(HALVES.splits)
    assert sum(len(rows) for rows in loaded.values()) == PROMPTS
    for split, rows in loaded.items():
        for row in rows:
            lineage = row["json"] if name == "webdataset" else row
            shown = row["png" if name == "webdataset" else "image"]
            assert lineage["split"] == split
            original = Image.open(io.BytesIO(picture(lineage["seed"])))
            assert shown.tobytes() == original.tobytes()
    streamed = datasets.load_dataset(str(released / name), split="test", streaming=True)
    assert len(list(streamed)) == len(loaded["test"])


def test_no_name_holds_a_word_of_a_prompt(released: Path) -> None:
    """Prompts and sets with "train" or "test" in them make no file name."""
    names = [path.name for path in released.rglob("*")]
    assert not [name for name in names if "station" in name or "test set" in name]


def test_the_described_features_are_the_columns(
    released: Path,
    datasets: Any,  # noqa: ANN401 - it has no types
) -> None:
    """What `datasets` is told of the columns is what they are."""
    dataset = datasets.load_dataset(str(released), split="train")
    schema = pq.read_schema(next(released.glob("parquet/data/*.parquet")))
    assert {name: str(feature.dtype) for name, feature in dataset.features.items()} == {
        field.name: {
            "double": "float64",
            "struct<bytes: binary, path: string>": "PIL.Image.Image",
        }.get(str(field.type), str(field.type))
        for field in schema
    }


@pytest.mark.usefixtures("datasets")
def test_the_cards_own_lines_run(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of loading that the cards show works as it stands, and mixes no splits."""
    monkeypatch.chdir(released)
    snippets = re.findall(r"```python\n(.+?)```", Path("README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, names)  # noqa: S102 - the card's own lines
    assert names["images"][1]["image"].size == names["picture"].size == (24, 24)
    assert names["lineage"].column_names == ["prompt_set", "prompt_id", "seed", "request"]
    assert names["lineage"].num_rows == PROMPTS
    assert set(names["images"]["split"]) == {"train"}
    for card in released.glob("*/README.md"):
        first, *others = re.findall(r"```python\n(.+?)```", card.read_text(), re.DOTALL)
        exec(first, names)  # noqa: S102 - the card's own lines
        assert set(names["images"]) == set(HALVES.splits)
        for snippet in others:
            exec(snippet, names)  # noqa: S102


def test_nothing_tells_of_the_makers_folders(released: Path) -> None:
    """No file of any format names a folder of the machine that made it."""
    home = os.fsencode(released.parent.parent)
    assert [p for p in released.rglob("*") if p.is_file() and home in p.read_bytes()] == []


def test_the_same_picture_of_two_prompts_is_two_rows(tmp_path: Path) -> None:
    """An image folder loses no row where two prompts share their bytes."""
    storage = LocalFolder(tmp_path)
    rows = [kept_row(storage, number, data=picture(1)) for number in (1, 2)]
    publish_rows(storage, rows, policy=EVERYTHING)
    folder = Path(latest_release(storage).path, "imagefolder/train")
    assert (
        len({(folder / n).name for n in pd.read_parquet(folder / "metadata.parquet")["file_name"]})
        == 2
    )


@pytest.mark.parametrize("gone", ["picture", "picture and file", "file"])
def test_what_is_lost_is_in_no_format(gone: str, tmp_path: Path) -> None:
    """A format that could take a lost picture over from the former release lacks it as others do.

    Where a file of the former release is gone, none that is taken over stands in no list.
    """
    storage = LocalFolder(tmp_path / "storage")
    rows = [kept_row(storage, number, data=picture(number // 2)) for number in range(8)]
    publish_rows(storage, rows, policy=EVERYTHING)
    lost = image_path(str(rows[7].image_sha256), "PNG")
    if "picture" in gone:
        storage.delete(lost)
    if "file" in gone:
        former = Path(latest_release(storage).path, "imagefolder/train")
        table = pq.ParquetFile(former / "metadata.parquet").read()
        (former / str(table["file_name"][2])).unlink()
    kept = rows[1:6] if "picture" in gone else rows[1:]

    release = publish_rows(storage, rows[1:], policy=EVERYTHING)
    assert len(release.left_out) == len(rows[1:]) - len(kept)
    assert problems_of(storage, release) == []
    folder = Path(latest_release(storage).path)
    of_formats = {
        "parquet": pq.ParquetFile(next(folder.glob("parquet/data/*"))).read(),
        "imagefolder": pq.ParquetFile(folder / "imagefolder/train/metadata.parquet").read(),
        "lance": lance.dataset(str(folder / "lance/train.lance")).to_table(),
    }
    ids = {name: table["prompt_id"].to_pylist() for name, table in of_formats.items()}
    index = json.loads((folder / "webdataset/train-00000.index.json").read_bytes())
    assert set(map(tuple, ids.values())) == {tuple(row.prompt_id for row in kept)}
    assert [each["caption"] for each in index] == [row.prompt for row in kept]
    assert len(list(folder.glob("imagefolder/train/*/*.png"))) == len(kept)


def links_of(folder: Path) -> dict[str, int]:
    """Return how many names each picture's file has, by its own."""
    return {path.name: path.stat().st_nlink for path in folder.rglob("*.png")}


@pytest.fixture
def scattered(tmp_path: Path) -> LocalFolder:
    """Return a storage with two releases as image folders; every fourth picture changed."""
    storage = LocalFolder(tmp_path / "storage")
    alone = HALVES.changed(formats=("imagefolder",))
    rows = [kept_row(storage, n, prompt_set=f"set {n % 3}") for n in range(PROMPTS)]
    publish_rows(storage, rows, policy=alone)
    rows[::4] = [kept_row(storage, 100 + n, prompt_set=f"set {n % 3}") for n in range(3)]
    publish_rows(storage, rows[:-1], policy=alone)
    return storage


def test_scattered_changes_cost_what_changed(
    scattered: LocalFolder,
    datasets: Any,  # noqa: ANN401 - it has no types
    tmp_path: Path,
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
        loaded = datasets.load_dataset(here, cache_dir=str(tmp_path / "cache"))
        rows = [row for split in loaded.values() for row in split]
        assert len(rows) == PROMPTS - 1
        for row in rows:
            original = Image.open(io.BytesIO(picture(row["seed"])))
            assert row["image"].tobytes() == original.tobytes()
    kinds = [change.change for change in release.changes_since(releases_in(scattered)[0])]
    assert sorted(kinds) == ["added"] * 3 + ["removed"] * 4
    with pytest.raises(PicturesElsewhere, match="is an image folder"):
        release.as_hf_dataset()


def test_an_image_folder_takes_its_own_of_what_others_ask_for(
    storage: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one change a Parquet file is written whole, and of an image folder one picture."""
    monkeypatch.setattr(pictures, "_ROW_GROUP", 4)
    rows = [kept_row(storage, n) for n in range(PROMPTS)]
    publish_rows(storage, rows, policy=EVERYTHING)
    rows[5] = kept_row(storage, 105)
    release = publish_rows(storage, rows, policy=EVERYTHING)
    assert problems_of(storage, release) == []
    folder = Path(latest_release(storage).path)
    assert sorted(links_of(folder).values()) == [1] + [2] * (PROMPTS - 1)
    table = pq.ParquetFile(folder / "imagefolder/train/metadata.parquet").read()
    [shard] = release.shards
    lineage = pq.ParquetFile(folder / shard.path).read().drop_columns("image")
    assert table.drop_columns("file_name").equals(lineage)
    for row in table.select(["file_name", "image_sha256"]).to_pylist():
        assert PurePosixPath(row["file_name"]).stem == row["image_sha256"]


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


def test_a_tar_is_byte_for_byte_what_tarfile_makes(storage: LocalFolder) -> None:
    """Its headers are made in less time, and are no others; nor is what lies between and after."""
    release = publish_rows(
        storage, [kept_row(storage, number) for number in range(3)], policy=EVERYTHING
    )
    data = storage.read(f"{release.path}/webdataset/train-00000.tar")
    again = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as opened,
        tarfile.open(fileobj=again, mode="w", format=tarfile.USTAR_FORMAT) as made,
    ):
        for member in opened:
            plain = tarfile.TarInfo(member.name)
            plain.size = member.size
            made.addfile(plain, opened.extractfile(member))
    assert data == again.getvalue()
