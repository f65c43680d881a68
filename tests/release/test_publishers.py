"""Publishers that die, that meet each other, or that meet a withdrawal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from typing_extensions import override

from imagepipeline_dagster.release import claims
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.publish import TakenForDead
from imagepipeline_dagster.release.reading import (
    delete_release,
    latest_manifest,
    manifests,
    read_rows,
)
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage.contract import Storage, tombstone_path
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.release.samples import Interrupted, contents, folder_of, kept_row, publish_rows

pytest_plugins = ["tests.s3"]


def interrupting(
    storage: LocalFolder, *, before: str, happening: Callable[[], object]
) -> LocalFolder:
    """Return the storage as one where something happens once, before a certain change."""
    awaited = [happening]

    def maybe(path: str) -> None:
        if awaited and re.search(before, path):
            awaited.pop()()

    return Interrupted(folder_of(storage, "x").parent, maybe)


def interrupt() -> None:
    """Stop as Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "before", ["train-00001-", r"contact_sheet", "README", "manifest", r"claims/v0001"]
)
def test_a_publisher_that_dies_leaves_no_version(storage: LocalFolder, before: str) -> None:
    """Wherever a publisher dies there is no release, and the next one makes a whole one."""
    rows = [kept_row(storage, number) for number in range(4)]
    size = 2 * max(row.bytes or 0 for row in rows)
    dying = interrupting(storage, before=before, happening=interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish_rows(dying, rows, bytes_per_shard=size)
    assert latest_manifest(storage) is None

    release = publish_rows(storage, rows, bytes_per_shard=size)
    assert release.created
    assert latest_manifest(storage) == release.model_copy(update={"created": False})
    assert len(pd.read_parquet(folder_of(storage, f"{release.path}/parquet/data"))) == 4


def test_scratch_of_a_killed_publisher_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next publisher removes what a killed one left, and nothing of one that is alive."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = "import os, signal\nfrom imagepipeline_dagster.release.scratch import scratch_folder\n"
    script += "with scratch_folder() as folder:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)  # noqa: S603
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder() as first, scratch_folder() as second:
        assert set(tmp_path.iterdir()) == {first, second}
    assert list(tmp_path.iterdir()) == []


def test_two_publishers_never_mix(storage: LocalFolder) -> None:
    """While one writes, another publishes something else: two whole versions."""
    ours = [kept_row(storage, number) for number in range(4)]
    theirs = [kept_row(storage, number) for number in range(10, 15)]
    size = 2 * max(row.bytes or 0 for row in ours)
    shared = interrupting(
        storage,
        before="train-00001-",
        happening=lambda: publish_rows(storage, theirs, bytes_per_shard=size),
    )
    release = publish_rows(shared, ours, bytes_per_shard=size)
    assert (release.version, release.previous) == ("v0001", "v0002")
    for version, rows in (("v0001", ours), ("v0002", theirs)):
        frame = pd.read_parquet(folder_of(storage, f"releases/{version}/parquet/data"))
        assert list(frame["image_sha256"]) == [row.image_sha256 for row in rows]


def test_a_number_taken_meanwhile_is_passed_over(storage: LocalFolder) -> None:
    """Of two publishers that want the same number, none takes one that the other claimed."""
    shared = interrupting(
        storage,
        before=r"claims/v0001",
        happening=lambda: publish_rows(storage, [kept_row(storage, 2)]),
    )
    assert publish_rows(shared, [kept_row(storage, 1)]).version == "v0002"


def test_a_picture_withdrawn_meanwhile_is_not_released(storage: LocalFolder) -> None:
    """A withdrawal that found no release yet is seen by the publisher, which begins again."""
    rows = [kept_row(storage, number) for number in range(2)]
    tombstone = tombstone_path(str(rows[0].image_sha256))
    shared = interrupting(
        storage,
        before="manifest",
        happening=lambda: storage.write(tombstone, b"{}"),
    )
    release = publish_rows(shared, rows)
    assert (release.version, release.counts.kept) == ("v0002", 1)
    assert list(storage.list("releases/v0001")) == []
    assert storage.read("releases/latest") == b"v0002\n"


def test_a_source_picture_withdrawn_meanwhile_is_not_released(storage: LocalFolder) -> None:
    """The same holds for a picture that a request started from: the result stays."""
    [source, result] = [kept_row(storage, number) for number in range(2)]
    image = str(source.image_sha256)
    row = dataclasses.replace(result, init_image_sha256=image, init_image_format="PNG")
    shared = interrupting(
        storage,
        before="manifest",
        happening=lambda: storage.write(tombstone_path(image), b"{}"),
    )
    release = publish_rows(shared, [row])
    assert (release.version, release.counts.kept) == ("v0002", 1)
    [column] = read_rows(storage, release, ["init_image_sha256"]).itercolumns()
    assert column.to_pylist() == [None]


def test_what_is_alike_stays_in_one_split_when_a_release_begins_again(storage: LocalFolder) -> None:
    """A publisher that begins again after a withdrawal still knows the near-duplicates."""
    rows = [kept_row(storage, number) for number in range(8)]
    images = [str(row.image_sha256) for row in rows]
    shared = interrupting(
        storage,
        before="manifest",
        happening=lambda: storage.write(tombstone_path(images[0]), b"{}"),
    )
    halves = ReleasePolicy(splits={"train": 0.5, "test": 0.5})
    release = publish_rows(shared, rows, policy=halves, alike=list(pairwise(images)))
    assert release.version == "v0002"
    assert list(release.splits.values()) == [7]


def test_many_publishers_at_once_each_make_a_whole_version(either_home: Storage) -> None:
    """Four at the same moment get four numbers, and each folder holds one publisher's rows."""
    sets = [[kept_row(either_home, 10 * n + k) for k in range(3)] for n in range(4)]
    with ThreadPoolExecutor(len(sets)) as publishers:
        releases = list(publishers.map(partial(publish_rows, either_home), sets))
    assert len({release.version for release in releases}) == 4
    for release, rows in zip(releases, sets, strict=True):
        [shard] = release.shards
        data = either_home.read(f"{release.path}/{shard.path}")
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        found = pd.read_parquet(BytesIO(data))["image_sha256"]
        assert list(found) == [row.image_sha256 for row in rows]


def test_two_publishers_of_the_same_make_one_version(storage: LocalFolder) -> None:
    """While one writes, another publishes the same: the first one finds it and steps back."""
    rows = [kept_row(storage, number) for number in range(4)]
    shared = interrupting(
        storage,
        before="README",
        happening=lambda: publish_rows(storage, rows),
    )
    release = publish_rows(shared, rows)
    assert (release.version, release.created) == ("v0002", False)
    assert list(storage.list("releases/v0001")) == []


def test_a_living_publishers_files_are_left_alone(either_home: Storage) -> None:
    """Another publisher clears what dead ones left, and nothing of one that still writes."""
    rows = [kept_row(either_home, number) for number in range(2)]
    publish_rows(either_home, rows)
    dead = json.loads(either_home.read(next(iter(either_home.list("releases/claims/v0001")))))
    with scratch_folder(either_home.scratch) as scratch:
        for version, name in (("v0002", dead["scratch"]), ("v0003", scratch.name)):
            claim = json.dumps(dead | {"scratch": name}).encode()
            either_home.write(f"releases/claims/{version}/a.json", claim)
            either_home.write(f"releases/{version}/parquet/data/train-0.parquet", b"half")
        assert publish_rows(either_home, rows[:1]).version == "v0004"
    assert list(either_home.folders("releases")) == ["claims", "v0001", "v0003", "v0004"]


@pytest.mark.parametrize("last", ["CHANGES.md", "manifest.json"], ids=["before", "amid"])
def test_a_publisher_that_was_taken_for_dead_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """One that slept for days, or whose clock is wrong, makes no half version, and says so."""
    # Each is on a machine of its own.
    monkeypatch.setattr(claims, "_home", lambda *_: uuid.uuid4().hex)
    storage = LocalFolder(tmp_path / "storage")
    rows = [kept_row(storage, number) for number in range(4)]
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    others = iter([rows[:2]])

    def meet(path: str) -> None:
        if path == f"releases/v0001/{last}":
            for of_other in others:
                publish_rows(storage, of_other, created_at=dt.datetime.now(dt.UTC))

    with pytest.raises(TakenForDead, match=r"v0001 was begun .* Release again"):
        publish_rows(Interrupted(tmp_path / "storage", meet), rows, created_at=long_ago)

    (released,) = manifests(storage)
    assert released.version == "v0002"
    assert problems_of(storage, released) == []
    assert not list(storage.list("releases/v0001"))


def test_a_release_that_is_half_deleted_is_cleared(storage: LocalFolder) -> None:
    """Whoever dies while a release is deleted leaves files that the next publisher removes."""
    rows = [kept_row(storage, number) for number in range(3)]
    first, _ = (publish_rows(storage, rows[:number]) for number in (1, 2))

    class Dying(LocalFolder):
        @override
        def delete_folder(self, prefix: str) -> None:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        delete_release(Dying(folder_of(storage, "x").parent), first)
    assert contents(storage, first.path)
    publish_rows(storage, rows)
    assert not contents(storage, first.path)
