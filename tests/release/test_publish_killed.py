"""Publishers killed at any moment, as by the kernel."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagepipeline_dagster.release import scratch
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import latest_manifest, manifests
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.storage import folder
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from tests.release.samples import kept_row, publish_rows

pytest_plugins = ["tests.s3"]

FORMATS = (("parquet", "webdataset", "imagefolder", "lance"), ("imagefolder",))
PICTURES = 30
KILLS = 50
OF_ONE_POLICY = 5  # one after the other, so that they take files over
PUBLISHER = """
import sys
import lance.file  # ahead: its import takes longer than what is to be interrupted
from imagepipeline_dagster.storage.opening import open_storage
from tests.release.samples import kept_row, publish_rows
from tests.release.test_publish_killed import PICTURES, policy_of

storage = open_storage(sys.argv[1])
rows = [kept_row(storage, number) for number in range(PICTURES)]
rows[0] = kept_row(storage, 1000 + int(sys.argv[2]))
print("ready", flush=True)
publish_rows(storage, rows, policy=policy_of(int(sys.argv[2])))
"""


def policy_of(turn: int) -> ReleasePolicy:
    """Return how the publisher of a turn releases: in all formats, or an image folder alone."""
    formats = FORMATS[turn // OF_ONE_POLICY % len(FORMATS)]
    return ReleasePolicy.model_validate({"formats": formats, "max_lost_share": 1})


@pytest.mark.slow
@pytest.mark.parametrize("home", ["folder", "bucket"])
def test_a_publisher_killed_at_any_moment_leaves_nothing_half(
    home: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of fifty kills there are whole releases alone; the next one clears the rest."""
    if home == "folder":
        uri = str(tmp_path / "storage")
    else:
        uri = f"s3://{request.getfixturevalue('s3_bucket')}/data"
    storage = open_storage(uri)
    chance = random.Random(7)  # noqa: S311 - moments, not secrets
    for turn in range(KILLS):
        publisher = subprocess.Popen(  # noqa: S603 - this very interpreter
            [sys.executable, "-c", PUBLISHER, uri, str(turn)],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
        )
        with publisher:
            assert publisher.stdout is not None
            publisher.stdout.readline()
            time.sleep(chance.uniform(0, 0.4 if home == "folder" else 1.5))
            publisher.send_signal(signal.SIGKILL)
        for release in manifests(storage)[-1:]:
            assert problems_of(storage, release) == []

    monkeypatch.setattr(folder, "_SUSPENDED", 0)  # as if it were hours later
    monkeypatch.setattr(scratch, "_JUST_MADE", 0)
    rows = [kept_row(storage, number) for number in range(PICTURES)]
    for turn in (KILLS, KILLS + OF_ONE_POLICY):
        published = publish_rows(storage, rows, policy=policy_of(turn))
        assert published.created
        assert latest_manifest(storage) == published.model_copy(update={"created": False})
    for release in manifests(storage):
        assert problems_of(storage, release) == []
    assert_nothing_is_left_behind(storage)


def assert_nothing_is_left_behind(storage: Storage) -> None:
    """Check that each folder of a version is a release, without a file more."""
    versions = {release.version for release in manifests(storage)}
    assert set(storage.folders("releases")) == {"claims", *versions}
    if isinstance(storage, LocalFolder):
        root = Path(storage.uri.removeprefix("file://"))
        assert list(root.rglob(".tmp-*")) == []
