"""Publishers killed at any moment, as by the kernel."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
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
# Forks a publisher for each turn that it is told: its imports take longer than what is interrupted.
PUBLISHERS = """
import os, sys
import boto3, lance.file
from tests.release.test_publish_killed import publish_turn

for turn in sys.stdin:
    if not (publisher := os.fork()):
        publish_turn(sys.argv[1], int(turn))
        os._exit(0)
    os.waitpid(publisher, 0)
    print("ended", flush=True)
"""


def publish_turn(uri: str, turn: int) -> None:
    """Publish all pictures, of which each turn has another one; say which process does it."""
    storage = open_storage(uri)
    rows = [kept_row(storage, number) for number in range(PICTURES)]
    rows[0] = kept_row(storage, 1000 + turn)
    print(os.getpid(), flush=True)  # noqa: T201 - read by the test
    publish_rows(storage, rows, policy=policy_of(turn))


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
    publishers = subprocess.Popen(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", PUBLISHERS, uri],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with publishers:
        assert publishers.stdin is not None
        assert publishers.stdout is not None
        for turn in range(KILLS):
            publishers.stdin.write(f"{turn}\n")
            publishers.stdin.flush()
            publisher = int(publishers.stdout.readline())
            time.sleep(chance.uniform(0, 0.4 if home == "folder" else 1.5))
            with suppress(ProcessLookupError):  # it may have come to its end
                os.kill(publisher, signal.SIGKILL)
            assert publishers.stdout.readline() == "ended\n"
            for release in manifests(storage)[-1:]:
                assert problems_of(storage, release) == []
        publishers.stdin.close()

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
