from __future__ import annotations

import dataclasses
import datetime as dt
import random
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release import parts, pictures
from imagepipeline_dagster.release.columns import fingerprint, shard_schema
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.packing import pack
from imagepipeline_dagster.release.parts import Part, in_order, parts_of, portions_of
from imagepipeline_dagster.release.pictures import LostImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.contract import image_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import kept_row, picture, row


def write_shard(file: Path, rows: list[ModeratedImage], storage: LocalFolder) -> list[LostImage]:
    """Write the rows to a Parquet file, and return those whose pictures are lost."""
    with TemporaryDirectory() as scratch:
        files, lost, _ = pack(
            storage,
            "packed",
            {"train": [Part.of("train", 0, HeldRows(rows))]},
            policy=ReleasePolicy(stamp=False),
            scratch=Path(scratch),
        )
    if lost:
        gone = {loss.row for loss in lost}
        return lost + write_shard(file, [row for row in rows if row not in gone], storage)
    file.write_bytes(storage.read(f"packed/{files[0].path}"))
    return lost


def fingerprint_of(rows: list[ModeratedImage]) -> str:
    """Return the fingerprint of the rows' content."""
    return fingerprint(HeldRows(rows).digests)


def test_portions_are_cut_by_the_size_of_their_images() -> None:
    """No portion takes more than the limits, but for one image that alone does."""
    rows = [row(bytes=size) for size in (60, 40, 1, 250, 10, 90)]
    cut = portions_of(rows, bytes_at_most=100)
    assert [[row.bytes for row in portion] for portion in cut] == [[60, 40], [1], [250], [10, 90]]
    few = portions_of(rows[3:] * 2, bytes_at_most=1000, rows_at_most=2)
    assert [[row.bytes for row in portion] for portion in few] == [[250, 10], [90, 250], [10, 90]]


