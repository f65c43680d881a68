from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typing_extensions import override

from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.previews import thumbnail
from imagepipeline_dagster.release import parts
from imagepipeline_dagster.release.content import NothingToRelease, UnmoderatedImage
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.formats import webdataset
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import latest_manifest
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.contract import (
    ObjectMissing,
    Storage,
    image_path,
    thumbnail_path,
)
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from tests.release.samples import (
    EVERYTHING,
    HALVES,
    contents,
    folder_of,
    kept_row,
    picture,
    publish_rows,
    rejected_row,
)

if TYPE_CHECKING:
    from tests.s3 import Requests

pytest_plugins = ["tests.s3"]


# What a release is


def test_a_release_has_its_shards_card_sheet_and_manifest(either_home: Storage) -> None:
    """The first version is a folder with everything in it, in either home."""
    rows = [kept_row(either_home, number) for number in range(3)]
    release = publish_rows(either_home, rows)
    assert (release.version, release.created, release.previous) == ("v0001", True, None)
    assert list(either_home.list("releases/v0001")) == [
        "releases/v0001/CHANGES.md",
        "releases/v0001/README.md",
        "releases/v0001/changes.parquet",
        "releases/v0001/contact_sheet.webp",
        "releases/v0001/croissant.json",
        "releases/v0001/manifest.json",
        "releases/v0001/parquet/README.md",
        f"releases/v0001/{release.shards[0].path}",
    ]
    found = latest_manifest(either_home)
    assert found == release.model_copy(update={"created": False})


def test_the_manifest_vouches_for_each_file(storage: LocalFolder) -> None:
    """Each file's size, rows and SHA-256 are true, no file is missing, and the counts are there."""
    release = publish_rows(
        storage,
        [*(kept_row(storage, number) for number in range(5)), rejected_row(9)],
        bytes_per_shard=2 * len(picture(0)),
    )
    manifest = json.loads(storage.read("releases/v0001/manifest.json"))
    assert len(release.shards) > 1
    assert {f"releases/v0001/{file['path']}" for file in manifest["files"]} == {
        *storage.list("releases/v0001")
    } - {"releases/v0001/manifest.json"}
    for file in manifest["files"]:
        data = storage.read(f"releases/v0001/{file['path']}")
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["size"] == len(data)
        if file["rows"] is not None:
            assert file["rows"] == pq.read_metadata(BytesIO(data)).num_rows
    assert manifest["counts"] == {
        "requested": 6,
        "kept": 5,
        "rejected": 1,
        "quarantined": 0,
        "by_reason": {"failed": 1, "ok": 5},
        "why_not_kept": {"failed": 1},
        "overridden": 0,
    }
    assert manifest["version"] == "v0001"
    assert re.fullmatch(r"imagepipeline-dagster \d+\..+", manifest["tool"])
    assert "created" not in manifest


def test_only_kept_images_are_released(storage: LocalFolder) -> None:
    """A rejected or quarantined image is counted and left out, though its bytes are there."""
    rows = [
        kept_row(storage, 1),
        kept_row(storage, 2, verdict="rejected", moderation_reason="blank"),
        kept_row(storage, 3, verdict="quarantined", moderation_reason="unchecked"),
    ]
    release = publish_rows(storage, rows)
    assert (release.counts.requested, release.counts.kept) == (3, 1)
    frame = pd.read_parquet(folder_of(storage, "releases/v0001/parquet/data"))
    assert list(frame["prompt_id"]) == ["p001"]


def test_rows_are_in_order_whatever_order_they_came_in(storage: LocalFolder) -> None:
    """Rows are sorted by set, prompt, call and sample, and equal content has equal bytes."""
    rows = [
        kept_row(storage, number, prompt_set=name, prompt_id="p", sample_index=sample)
        for number, (name, sample) in enumerate([("b", 1), ("b", 0), ("b", None), ("a", 0)])
    ]
    first = publish_rows(storage, rows)
    again = publish_rows(storage, rows[::-1], folder="releases/again")
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in again.shards]
    frame = pd.read_parquet(folder_of(storage, "releases/v0001/parquet/data"))
    assert list(frame["seed"]) == [3, 2, 1, 0]


