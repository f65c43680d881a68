"""Pictures taken back: from the store, from every release, and never bought again."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typing_extensions import override

from imagepipeline_dagster.cli import main
from imagepipeline_dagster.databases import copy_sqlite
from imagepipeline_dagster.emulator import EmulatorServer
from imagepipeline_dagster.ledger.decisions import LedgerDecision, decide
from imagepipeline_dagster.ledger.lineage import lineage_of
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.release.dataset_release import latest_release, releases_in
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import delete_release, manifests
from imagepipeline_dagster.release.signing import SIGNATURE, ManifestChanged, sign
from imagepipeline_dagster.release.verifying import problems_of
from imagepipeline_dagster.release.withdrawal import NotRewritten, withdraw
from imagepipeline_dagster.storage.contract import (
    Storage,
    StorageUnavailable,
    image_path,
    tombstone_path,
)
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.buying import Buyer, numbered_rows, prompts_of
from tests.moderation.judging import moderate
from tests.release.samples import (
    EVERYTHING,
    HALVES,
    NOON,
    Interrupted,
    kept_row,
    picture,
    publish_rows,
)

pytest_plugins = ["tests.s3"]

PNG_HEADER = 33  # bytes
LICENSED = HALVES.changed(license="cc-by-4.0")
POLICIES = [LICENSED, LICENSED.changed(formats=("imagefolder",))]
"""With Parquet files, and without."""


def take_back(storage: Storage, ledger: Ledger, *images: str) -> dict[str, list[str]]:
    """Withdraw pictures as Ana does."""
    withdrawn = withdraw(storage, ledger, images, who="ana", why="a person asked", at=NOON)
    return withdrawn.rewritten


def where_it_is(storage: Storage, number: int) -> list[str]:
    """Return the objects that hold the picture's pixels, stamped or not."""
    data = picture(number)[PNG_HEADER:]
    return [path for path in storage.list("") if data in storage.read(path)]


def dying_at(last: str, tmp_path: Path) -> Storage:
    """Return the storage as one has it who is killed before a path is changed."""

    def die(path: str) -> None:
        if path == last:
            raise KeyboardInterrupt

    return Interrupted(tmp_path / "storage", die)


@pytest.mark.parametrize(
    ("either_home", "policy"),
    [("folder", POLICIES[0]), ("folder", POLICIES[1]), ("bucket", POLICIES[0])],
    indirect=["either_home"],
)
def test_a_withdrawn_picture_is_nowhere(
    either_home: Storage, ledger: Ledger, policy: ReleasePolicy
) -> None:
    """Store and all releases of all datasets lack it; they are whole, and say what, why and who."""
    rows = [kept_row(either_home, number) for number in range(8)]
    for folder in ("releases", "foxes/releases"):
        publish_rows(either_home, rows[:6], folder=folder, policy=policy)
        publish_rows(either_home, rows, folder=folder, policy=policy)
    image = str(rows[3].image_sha256)
    assert len(where_it_is(either_home, 3)) > 4

    assert take_back(either_home, ledger, image) == {
        "releases": ["v0001", "v0002"],
        "foxes/releases": ["v0001", "v0002"],
    }
    assert where_it_is(either_home, 3) == []
    for folder in ("releases", "foxes/releases"):
        for release, kept in zip(manifests(either_home, folder), (5, 7), strict=True):
            assert problems_of(either_home, release) == []
            assert (release.counts.kept, release.counts.by_reason["withdrawn"]) == (kept, 1)
            assert sum(release.splits.values()) == kept
            assert "was withdrawn by ana on 2026-03-01: a person asked" in release.left_out[-1]
            card = either_home.read(f"{release.path}/README.md").decode()
            assert "withdrawn by ana" in card
            assert "cc-by-4.0" in card
    tombstone = json.loads(either_home.read(f"withdrawn/{image}.json"))
    assert (tombstone["who"], tombstone["why"], tombstone["finished"]) == (
        "ana",
        "a person asked",
        True,
    )
    # Verdicts that are older than the withdrawal do not bring it back.
    assert publish_rows(either_home, rows, policy=policy).version == "v0002"


