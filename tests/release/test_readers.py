"""Releases read by the tools that they are for: rows and bytes are what the manifest says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import EVERYTHING, FORMATS, kept_row, publish_rows

pytestmark = pytest.mark.slow

PICTURES = 30
FOLDERS = [".", "parquet", "webdataset", "imagefolder", "lance"]
POLICY = EVERYTHING.changed(
    splits={"train": 0.6, "test": 0.4},
    license="cc-by-4.0",
    homepage="https://example.com/foxes",
    citation="@misc{foxes}",
)

Released = tuple[Path, Release, dict[str, dict[str, Any]]]
"""A release's folder, its manifest, and its rows by prompt id."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Return a release of all formats, two splits and three kinds of pictures, some values null.

    Its rows are checked against the manifest here, by pyarrow: other readers are compared to them.
    """
    root = tmp_path_factory.mktemp("storage")
    storage = LocalFolder(root)
    for more in (PICTURES - 3, PICTURES):  # of the second release a part is taken over
        rows = [
            kept_row(
                storage,
                n,
                format=FORMATS[n % 3],
                prompt_set=f"test set {n // 10}",
                prompt=f"<b>hostile</b> | prompt {n}\n🦊" if n else None,
                sample_index=None if n % 2 else 0,
                nsfw_score=n / 100 if n % 3 else None,
                # A reader that looks at the first rows alone would take the column for null.
                overridden_by="ana" if n == PICTURES - 4 else None,
            )
            for n in range(more)
        ]
        release = publish_rows(storage, rows, policy=POLICY)
    folder = root / release.path
    read: dict[str, dict[str, Any]] = {}
    for file in release.shards:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
        shard = pq.read_table(folder / file.path).to_pylist()
        assert len(shard) == file.rows
        read |= {row["prompt_id"]: row for row in shard}
    assert len(read) == release.counts.kept == sum(release.splits.values()) == PICTURES
    return folder, release, read


def same(read: Mapping[Any, Any], expected: Mapping[str, Any]) -> bool:
    """Tell whether a reader's row has each value of the released one; null is null to all."""
    return all(_equal(read[name], expected[name]) for name in expected if name != "image")


def _equal(read: Any, expected: Any) -> bool:  # noqa: ANN401 - any value
    if isinstance(expected, dt.datetime):
        return bool(pd.Timestamp(read) == expected)
    return bool(pd.isna(read) if expected is None else read == expected)


def is_its_picture(data: bytes, expected: Mapping[str, Any]) -> bool:
    """Tell whether these are the file's bytes."""
    return hashlib.sha256(data).hexdigest() == str(expected["file_sha256"])


@pytest.mark.parametrize("name", FOLDERS)
def test_datasets_takes_no_release_for_another(
    storage: LocalFolder,
    datasets: Any,  # noqa: ANN401 - it has no types
    name: str,
    tmp_path: Path,
) -> None:
    """What it kept of one release is not loaded from a folder of the same name in another."""
    rows = [kept_row(storage, number) for number in range(3)]
    for prompt in ("a fox", "a cat"):
        same = [dataclasses.replace(row, prompt=prompt) for row in rows]
        release = publish_rows(storage, same, folder=f"{prompt[2:]}/releases", policy=EVERYTHING)
        loaded = datasets.load_dataset(
            str(tmp_path / "storage" / release.path / name), cache_dir=str(tmp_path / "cache")
        )["train"]
        lineage = loaded["json"] if name == "webdataset" else loaded
        assert {row["prompt"] for row in lineage} == {prompt}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