def test_links_of_other_pictures_are_columns(storage: LocalFolder) -> None:
    """A row tells the links of the first picture and the mask, and null where it had none."""
    links = {"init_image": "https://example.com/i.png", "mask_image": "https://example.com/m.png"}
    publish_rows(storage, [kept_row(storage, 1, request=json.dumps(links)), kept_row(storage, 2)])
    rows = latest_release(storage).as_arrow([*links]).to_pylist()
    assert rows == [links, dict.fromkeys(links)]


def test_shards_are_as_large_as_asked(storage: LocalFolder) -> None:
    """A small limit makes several shards, numbered, which together hold every row once."""
    rows = [kept_row(storage, number) for number in range(7)]
    release = publish_rows(storage, rows, bytes_per_shard=3 * max(row.bytes or 0 for row in rows))
    assert [shard.path for shard in release.shards] == [
        f"parquet/data/train-{index:05d}-{str(shard.part)[:16]}.parquet"
        for index, shard in enumerate(release.shards)
    ]
    assert len(release.shards) == 3
    assert sum(shard.rows or 0 for shard in release.shards) == 7


def test_one_image_under_two_prompts_is_two_rows(storage: LocalFolder) -> None:
    """The same bytes kept for two prompts are released for both."""
    rows = [kept_row(storage, number, data=picture(1)) for number in (1, 2)]
    assert publish_rows(storage, rows).counts.kept == 2


def test_the_contact_sheet_is_made_from_the_thumbnails(storage: LocalFolder) -> None:
    """The card's sheet shows stored thumbnails, and goes on without one that is gone."""
    rows = [kept_row(storage, number) for number in (1, 2)]
    small = thumbnail(Image.new("RGB", (64, 64), "red"))
    storage.write(thumbnail_path(str(rows[0].image_sha256)), small)
    publish_rows(storage, rows)
    sheet = Image.open(BytesIO(storage.read("releases/v0001/contact_sheet.webp"))).convert("RGB")
    red, green, blue = sheet.resize((2, 1), Image.Resampling.BOX).split()
    assert red.getpixel((0, 0)) != red.getpixel((1, 0))
    assert green.getpixel((0, 0)) == pytest.approx(blue.getpixel((0, 0)), abs=3)
    assert "(contact_sheet.webp)" in storage.read("releases/v0001/README.md").decode()


# Versions


def test_unchanged_content_makes_no_new_version(either_home: Storage) -> None:
    """The same images, bought or not by another run, are the release that is there already."""
    first = publish_rows(either_home, [kept_row(either_home, number) for number in range(3)])
    before = contents(either_home, "releases")
    rows = [kept_row(either_home, number, run_id="run2", job_id="j") for number in (2, 0, 1)]
    second = publish_rows(either_home, [*rows, rejected_row(8)], run_id="run10")
    assert second == first.model_copy(update={"created": False})
    assert contents(either_home, "releases") == before


def test_one_image_more_makes_a_new_version(either_home: Storage) -> None:
    """The new version has it, and the former one is untouched byte for byte."""
    rows = [kept_row(either_home, number) for number in range(3)]
    publish_rows(either_home, rows)
    before = contents(either_home, "releases/v0001")
    second = publish_rows(either_home, [*rows, kept_row(either_home, 3)])
    assert (second.version, second.previous, second.counts.kept) == ("v0002", "v0001", 4)
    assert contents(either_home, "releases/v0001") == before


def test_content_that_comes_back_is_a_new_version(storage: LocalFolder) -> None:
    """Only the latest version counts: going back to an older content is a change."""
    one, two = kept_row(storage, 1), kept_row(storage, 2)
    versions = [publish_rows(storage, rows).version for rows in ([one], [one, two], [one])]
    assert versions == ["v0001", "v0002", "v0003"]