def test_a_release_of_nothing_else_is_deleted(storage: LocalFolder, ledger: Ledger) -> None:
    """A release that held that picture alone is gone; `latest` names the one before, if any."""
    rows = [kept_row(storage, number) for number in range(2)]
    for row in rows:
        publish_rows(storage, [row])
    take_back(storage, ledger, str(rows[1].image_sha256))
    assert storage.read("releases/latest") == b"v0001\n"
    assert [release.version for release in manifests(storage)] == ["v0001"]
    take_back(storage, ledger, str(rows[0].image_sha256))
    assert not storage.exists("releases/latest")


def test_only_a_rewritten_release_loses_its_signature(storage: LocalFolder, ledger: Ledger) -> None:
    """It is told that a release is to be signed again; others stay signed, however often."""
    rows = [kept_row(storage, number) for number in range(3)]
    for kept in (rows[:2], rows):
        release = publish_rows(storage, kept)
        storage.write(f"{release.path}/{SIGNATURE}", b"signed")

    withdrawn = withdraw(
        storage, ledger, [str(rows[2].image_sha256)], who="ana", why="asked", at=NOON
    )
    assert withdrawn.unsigned == withdrawn.rewritten == {"releases": ["v0002"]}
    assert storage.read(f"releases/v0001/{SIGNATURE}") == b"signed"
    assert not storage.exists(f"releases/v0002/{SIGNATURE}")


def test_no_signature_of_a_former_manifest_stays(
    tmp_path: Path, storage: LocalFolder, ledger: Ledger
) -> None:
    """Who signs while a withdrawal writes the manifest anew is told to sign again."""
    rows = [kept_row(storage, number) for number in range(3)]
    release = publish_rows(storage, rows)
    key_file = tmp_path / "key.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )

    class Signed(LocalFolder):
        """A storage at which the withdrawal comes just before the signature."""

        @override
        def write(self, path: str, data: bytes, *, derived: bool = False) -> str:
            take_back(storage, ledger, str(rows[0].image_sha256))
            return super().write(path, data, derived=derived)

    with pytest.raises(ManifestChanged, match="v0001 was written anew meanwhile: sign it again"):
        sign(Signed(tmp_path / "storage"), release, key_file)
    assert not storage.exists(f"{release.path}/{SIGNATURE}")


def test_a_withdrawal_makes_no_version_where_pictures_are_alike(
    storage: LocalFolder, ledger: Ledger
) -> None:
    """The rest keeps its splits, near-duplicates among it too: nothing is published anew."""
    rows = [kept_row(storage, number) for number in range(8)]
    images = [str(row.image_sha256) for row in rows]
    publish_rows(storage, rows, policy=LICENSED, alike=list(pairwise(images[:4])))
    take_back(storage, ledger, images[7])
    again = publish_rows(storage, rows[:7], policy=LICENSED, alike=list(pairwise(images[:4])))
    assert (again.version, again.created) == ("v0001", False)


def test_an_old_release_stays_what_it_is(storage: LocalFolder, ledger: Ledger) -> None:
    """Where the manifest does not say how it was made, formats, licence and bytes stay the same."""
    rows = [kept_row(storage, number) for number in range(2)]
    policy = LICENSED.model_copy(update={"stamp": False, "splits": {"train": 1.0}})
    release = publish_rows(storage, rows, policy=policy)
    old = release.model_copy(update={"policy": "", "split_policy": ""})
    storage.write(f"{release.path}/manifest.json", old.model_dump_json().encode())
    [before] = [f for f in release.files if str(rows[0].image_sha256) in f.path]

    take_back(storage, ledger, str(rows[1].image_sha256))

    [rewritten] = manifests(storage)
    assert problems_of(storage, rewritten) == []
    assert before.sha256 in {file.sha256 for file in rewritten.files}
    assert any(file.path.endswith(".tar") for file in rewritten.files)
    assert 'license: "cc-by-4.0"' in storage.read(f"{release.path}/README.md").decode()