@pytest.mark.parametrize("sizes", [[3] * 40, [9] * 40, [1] * 200, [3, 9, 1] * 20])
def test_a_change_of_one_set_changes_one_part(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Whatever the sizes of the sets: a set that grew, came or went leaves the others alone."""
    monkeypatch.setattr(parts, "_PART_BYTES", 4)
    sets = [
        dataclasses.replace(row(bytes=size), prompt_set=f"set {number:03d}")
        for number, size in enumerate(sizes)
    ]

    def keys_of(rows: list[ModeratedImage]) -> set[str]:
        runs = in_order(zip(repeat("train"), rows), shuffled=False)["train"]
        return {part.key for part in parts_of("train", runs, bytes_per_shard=1000)}

    keys = keys_of(sets)
    assert len(keys) > 5
    middle = len(sets) // 2
    grown = dataclasses.replace(sets[middle], bytes=(sets[middle].bytes or 0) + 1)
    for changed in ([*sets[:middle], *sets[middle + 1 :]], [*sets[:middle], grown, *sets[middle:]]):
        assert len(keys_of(changed) - keys) <= 2


def test_no_rows_make_no_shards() -> None:
    """There is no empty shard."""
    assert list(portions_of([], bytes_at_most=100)) == []


def test_a_shard_holds_the_bytes_as_delivered(storage: LocalFolder, tmp_path: Path) -> None:
    """Images of every format come back byte for byte, with a file name."""
    rows = [
        kept_row(storage, number, format=format_)
        for number, format_ in enumerate(["PNG", "JPEG", "WEBP"])
    ]
    write_shard(tmp_path / "s.parquet", rows, storage)
    images = [
        row["image"] for row in pq.read_table(tmp_path / "s.parquet", columns=["image"]).to_pylist()
    ]
    assert [image["bytes"] for image in images] == [
        picture(0),
        picture(1, format="JPEG"),
        picture(2, format="WEBP"),
    ]
    assert [Path(image["path"]).suffix for image in images] == [".png", ".jpg", ".webp"]
    assert all(
        image["path"].startswith(str(row.image_sha256))
        for image, row in zip(images, rows, strict=True)
    )


def test_row_groups_are_cut_by_bytes(
    storage: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds a group of about 16 MB, or of a hundred rows, at once."""
    rows = [kept_row(storage, number) for number in range(130)]
    write_shard(tmp_path / "s.parquet", rows, storage)
    monkeypatch.setattr(pictures, "_ROW_GROUP_BYTES", sum(row.bytes or 0 for row in rows[:40]))
    write_shard(tmp_path / "t.parquet", rows[:70], storage)
    sizes = []
    for name in ("s.parquet", "t.parquet"):
        metadata = pq.read_metadata(tmp_path / name)
        sizes.append([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
    assert sizes[0] == [100, 30]
    assert 38 <= sizes[1][0] <= 42


def test_pictures_are_plain_and_every_page_is_indexed(storage: LocalFolder, tmp_path: Path) -> None:
    """Pictures are not packed twice and not in a dictionary; any page is found without reading."""
    write_shard(tmp_path / "s.parquet", [kept_row(storage, n) for n in range(3)], storage)
    group = pq.read_metadata(tmp_path / "s.parquet").row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert all(column.has_offset_index for column in columns)
    pictures = next(column for column in columns if column.path_in_schema == "image.bytes")
    assert pictures.compression == "UNCOMPRESSED"
    assert not pictures.has_dictionary_page
    assert set(pictures.encodings) <= {"PLAIN", "RLE"}


def test_the_lineage_columns_come_back_as_they_were(storage: LocalFolder, tmp_path: Path) -> None:
    """Each lineage column holds the row's value, and times stay UTC."""
    row = kept_row(storage, 1, embeddings="style-1", nsfw_score=0.25, negative_prompt="blurry")
    write_shard(tmp_path / "s.parquet", [row], storage)
    [lineage] = pq.read_table(tmp_path / "s.parquet").drop_columns(["image"]).to_pylist()
    assert lineage.pop("file_sha256") == row.image_sha256
    assert lineage.pop("split") == "train"
    assert lineage.pop("mark") is None
    assert (lineage.pop("init_image"), lineage.pop("mask_image")) == (None, None)
    left_out = ("image", "init_image", "mask_image", "split", "file_sha256", "mark")
    names = [name for name in shard_schema().names if name not in left_out]
    assert lineage == {name: getattr(row, name) for name in names}
    assert lineage["submitted_at"].utcoffset() == dt.timedelta(0)


def test_local_paths_are_left_out() -> None:
    """Nobody learns from a release where its maker keeps files."""
    assert "uri" not in shard_schema().names


def test_every_column_is_described() -> None:
    """A column says what it means, in the file itself."""
    assert all((field.metadata or {}).get(b"description") for field in shard_schema())


def test_the_same_rows_give_the_same_bytes(storage: LocalFolder, tmp_path: Path) -> None:
    """A shard's bytes depend on its rows alone."""
    rows = [kept_row(storage, number) for number in range(10)]
    for name in ("a", "b"):
        write_shard(tmp_path / name, rows, storage)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_image_that_is_gone_or_changed_is_left_out_and_named(
    storage: LocalFolder, tmp_path: Path
) -> None:
    """Bytes that are not those that were bought are no row; the object is named, others stay."""
    rows = [kept_row(storage, number) for number in range(10)]
    changed, gone = (image_path(str(rows[n].image_sha256), "PNG") for n in (3, 9))
    storage.write(changed, picture(2))
    storage.delete(gone)
    lost = write_shard(tmp_path / "s.parquet", rows, storage)
    assert [loss.row.prompt_id for loss in lost] == ["p003", "p009"]
    assert storage.uri_of(changed) in lost[0].why
    assert storage.uri_of(gone) in lost[1].why
    ids = pq.read_table(tmp_path / "s.parquet", columns=["prompt_id"])["prompt_id"].to_pylist()
    assert ids == [f"p{number:03d}" for number in range(9) if number != 3]


def test_a_row_without_an_image_is_refused(storage: LocalFolder, tmp_path: Path) -> None:
    """A shard has a picture in each row."""
    with pytest.raises(ValueError, match="'spring', prompt 'p1': there is no image"):
        write_shard(tmp_path / "s.parquet", [row()], storage)


def test_the_fingerprint_does_not_depend_on_order(storage: LocalFolder) -> None:
    """The same rows in another order are the same content."""
    rows = [kept_row(storage, number) for number in range(5)]
    shuffled = random.Random(3).sample(rows, k=5)  # noqa: S311 - an order, not a secret
    assert fingerprint_of(shuffled) == fingerprint_of(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "another"},
        {"job_id": "another"},
        {"submitted_at": dt.datetime(2027, 1, 1, tzinfo=dt.UTC)},
        {"completed_at": None},
        {"endpoint": "http://127.0.0.1:8188"},
        {"content_version": "c2"},
        {"uri": "s3://elsewhere"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_circumstances_leave_the_fingerprint_alone(
    storage: LocalFolder, changes: dict[str, Any]
) -> None:
    """When, where and by which run an image came is not its content."""
    row = kept_row(storage, 1)
    assert fingerprint_of([dataclasses.replace(row, **changes)]) == fingerprint_of([row])


@pytest.mark.parametrize(
    "changes",
    [
        {"image_sha256": "0" * 64},
        {"prompt_set": "summer"},
        {"prompt_id": "p9"},
        {"call_index": 1},
        {"sample_index": None},
        {"prompt": "a cat"},
        {"seed": 7},
        {"embedding_version": "2"},
        {"request": "{}"},
        {"moderation_reason": "override:ana: fine"},
        {"nsfw_score": 0.5},
        {"emulated": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_content_changes_the_fingerprint(storage: LocalFolder, changes: dict[str, Any]) -> None:
    """Another image, identity, request or decision is another content."""
    row = kept_row(storage, 1)
    assert fingerprint_of([dataclasses.replace(row, **changes)]) != fingerprint_of([row])


def test_one_row_twice_is_not_one_row(storage: LocalFolder) -> None:
    """The fingerprint counts: a row more is another content, even an equal one."""
    row = kept_row(storage, 1)
    assert fingerprint_of([row, row]) != fingerprint_of([row])