def test_versions_beyond_four_digits_are_newer(storage: LocalFolder) -> None:
    """The latest is the highest number, not the last name."""
    publish_rows(storage, [kept_row(storage, 1)])
    for version in ("v9999", "v10000"):
        for path in list(storage.list("releases/v0001")):
            storage.write(path.replace("v0001", version), storage.read(path))
        manifest = json.loads(storage.read("releases/v0001/manifest.json"))
        data = json.dumps(manifest | {"version": version}).encode()
        storage.write(f"releases/{version}/manifest.json", data)
    latest = latest_manifest(storage)
    assert latest
    assert latest.version == "v10000"
    assert publish_rows(storage, [kept_row(storage, 2)]).version == "v10001"


def test_datasets_in_folders_of_their_own_do_not_meet(storage: LocalFolder) -> None:
    """Another folder has its own numbers, also where one lies inside the other."""
    rows = [kept_row(storage, 1)]
    assert publish_rows(storage, rows).path == "releases/v0001"
    assert publish_rows(storage, rows, folder="releases/cats").path == "releases/cats/v0001"
    assert publish_rows(storage, rows).created is False
    latest = latest_manifest(storage, "releases/cats")
    assert latest
    assert latest.path == "releases/cats/v0001"


def test_there_is_no_latest_manifest_at_first(either_home: Storage) -> None:
    """An empty storage has no release."""
    assert latest_manifest(either_home) is None


# What is refused


def test_nothing_kept_is_nothing_to_release(storage: LocalFolder) -> None:
    """Without a kept image there is no release, and the error says why and what to do."""
    with pytest.raises(
        NothingToRelease, match=r"None of 2 samples was kept \(1 blank, 1 failed\)"
    ) as e:
        publish_rows(storage, [rejected_row(1, "blank"), rejected_row(2)])
    assert e.value.counts.by_reason == {"blank": 1, "failed": 1}
    with pytest.raises(NothingToRelease, match="no samples at all"):
        publish_rows(storage, [])
    assert list(storage.list("releases")) == []


@pytest.mark.parametrize(
    ("changes", "objection"),
    [
        ({"safety_checker": False}, "nobody checked it"),
        ({"safety_checker": None}, "nobody checked it"),
        ({"image_sha256": None}, "has no image"),
        ({"format": None}, "has no image"),
    ],
)
def test_a_kept_row_that_must_not_be_is_refused(
    storage: LocalFolder, changes: dict[str, Any], objection: str
) -> None:
    """A verdict alone does not bring an unchecked image into a dataset."""
    rows = [kept_row(storage, 1), dataclasses.replace(kept_row(storage, 2), **changes)]
    with pytest.raises(UnmoderatedImage, match=f"'spring', prompt 'p002': .*{objection}") as e:
        publish_rows(storage, rows)
    assert e.value.objections == tuple(objections(rows))
    assert list(storage.list("releases")) == []


def test_many_objections_are_counted(storage: LocalFolder) -> None:
    """The message names three rows and counts the others; the exception holds them all."""
    rows = [kept_row(storage, number, safety_checker=False) for number in range(10)]
    with pytest.raises(UnmoderatedImage, match=r"And 7 more\.") as e:
        publish_rows(storage, rows)
    assert len(e.value.objections) == 10


def test_an_override_lets_an_unchecked_image_through(storage: LocalFolder) -> None:
    """What a person decided is released with the decision beside it."""
    reason = "override:ana: looked at it"
    row = kept_row(storage, 1, safety_checker=False, moderation_reason=reason)
    publish_rows(storage, [row])
    frame = pd.read_parquet(folder_of(storage, "releases/v0001/parquet/data"))
    assert list(frame["moderation_reason"]) == [reason]


def test_rows_that_were_not_kept_are_objected_to(storage: LocalFolder) -> None:
    """A list that should hold kept rows only is checked for others too."""
    assert objections([kept_row(storage, 1)]) == []
    assert objections([rejected_row(2)]) == [
        "'spring', prompt 'p002': its verdict is 'rejected', not kept."
    ]