@pytest.mark.parametrize(
    ("policy", "changes"),
    [*((POLICIES[0], n) for n in range(0, 60, 3)), *((POLICIES[1], n) for n in range(1, 40, 5))],
)
def test_the_next_call_finishes_what_a_killed_one_began(
    tmp_path: Path, storage: LocalFolder, ledger: Ledger, policy: ReleasePolicy, changes: int
) -> None:
    """Wherever it dies, a further call leaves the picture nowhere, and tells what to sign again."""
    rows = [kept_row(storage, number) for number in range(5)]
    for kept in (rows[:4], rows):
        release = publish_rows(storage, kept, policy=policy)
        storage.write(f"{release.path}/{SIGNATURE}", b"signed")
    left = iter(range(changes))
    signed = {"releases": ["v0001", "v0002"]}

    def spend(_: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    dying = Interrupted(tmp_path / "storage", spend)
    again = [str(rows[2].image_sha256)][: changes % 2]  # or for nothing
    try:
        take_back(dying, ledger, str(rows[2].image_sha256))
        signed = {}
    except KeyboardInterrupt:
        if changes == 0:
            return  # nothing was written: nobody knows of it
    told = withdraw(storage, ledger, again, who="ana", why="a person asked", at=NOON)
    assert told.unsigned == signed
    assert where_it_is(storage, 2) == []
    for release in manifests(storage):
        assert problems_of(storage, release) == []
        assert release.counts.by_reason["withdrawn"] == 1


def test_a_release_that_only_tells_of_a_picture_is_finished_too(
    tmp_path: Path, storage: LocalFolder, ledger: Ledger
) -> None:
    """Where a call dies after the changes were written, the next one writes their manifest."""
    rows = [kept_row(storage, number) for number in range(3)]
    for kept in (rows, rows[:2]):
        release = publish_rows(storage, kept)
        storage.write(f"{release.path}/{SIGNATURE}", b"signed")
    image = str(rows[2].image_sha256)
    with pytest.raises(KeyboardInterrupt):
        take_back(dying_at("releases/v0002/manifest.json", tmp_path), ledger, image)

    told = withdraw(storage, ledger, [], who="ana", why="a person asked", at=NOON)

    assert told.unsigned == {"releases": ["v0001", "v0002"]}
    assert [problems_of(storage, release) for release in manifests(storage)] == [[], []]
    assert manifests(storage)[1].changes == {}


def test_the_first_reason_stays(tmp_path: Path, storage: LocalFolder, ledger: Ledger) -> None:
    """Who asks for what another call began does not change who took the picture back, and why."""
    rows = [kept_row(storage, number) for number in range(2)]
    publish_rows(storage, rows)
    image = str(rows[1].image_sha256)
    with pytest.raises(KeyboardInterrupt):
        take_back(dying_at("releases/v0001/manifest.json", tmp_path), ledger, image)

    withdraw(storage, ledger, [image], who="bo", why="for nothing", at=NOON)

    assert "by ana on 2026-03-01: a person asked" in manifests(storage)[0].left_out[-1]
    assert json.loads(storage.read(tombstone_path(image)))["who"] == "ana"


def test_what_a_dead_publisher_left_goes_too(
    tmp_path: Path, storage: LocalFolder, ledger: Ledger
) -> None:
    """A version that was never made keeps no withdrawn picture."""
    rows = [kept_row(storage, number) for number in range(3)]
    publish_rows(storage, rows[:2])
    with pytest.raises(KeyboardInterrupt):
        publish_rows(dying_at("releases/v0002/manifest.json", tmp_path), rows)
    assert any(path.startswith("releases/v0002/") for path in where_it_is(storage, 2))

    take_back(storage, ledger, str(rows[2].image_sha256))

    assert where_it_is(storage, 2) == []


def test_two_that_withdraw_at_once_wait_for_each_other(tmp_path: Path, ledger: Ledger) -> None:
    """Each of two pictures that are withdrawn at the same time is nowhere, and all is whole."""
    rows = [kept_row(LocalFolder(tmp_path), number) for number in range(6)]
    images = [str(row.image_sha256) for row in rows]
    publish_rows(LocalFolder(tmp_path), rows, policy=LICENSED)

    class Slow(LocalFolder):
        """A storage at which another withdrawal begins while a release is written anew."""

        @override
        def settle(self, prefix: str) -> None:
            other.start()
            other.join(0.5)
            super().settle(prefix)

    other = threading.Thread(target=take_back, args=(LocalFolder(tmp_path), ledger, images[1]))
    take_back(Slow(tmp_path), ledger, images[0])
    other.join()

    storage = LocalFolder(tmp_path)
    [release] = manifests(storage)
    assert problems_of(storage, release) == []
    assert release.counts.kept == 4
    assert [where_it_is(storage, number) for number in range(2)] == [[], []]


@pytest.mark.parametrize("releases", [1, 2], ids=["itself", "one before it"])
def test_a_release_that_its_publisher_deletes_stays_deleted(
    tmp_path: Path, ledger: Ledger, releases: int
) -> None:
    """A publisher that sees the withdrawal takes its version back: half of it does not return."""

    class Published(LocalFolder):
        """A storage at which the newest release is deleted while one is written anew."""

        @override
        def settle(self, prefix: str) -> None:
            super().settle(prefix)
            newest = manifests(self)[-1]
            if newest.version == f"v000{releases}":
                delete_release(self, newest)

    storage = Published(tmp_path / "storage")
    rows = [kept_row(storage, number) for number in range(4)]
    for version in range(releases):
        publish_rows(LocalFolder(tmp_path / "storage"), rows[: 3 + version])

    take_back(storage, ledger, str(rows[0].image_sha256))

    assert list(storage.list(f"releases/v000{releases}")) == []
    assert where_it_is(storage, 0) == []


@pytest.mark.parametrize("is_deleted", [True, False])
def test_an_upload_into_a_release_that_its_publisher_deletes_stops_no_withdrawal(
    tmp_path: Path, ledger: Ledger, *, is_deleted: bool
) -> None:
    """A bucket gives up the upload with the release; of one that is there an error is told."""

    class Published(LocalFolder):
        """A storage at which an upload fails, and whose release may be deleted then."""

        @override
        def upload(self, path: str, file: Path) -> str:
            if is_deleted:
                delete_release(self, *manifests(self))
            raise StorageUnavailable(f"{path} cannot be used (NoSuchUpload)")

    storage = Published(tmp_path / "storage")
    rows = [kept_row(storage, number) for number in range(3)]
    publish_rows(LocalFolder(tmp_path / "storage"), rows)

    ending: AbstractContextManager[Any] = nullcontext()
    if not is_deleted:
        ending = pytest.raises(StorageUnavailable)
    with ending:
        take_back(storage, ledger, str(rows[0].image_sha256))

    assert (where_it_is(storage, 0) == []) is is_deleted


@pytest.mark.parametrize("mark", ["stamped", None])
def test_a_picture_that_the_store_lost_stays_in_a_release(
    either_home: Storage, ledger: Ledger, mark: str | None
) -> None:
    """Other pictures are taken from the release itself, with the marks of their own rows."""
    storage = either_home
    rows = [kept_row(storage, number) for number in range(6)]
    shared = kept_row(storage, 7, data=picture(1))
    policy = EVERYTHING.changed(stamp=mark is not None)
    publish_rows(storage, [*rows, shared], policy=policy)
    columns = ["prompt_id", "file_sha256", "mark", "image"]
    before = latest_release(storage).as_arrow(columns).to_pylist()
    for row in rows:
        storage.delete(image_path(str(row.image_sha256), "PNG"))

    take_back(storage, ledger, str(rows[2].image_sha256))

    release = latest_release(storage)
    assert problems_of(storage, release.manifest) == []
    del before[2]
    assert release.as_arrow(columns).to_pylist() == before
    assert {row["mark"] for row in before} == {mark}
    files = [f for f in release.manifest.files if f.path.startswith("imagefolder/train/")]
    assert {row["file_sha256"] for row in before} < {file.sha256 for file in files}


def test_no_change_tells_of_a_withdrawn_picture(storage: LocalFolder, ledger: Ledger) -> None:
    """A sample whose other picture was withdrawn came or went; one that has no other is untold."""
    rows = [kept_row(storage, number) for number in range(5)]
    rejected: dict[str, Any] = {"verdict": "rejected", "moderation_reason": "override:ok"}
    edited = [
        kept_row(storage, 0, data=picture(20)),
        kept_row(storage, 1, data=picture(21), prompt="a cat"),
        dataclasses.replace(rows[2], overridden_by="bo", **rejected),
        *rows[3:],
        kept_row(storage, 5),
    ]
    publish_rows(storage, rows)
    publish_rows(storage, edited)
    gone = [rows[0], edited[1], rows[2], edited[5]]

    take_back(storage, ledger, *(str(row.image_sha256) for row in gone))

    first, second = releases_in(storage)
    changes = second.changes_since(first)
    assert [(c.change, c.prompt_id, c.cause, c.images) for c in changes] == [
        ("added", "p000", "bought_again", (None, edited[0].image_sha256)),
        ("removed", "p001", "withdrawn", (rows[1].image_sha256, None)),
    ]
    withdrawn = "was withdrawn by ana on 2026-03-01: a person asked"
    assert (changes[1].before, changes[1].after) == (None, withdrawn)
    assert second.manifest.changes == {"added: bought_again": 1, "removed: withdrawn": 1}
    page = storage.read("releases/v0002/CHANGES.md").decode()
    assert "| removed | withdrawn | 1 |" in page
    assert "p002" not in page


def test_a_release_that_lost_a_picture_is_rewritten_too(
    storage: LocalFolder, ledger: Ledger
) -> None:
    """One that tells of a picture, and does not hold it, tells of it no more."""
    rows = [kept_row(storage, number) for number in range(3)]
    for kept in (rows, rows[:2]):
        publish_rows(storage, kept)

    assert take_back(storage, ledger, str(rows[2].image_sha256)) == {"releases": ["v0001", "v0002"]}

    first, second = releases_in(storage)
    assert second.changes_since(first) == []
    assert (second.manifest.changes, second.manifest.left_out) == ({}, ())
    assert second.counts.by_reason == {"ok": 2}
    found = [path for path in storage.list("releases") if b"number 2" in storage.read(path)]
    assert found == []


def test_a_release_that_left_a_picture_out_names_it_no_more(
    storage: LocalFolder, ledger: Ledger
) -> None:
    """What a release says of a picture that the store had lost goes with the picture."""
    rows = [kept_row(storage, number) for number in range(3)]
    image = str(rows[2].image_sha256)
    storage.delete(image_path(image, "PNG"))
    assert image in str(publish_rows(storage, rows).left_out)

    assert take_back(storage, ledger, image) == {"releases": ["v0001"]}

    [release] = manifests(storage)
    assert (release.left_out, problems_of(storage, release)) == ((), [])
    assert [p for p in storage.list("releases") if image.encode() in storage.read(p)] == []


@pytest.mark.parametrize("number", [0, 4], ids=["held", "not held"])
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *(("shard", damage) for damage in ("lost", "cut")),
        *(("changes.parquet", damage) for damage in ("lost", "cut")),
        ("manifest.json", "cut"),
    ],
)
def test_a_release_that_is_not_whole_says_how_to_go_on(
    storage: LocalFolder, ledger: Ledger, kind: str, damage: str, number: int
) -> None:
    """Where a file of a release is damaged, the message names it and the way out, which works.

    Meanwhile the picture is nowhere else.
    """
    rows = [kept_row(storage, number) for number in range(5)]
    image = str(rows[number].image_sha256)
    release = publish_rows(storage, rows[:4])
    publish_rows(storage, rows)
    file = release.shards[0].path if kind == "shard" else kind
    path = f"{release.path}/{file}"
    if damage == "cut":
        storage.write(path, storage.read(path)[:-99])
    else:
        storage.delete(path)

    with pytest.raises(NotRewritten, match=rf"(?s)v0001.*{file}.*or delete") as told:
        take_back(storage, ledger, image)

    where = release.path if kind == "manifest.json" else storage.uri_of(release.path)
    assert where in str(told.value)
    assert "withdraw again" in str(told.value)
    assert [p for p in where_it_is(storage, number) if not p.startswith(release.path)] == []
    assert problems_of(storage, latest_release(storage).manifest) == []
    storage.delete_folder(release.path)
    take_back(storage, ledger)
    assert json.loads(storage.read(tombstone_path(image)))["finished"]