def test_datasets_loads_each_folder(
    released: Released,
    datasets: Any,  # noqa: ANN401 - it has no types
    name: str,
    streaming: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    """Rows and bytes of each split, loaded whole and streamed; the card's features are true."""
    folder, release, rows = released
    seen: set[str] = set()
    for split, number in release.splits.items():
        loaded = datasets.load_dataset(
            str(folder / name), split=split, streaming=streaming, cache_dir=str(tmp_path)
        )
        column = "jpg" if name == "webdataset" else "image"
        loaded = loaded.cast_column(column, datasets.Image(decode=False))
        count = 0
        for read in loaded:
            count += 1
            lineage = read["json"] if name == "webdataset" else read
            expected = rows[lineage["prompt_id"]]
            assert same(lineage, expected)
            image = read[column]
            data = image["bytes"] or Path(image["path"]).read_bytes()
            assert is_its_picture(data, expected)
            assert expected["split"] == split
            seen.add(lineage["prompt_id"])
        assert count == number
    assert seen == set(rows)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes no file
def test_webdataset_reads_the_tars(released: Released) -> None:
    """`webdataset.WebDataset` yields each sample once, and the index finds it in the tar."""
    import webdataset  # type: ignore[import-untyped] # it has no types

    folder, release, rows = released
    for split, number in release.splits.items():
        tars = sorted(map(str, (folder / "webdataset").glob(f"{split}-*.tar")))
        samples = list(webdataset.WebDataset(tars, shardshuffle=False))
        assert len(samples) == number
        entries = {}
        for tar in tars:
            data = Path(tar).read_bytes()
            index = json.loads(Path(tar).with_suffix(".index.json").read_text())
            for entry in index:
                picture = data[entry["offset"] : entry["offset"] + entry["size"]]
                entries[entry["key"]] = (picture, entry["caption"])
        for sample in samples:
            lineage = json.loads(sample["json"])
            expected = rows[lineage["prompt_id"]]
            assert is_its_picture(sample["jpg"], expected)
            assert entries[sample["__key__"]] == (sample["jpg"], expected["prompt"])
            assert sample["txt"].decode() == (expected["prompt"] or "")


def test_the_image_folder_holds_what_its_table_says(released: Released) -> None:
    """Each row of `metadata.parquet` has its file, and no file is without a row."""
    folder, release, rows = released
    for split, number in release.splits.items():
        here = folder / "imagefolder" / split
        table = pq.read_table(here / "metadata.parquet").to_pylist()
        assert len(table) == number
        for row in table:
            assert is_its_picture((here / row["file_name"]).read_bytes(), rows[row["prompt_id"]])
        pictures = {p.relative_to(here).as_posix() for p in here.rglob("*/*")}
        assert pictures == {row["file_name"] for row in table}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_mlcroissant_validates_and_loads(released: Released) -> None:
    """The description is valid Croissant 1.1, without a warning, and its records are the rows."""
    import mlcroissant as mlc  # type: ignore[import-untyped] # it has no types

    folder, release, rows = released
    dataset = mlc.Dataset(str(folder / "croissant.json"))
    assert not dataset.metadata.issues.errors
    assert dataset.metadata.version == release.semantic_version
    files = {f.name: f.sha256 for f in dataset.metadata.file_objects}
    assert files == {file.path: file.sha256 for file in release.shards}
    count = 0
    for record in dataset.records("images"):
        read = {name.partition("/")[2]: value for name, value in record.items()}
        texts: dict[str, Any] = {
            n: v.decode() if isinstance(v, bytes) else v for n, v in read.items()
        }
        expected = rows[texts["prompt_id"]]
        assert same(texts, expected)
        with Image.open(io.BytesIO(expected["image"]["bytes"])) as image:
            assert texts["image"].tobytes() == image.tobytes()
        count += 1
    assert count == PICTURES


def test_frames_and_databases_read_the_parquet_files(released: Released) -> None:
    """pandas, Polars and DuckDB read the folder as one table with the same rows and bytes."""
    import duckdb
    import polars as pl

    folder, release, rows = released
    here = folder / "parquet/data"
    pattern = f"{here}/*.parquet"
    relation = duckdb.sql(f"SELECT * REPLACE (image.bytes AS image) FROM '{pattern}'")  # noqa: S608
    by_duckdb = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    by_polars = pl.scan_parquet(pattern).collect().to_dicts()
    by_pandas = pd.read_parquet(here).to_dict("records")
    for read in (by_duckdb, by_polars, by_pandas):
        assert len(read) == PICTURES
        for row in read:
            expected = rows[row["prompt_id"]]
            assert same(row, expected)
            data = row["image"] if isinstance(row["image"], bytes) else row["image"]["bytes"]
            assert is_its_picture(data, expected)
    test = pl.scan_parquet(pattern).filter(pl.col("split") == "test").select(pl.len()).collect()
    assert test.item() == release.splits["test"]


def test_the_card_is_read_as_the_hub_reads_it(released: Released) -> None:
    """The front matter is valid to the Hub's own library, and says what is there."""
    from huggingface_hub import DatasetCard

    folder, release, rows = released
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["size_categories"] == ["n<1K"]
    assert data["annotations_creators"] == ["machine-generated"]
    assert data["source_datasets"] == ["original"]
    info = data["dataset_info"]
    first = next(iter(rows.values()))
    assert [feature["name"] for feature in info["features"]] == list(first)
    assert {s["name"]: s["num_examples"] for s in info["splits"]} == release.splits
    assert info["download_size"] == sum(file.size for file in release.shards)
    assert yaml.safe_load((folder / "parquet/README.md").read_text().split("---")[1])["configs"]


def test_tars_are_plain(released: Released) -> None:
    """Each tar opens by itself, its members in groups of one key, without any name of a prompt."""
    folder, _, _ = released
    for tar in (folder / "webdataset").glob("*.tar"):
        with tarfile.open(tar) as opened:
            names = opened.getnames()
        stems, kinds = zip(*(name.split(".") for name in names), strict=True)
        assert kinds == ("jpg", "json", "txt") * (len(names) // 3)
        assert all(stem.isdigit() for stem in stems)
