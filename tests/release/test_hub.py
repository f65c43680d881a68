"""A release on the Hub: whole, once, and by nobody else's token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from huggingface_hub import constants

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.environment import resources_for
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.hub import HubRefused, publish_to_hub
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.cli.running import do
from tests.release.hub import TOKEN, Hub, serving
from tests.release.samples import kept_row, publish_rows

REPO = "foxes/den"
# The library's own way to send a file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback that the library asks, and a token for it."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def storage(tmp_path: Path) -> LocalFolder:
    """An empty storage."""
    return LocalFolder(tmp_path / "data")


def _files(storage: Storage, release: Release) -> dict[str, bytes]:
    """Return all files of a release."""
    paths = storage.list(release.path)
    return {path.removeprefix(f"{release.path}/"): storage.read(path) for path in paths}


def _ours(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path != ".gitattributes"}


def test_a_release_is_one_commit_and_one_tag(hub: Hub, storage: LocalFolder) -> None:
    """Its files, the card at the root, are the repository's; what others put there stays."""
    rows = [kept_row(storage, number) for number in range(3)]
    first = publish_rows(storage, rows[:2])
    published = publish_to_hub(storage, first, REPO)
    assert (published.created, published.url) == (True, f"{hub.url}/datasets/{REPO}/tree/v0001")
    assert _ours(hub.files) == _files(storage, first)
    assert (len(hub.commits), hub.tags, hub.private) == (2, {"v0001": 1}, True)
    assert not publish_to_hub(storage, first, REPO).created
    assert len(hub.commits) == 2

    hub.commits.append(hub.files | {"LICENSE": b"mine"})
    second = publish_rows(storage, rows[1:])
    publish_to_hub(storage, second, REPO)
    assert _ours(hub.files) == _files(storage, second) | {"LICENSE": b"mine"}
    assert (len(hub.commits), hub.tags) == (4, {"v0001": 1, "v0002": 3})


@pytest.mark.parametrize("step", ["upload", "commit", "answer of the commit", "tag"])
def test_what_was_stopped_goes_on(hub: Hub, storage: LocalFolder, step: str) -> None:
    """Wherever it stops nothing half is seen; the next one sends and commits nothing twice."""
    release = publish_rows(storage, [kept_row(storage, number) for number in range(3)])
    hub.stop_at = step
    with pytest.raises(HubRefused, match=r"publish again") as refused:
        publish_to_hub(storage, release, REPO)
    assert hub.tags == {}
    assert _ours(hub.files) in ({}, _files(storage, release))
    for secret in (TOKEN, "s3cr3t-link"):
        assert secret not in str(refused.value)
        assert refused.value.__cause__ is None

    publish_to_hub(storage, release, REPO)
    assert _ours(hub.files) == _files(storage, release)
    assert (len(hub.commits), hub.tags) == (2, {"v0001": 1})
    assert len(hub.uploads) == len(set(hub.uploads))


def test_what_must_not_be_published_is_refused(
    hub: Hub, storage: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token, drawings, an older version, others' releases: each is refused, untouched."""
    rows = [kept_row(storage, number) for number in range(3)]
    first, second = publish_rows(storage, rows[:2]), publish_rows(storage, rows)
    publish_to_hub(storage, second, REPO)
    other = publish_rows(storage, rows[:1], folder="others/releases")
    same_number = publish_rows(storage, rows[1:], folder="others/releases")
    drawn = publish_rows(storage, [kept_row(storage, 9, emulated=True)], folder="drawn/releases")
    commits = len(hub.commits)
    for release, why in (
        (first, "is at v0002"),
        (other, "another dataset"),
        (same_number, "another v0002"),
        (drawn, "emulator drew"),
    ):
        with pytest.raises(HubRefused, match=why):
            publish_to_hub(storage, release, REPO)
    hub.commits.append({"manifest.json": b"{}"})
    with pytest.raises(HubRefused, match=r"no release's"):
        publish_to_hub(storage, publish_rows(storage, rows[:2]), REPO)
    hub.commits.pop()
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(HubRefused, match=r"401, Invalid credentials"):
        publish_to_hub(storage, second, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubRefused, match=r"HF_TOKEN is not set"):
        publish_to_hub(storage, second, REPO)
    assert (len(hub.commits), hub.tags) == (commits, {"v0002": 1})


def test_a_command_publishes(
    hub: Hub, storage: LocalFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`releases publish` asks, and tells where the version is."""
    publish_rows(storage, [kept_row(storage, 1)])
    monkeypatch.chdir(tmp_path)
    command = ("releases", "publish", "--repo", REPO)
    assert do(*command, answer="n\n").exit_code == 1
    assert hub.commits == []
    told = json.loads(do(*command, "--yes", "--json").stdout)
    assert told == {
        "version": "v0001",
        "repo": REPO,
        "url": f"{hub.url}/datasets/{REPO}/tree/v0001",
        "created": True,
    }
    assert "was there already" in do(*command, "--yes").stdout


def test_the_release_job_publishes(hub: Hub, storage: LocalFolder) -> None:
    """With `publish_to` the job of the release makes the newest one an asset at the Hub."""
    dataset = ImageDataset(key_prefix=("shop",), release=ReleasePolicy(publish_to=REPO))
    resources = resources_for(storage_uri=storage.uri)
    release = publish_rows(storage, [kept_row(storage, 1)], folder=dataset.releases)
    definitions = build_definitions(dataset, resources, start=False)
    job = definitions.resolve_job_def("shop_release_image_dataset")
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        "shop/image_dataset",
        "shop/hub_dataset",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        made = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["shop", "hub_dataset"])]
        )
    (event,) = made.get_asset_materialization_events()
    assert event.materialization.metadata["version"].value == "v0001"
    assert _ours(hub.files) == _files(storage, release)