def test_release_counts_are_by_prompt_set(storage: LocalFolder) -> None:
    """Each set's samples are counted apart, the sets in order."""
    rows = [kept_row(storage, 1, prompt_set="b"), rejected_row(2, prompt_set="a")]
    counts = publish_rows(storage, rows).prompt_sets
    assert [(name, c.requested, c.kept) for name, c in counts.items()] == [("a", 1, 0), ("b", 1, 1)]


# Crashes and other publishers


def test_a_corrupt_image_is_left_out_and_stops_no_other(storage: LocalFolder) -> None:
    """One changed byte in the storage: the others are released, and card and manifest name it."""
    rows = [kept_row(storage, number) for number in range(4)]
    path = image_path(str(rows[3].image_sha256), "PNG")
    good = storage.read(path)
    storage.write(path, good[:-1] + bytes([good[-1] ^ 1]))
    release = publish_rows(storage, rows, bytes_per_shard=1)
    assert (release.counts.kept, release.counts.why_not_kept) == (3, {"lost": 1})
    [told] = release.left_out
    assert told.startswith("'spring', prompt 'p003'")
    assert storage.uri_of(path) in told
    text = storage.read(f"{release.path}/README.md").decode()
    assert "## What is left out" in text
    assert "prompt &#39;p003&#39;" in text
    # Nothing is to be published anew until the picture is there again.
    assert publish_rows(storage, rows).version == release.version
    storage.write(path, good)
    assert publish_rows(storage, rows).counts.kept == 4


def test_lost_images_alone_are_nothing_to_release(storage: LocalFolder) -> None:
    """Where no kept picture is left there is no version, and the error names what was lost."""
    row = kept_row(storage, 1)
    storage.delete(image_path(str(row.image_sha256), "PNG"))
    with pytest.raises(NothingToRelease, match="Left out: 'spring', prompt 'p001'"):
        publish_rows(storage, [row])
    assert [path for path in storage.list("releases") if "/claims/" not in path] == []


def test_a_plain_tool_can_follow_the_pointer(either_home: Storage) -> None:
    """`releases/latest` holds the newest version's name, also after a publisher that died."""
    publish_rows(either_home, [kept_row(either_home, 1)])
    assert either_home.read("releases/latest") == b"v0001\n"
    rows = [kept_row(either_home, 2)]
    publish_rows(either_home, rows)
    either_home.write("releases/latest", b"v0001\n")
    publish_rows(either_home, rows)
    assert either_home.read("releases/latest") == b"v0002\n"


def test_a_manifest_of_the_first_format_is_read(storage: LocalFolder) -> None:
    """A release whose manifest lists its shards alone is still a release."""
    publish_rows(storage, [kept_row(storage, 1)])
    manifest = json.loads(storage.read("releases/v0001/manifest.json"))
    files = manifest.pop("files")
    manifest["shards"] = [file for file in files if file["rows"]]
    del manifest["left_out"], manifest["counts"]["why_not_kept"], manifest["counts"]["overridden"]
    storage.write("releases/v0001/manifest.json", json.dumps(manifest).encode())
    found = latest_manifest(storage)
    assert found
    assert [shard.rows for shard in found.shards] == [1]


