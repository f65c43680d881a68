"""Releases as Lance datasets, read by Lance itself."""

from __future__ import annotations

import os
from pathlib import Path

import lance
import pyarrow.compute as pc
import pytest
from lance.file import LanceFileReader
from pydantic import ValidationError

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.release import parts, policy
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import manifests
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.release.withdrawal import NotRewritten, withdraw
from imagepipeline_dagster.storage.contract import Storage, image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import FORMATS, HALVES, NOON, kept_row, picture, publish_rows

pytest_plugins = ["tests.s3"]

POLICY = HALVES.changed(formats=("parquet", "lance"))
PNG_HEADER = 33  # bytes


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt set is a part."""
    monkeypatch.setattr(parts, "_PART_BYTES", 1)


def opened(storage: Storage, path: str) -> lance.LanceDataset:
    """Return a dataset, also of the bucket on loopback."""
    options = {"allow_http": "true", "endpoint": os.environ.get("AWS_ENDPOINT_URL", "")}
    return lance.dataset(
        storage.uri_of(path), storage_options=options if "s3:" in storage.uri else None
    )


def test_each_split_is_a_dataset_of_its_rows(either_home: Storage) -> None:
    """Rows, their order and their bytes are those of the Parquet files; a lost one is missing."""
    rows = [
        kept_row(
            either_home, n, format=FORMATS[n % 3], prompt_set=f"set {n % 4}", nsfw_score=n or None
        )
        for n in range(20)
    ]
    either_home.delete(image_path(str(rows[7].image_sha256), str(rows[7].format)))
    release = publish_rows(either_home, rows, policy=POLICY)
    assert sum(release.splits.values()) == 19
    table = latest_release(either_home).as_arrow()
    for split, number in release.splits.items():
        dataset = opened(either_home, f"{release.path}/lance/{split}.lance")
        assert dataset.count_rows() == number
        assert len(dataset.get_fragments()) > 1
        of_split = table.filter(pc.field("split") == split)
        read = dataset.to_table()
        assert read.drop_columns("image").to_pylist() == of_split.drop_columns("image").to_pylist()
        pictures = pc.struct_field(of_split["image"], "bytes").to_pylist()
        assert read["image"].to_pylist() == pictures
        assert dataset.take([number - 1], columns=["image"])["image"][0].as_py() == pictures[-1]


def test_a_picture_is_read_by_itself(storage: LocalFolder) -> None:
    """Also where many rows show the same one: no dictionary of pictures is read for it."""
    alike = [kept_row(storage, n, data=picture(1, side=512)) for n in range(200)]
    policy = POLICY.changed(splits={"train": 1}, stamp=False)
    release = publish_rows(storage, alike, policy=policy)
    dataset = opened(storage, f"{release.path}/lance/train.lance")
    (file,) = (file for fragment in dataset.get_fragments() for file in fragment.data_files())
    path = Path(dataset.uri.removeprefix("file://"), "data", file.path)
    (column, *_) = LanceFileReader(str(path)).metadata().columns
    for page in column.pages:
        assert "FullZip" in page.encoding  # pictures one after the other


def lance_files_with(storage: LocalFolder, version: str, number: int) -> list[Path]:
    """Return the files that hold a picture's pixels."""
    folder = Path(storage.uri.removeprefix("file://"), "releases", version, "lance")
    pixels = picture(number)[PNG_HEADER:]
    return [p for p in folder.rglob("*") if p.is_file() and pixels in p.read_bytes()]


def test_no_file_has_a_picture_that_left(storage: LocalFolder, ledger: Ledger) -> None:
    """A part that lost one is a new file, the others are linked; a withdrawal does the same."""
    alone = POLICY.changed(splits={"train": 1})
    rows = [kept_row(storage, n, prompt_set=f"set {n % 3}") for n in range(9)]
    publish_rows(storage, rows, policy=alone)
    publish_rows(storage, rows[:-1], policy=alone)
    assert len(lance_files_with(storage, "v0001", 8)) == 1
    assert lance_files_with(storage, "v0002", 8) == []
    former, newer = (lance_files_with(storage, version, 0)[0] for version in ("v0001", "v0002"))
    assert former.samefile(newer)

    withdraw(storage, ledger, [str(rows[0].image_sha256)], who="ana", why="asked", at=NOON)
    for release, kept in zip(manifests(storage), (8, 7), strict=True):
        assert lance_files_with(storage, release.version, 0) == []
        assert problems_of(storage, release) == []
        dataset = opened(storage, f"{release.path}/lance/train.lance")
        assert dataset.count_rows() == kept
        assert [version["version"] for version in dataset.versions()] == [1]
    former, newer = (lance_files_with(storage, version, 1)[0] for version in ("v0001", "v0002"))
    assert former.samefile(newer)


def test_a_missing_extra_is_named(
    storage: LocalFolder, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy says what to install when it is made, and so does whoever takes a picture back."""
    row = kept_row(storage, 1)
    publish_rows(storage, [row], policy=POLICY)
    monkeypatch.setattr(policy, "find_spec", lambda _: None)
    advice = r'pip install "imagepipeline-dagster\[lance\]"'
    with pytest.raises(ValidationError, match=advice):
        ReleasePolicy(formats=("parquet", "lance"))
    with pytest.raises(NotRewritten, match=f"v0001 cannot be written anew: .*{advice}"):
        withdraw(storage, ledger, [str(row.image_sha256)], who="ana", why="asked", at=NOON)