@pytest.mark.parametrize("read", [1, 3], ids=["before its splits", "before its changes"])
def test_a_release_that_is_rewritten_is_followed_all_the_same(
    tmp_path: Path, storage: LocalFolder, ledger: Ledger, read: int
) -> None:
    """A publisher that knows the former release as it was before a withdrawal looks again."""
    rows = [kept_row(storage, number) for number in range(8)]
    publish_rows(storage, rows[:6], policy=LICENSED)
    image = str(rows[3].image_sha256)
    reads = iter(range(read))

    class Rewritten(LocalFolder):
        def read(self, path: str) -> bytes:
            data = super().read(path)
            if path == "releases/v0001/manifest.json" and next(reads, None) == read - 1:
                take_back(storage, ledger, image)
            return data

    release = publish_rows(Rewritten(tmp_path / "storage"), rows, policy=LICENSED)

    assert where_it_is(storage, 3) == []
    assert (release.previous, release.counts.kept) == ("v0001", 7)
    assert [problems_of(storage, one) for one in manifests(storage)] == [[], []]


def test_a_withdrawn_picture_is_not_bought_again(
    tmp_path: Path, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan and lineage show it as withdrawn; it is bought again when a person says so."""
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    buyer = Buyer(ledger_url=ledger_url, folder=tmp_path / "data", base_url=emulator.url)
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    monkeypatch.setenv("IMAGEPIPELINE_LEDGER_URL", ledger_url)
    prompts = prompts_of(numbered_rows(3))
    publish_rows(buyer.storage, moderate(buyer.buy(prompts).images))
    buyer.storage.write(f"releases/v0001/{SIGNATURE}", b"signed")
    prompt_id = prompts[1].prompt_id

    command = ["releases", "withdraw", "--prompt", f"spring/{prompt_id}", "--yes"]
    told = CliRunner().invoke(main, [*command, "--why", "a person asked", "--who", "ana"])
    assert told.output == (
        "1 picture withdrawn.\nRewritten in releases: v0001.\n"
        "No longer signed in releases: v0001. Sign each again: "
        "imagepipeline-dagster releases sign VERSION --key KEY_FILE\n"
    )
    assert latest_release(buyer.storage).as_arrow(["prompt_id"]).num_rows == 2
    traced = CliRunner().invoke(main, ["lineage", "--prompt", f"spring/{prompt_id}"]).output
    assert "rejected (withdrawn)" in traced

    again = buyer.buy(prompts)
    assert again.outcomes == {"generated": 2, "withdrawn": 1}
    assert emulator.stats.posts_received == 3
    [row] = [row for row in moderate(again.images) if row.prompt_id == prompt_id]
    assert (row.verdict, row.moderation_reason) == ("rejected", "withdrawn")
    with buyer.open_ledger() as ledger:
        [sample] = lineage_of(ledger, str(row.image_sha256)).samples
        assert [(d.decision, d.who, d.why) for d in sample.decisions] == [
            ("withdraw", "ana", "a person asked")
        ]
        decide(
            ledger,
            [sample.entry.request_key],
            LedgerDecision.RESUBMIT,
            who="ana",
            why="agreed again",
        )
    buyer.buy(prompts)
    assert emulator.stats.posts_received == 4


@pytest.mark.parametrize("command", ["adopt", "rebuild"])
def test_an_older_ledger_learns_what_was_withdrawn(
    tmp_path: Path, emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A copy from before a withdrawal has the picture withdrawn once it is taken or mended."""
    file, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    buyer = Buyer(ledger_url=f"sqlite:///{file}", folder=tmp_path / "data", base_url=emulator.url)
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    monkeypatch.setenv("IMAGEPIPELINE_LEDGER_URL", buyer.ledger_url)
    prompts = prompts_of(numbered_rows(2))
    image = str(buyer.buy(prompts).images[0].image_sha256)
    copy_sqlite(file, copy)
    with buyer.open_ledger() as ledger:
        take_back(buyer.storage, ledger, image)
    for of_ledger in tmp_path.glob("ledger.db*"):
        of_ledger.unlink()
    copy.rename(file)

    ran = CliRunner().invoke(main, ["ledger", command, "--yes"])

    assert ran.exit_code == 0, ran.output
    assert buyer.buy(prompts).outcomes == {"generated": 1, "withdrawn": 1}
    assert not any(image in path for path in buyer.storage.list("images"))


def test_what_is_withdrawn_must_be_named() -> None:
    """One of picture, prompt and embedding, and why."""
    ran = CliRunner().invoke(main, ["releases", "withdraw", "--why", "x", "--who", "ana"])
    assert "Give --image, --prompt or --embedding." in ran.output
    ran = CliRunner().invoke(main, ["releases", "withdraw", "--image", "abc"])
    assert re.search(r"Missing option .*--why", ran.output)