class Unsettled(LocalFolder):
    """A local storage that knows what a loss of power would take, and what it would have taken."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.unsettled: set[str] = set()
        self.at_manifests: list[set[str]] = []
        self.put = 0

    @override
    def write_all(self, objects: Mapping[str, bytes | memoryview]) -> None:
        super().write_all(objects)
        self._note(objects)

    @override
    def upload(self, path: str, file: Path) -> str:
        self._note([path])
        return super().upload(path, file)

    @override
    def copy(self, sources: Mapping[str, str]) -> None:
        super().copy(sources)
        self._note(sources)

    def _note(self, paths: Collection[str]) -> None:
        self.unsettled.update(paths)
        self.put += len(paths)

    @override
    def settle(self, prefix: str) -> None:
        super().settle(prefix)
        self.unsettled = {path for path in self.unsettled if not path.startswith(f"{prefix}/")}

    @override
    def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
        if path.endswith("/manifest.json"):
            self.at_manifests.append(set(self.unsettled))
        return super().write(path, data, derived=derived)


def test_a_manifest_is_written_once_all_that_it_names_lasts(tmp_path: Path) -> None:
    """No loss of power leaves a release that lacks files, written or taken over, in any format."""
    home = Unsettled(tmp_path)
    rows = [kept_row(home, number) for number in range(3)]
    publish_rows(home, rows[:2], policy=HALVES)
    publish_rows(home, rows, policy=HALVES)
    assert home.put > 0
    assert home.at_manifests == [set(), set()]


def test_a_former_release_that_is_not_whole_says_how_to_go_on(either_home: Storage) -> None:
    """The error names the file, and a way out that works: what differs cannot be told."""
    rows = [kept_row(either_home, number) for number in range(3)]
    former = publish_rows(either_home, rows[:2])
    lost = f"{former.path}/{former.shards[0].path}"
    either_home.delete(lost)
    with pytest.raises(ObjectMissing) as refused:
        publish_rows(either_home, rows)
    assert former.shards[0].path in str(refused.value)
    assert f"delete {either_home.uri_of(former.path)}, and publish again" in str(refused.value)
    either_home.delete_folder(former.path)
    release = publish_rows(either_home, rows)
    assert (release.created, problems_of(either_home, release)) == (True, [])


def test_an_old_release_costs_a_publisher_nothing(s3_bucket: str, s3_requests: Requests) -> None:
    """However many releases there are, the next one asks the bucket as often as the one before."""
    storage = open_storage(f"s3://{s3_bucket}/data")
    asked: list[Counter[str]] = []
    for number in range(5):
        s3_requests.clear()
        publish_rows(storage, [kept_row(storage, number)])
        asked.append(Counter(request.split()[0] for request in s3_requests.made))
    assert asked[4] == asked[3] == asked[2]


# What a change costs


def test_unchanged_parts_are_taken_over(
    either_home: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a change in one of three sets, no picture of the others is read or written again."""
    monkeypatch.setattr(parts, "_PART_BYTES", 1)
    monkeypatch.setattr(webdataset, "_TAR_BYTES", 1)
    rows = [
        kept_row(either_home, 10 * n + k, prompt_set=name)
        for n, name in enumerate(["a", "b", "c"])
        for k in range(3)
    ]
    first = publish_rows(either_home, rows, policy=EVERYTHING)
    for row in (*rows[:3], *rows[6:]):
        either_home.delete(image_path(str(row.image_sha256), "PNG"))
    changed = [*rows[:3], kept_row(either_home, 77, prompt_set="b"), *rows[4:]]
    second = publish_rows(either_home, changed, policy=EVERYTHING)
    assert second.counts.kept == 9
    sums = {file.sha256 for file in first.files if file.part}
    new = [file.path for file in second.files if file.part and file.sha256 not in sums]
    image_name = f"{changed[3].image_sha256}.png"
    assert sorted(new) == sorted(
        [
            f"imagefolder/train/{image_name[:2]}/{image_name}",
            f"lance/train.lance/data/{PurePosixPath(second.shards[1].path).stem[6:]}.lance",
            second.shards[1].path,
            "webdataset/train-00001.index.json",
            "webdataset/train-00001.tar",
        ]
    )
    assert problems_of(either_home, second) == []
    table = pd.read_parquet(
        BytesIO(either_home.read(f"{second.path}/imagefolder/train/metadata.parquet"))
    )
    assert sorted(table["prompt_id"]) == sorted(row.prompt_id for row in changed)


def test_another_format_reuses_what_is_there(storage: LocalFolder) -> None:
    """A format that is added costs its own files alone."""
    rows = [kept_row(storage, number) for number in range(3)]
    first = publish_rows(storage, rows)
    policy = ReleasePolicy(formats=("parquet", "webdataset"), max_lost_share=1)
    second = publish_rows(storage, rows, policy=policy)
    assert second.semantic_version == "1.0.1"
    paths = [folder_of(storage, f"{r.path}/{r.shards[0].path}") for r in (first, second)]
    assert paths[0].samefile(paths[1])
