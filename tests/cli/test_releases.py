from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.storage.folder import LocalFolder
from tests.cli.running import do
from tests.release.samples import kept_row, publish_rows


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalFolder:
    """Two releases of a dataset with the prefix 'foxes', on the storage of the environment."""
    monkeypatch.setenv("IMAGEPIPELINE_STORAGE", str(tmp_path / "data"))
    storage = LocalFolder(tmp_path / "data")
    rows = [kept_row(storage, number) for number in range(3)]
    publish_rows(storage, rows[:2], folder="foxes/releases")
    publish_rows(storage, rows, folder="foxes/releases")
    return storage


def run(*arguments: str) -> Result:
    """Run a command about the releases of 'foxes'."""
    return do("releases", *arguments, "--prefix", "foxes")


@pytest.mark.usefixtures("storage")
def test_releases_are_listed_and_shown() -> None:
    """A line a release, oldest first, and the manifest of one; both as JSON too."""
    lines = run("list").stdout.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["v0001", "1.0.0"], ["v0002", "1.1.0"]]
    assert [fact["images"] for fact in json.loads(run("list", "--json").stdout)] == [2, 3]
    shown = run("show").stdout
    assert "v0002 (1.1.0)" in shown
    assert "added: new_prompt: 1" in shown
    assert json.loads(run("show", "v0001", "--json").stdout)["version"] == "v0001"


def test_two_releases_are_compared(storage: LocalFolder) -> None:
    """The difference names the samples, of several of one prompt too, and their causes."""
    told = run("diff", "v0001", "v0002").stdout
    assert "added, new_prompt: 1" in told
    assert "added 'spring' / 'p002', call 0, sample 0 (new_prompt) a fox, number 2" in told
    [change] = json.loads(run("diff", "v0002", "v0001", "--json").stdout)
    assert (change["change"], change["prompt_id"]) == ("removed", "p002")
    assert run("diff", "v0001", "v0001").stdout == "No sample differs.\n"
    policy = ReleasePolicy(formats=("parquet", "imagefolder"))
    rows = [kept_row(storage, number) for number in range(3)]
    publish_rows(storage, rows, folder="foxes/releases", policy=policy)
    assert run("diff", "v0002", "v0003").stdout == (
        'formats: ["parquet"] -> ["parquet", "imagefolder"]\nNo sample differs.\n'
    )
    drawn = run("diff", "v0001", "v0002", "--json", "--sheet", "changed.webp")
    assert len(json.loads(drawn.stdout)) == 1
    assert Path("changed.webp").read_bytes()[8:12] == b"WEBP"
    assert "No picture differs" in run("diff", "v0001", "v0001", "--sheet", "same.webp").stderr


@pytest.mark.parametrize("spoil", ["flip", "delete", "add"])
def test_what_is_not_whole_is_found(storage: LocalFolder, spoil: str) -> None:
    """One flipped byte, a file that is gone and one that was added each end with an error."""
    assert run("verify").stdout.startswith("v0002 is whole: 7 files")
    path = "foxes/releases/v0002/README.md"
    data = storage.read(path)
    match spoil:
        case "flip":
            storage.write(path, data[:-1] + bytes([data[-1] ^ 1]))
        case "delete":
            storage.delete(path)
        case _:
            path = "foxes/releases/v0002/more.txt"
            storage.write(path, b"more")
    spoiled = run("verify")
    assert spoiled.exit_code == 1
    assert path.rpartition("/")[2] in spoiled.stderr
    assert run("verify", "v0001").exit_code == 0


@pytest.mark.parametrize(
    ("was", "is_now", "why"),
    [
        (b"{", b"", "Invalid JSON"),
        (b"v0002", b"v0001", "it is that of v0001"),
        (b'"README.md"', b'"../../README.md"', "not a relative path of plain parts"),
    ],
    ids=["cut off", "of another version", "of a file outside"],
)
def test_a_manifest_that_is_none_is_told(
    storage: LocalFolder, was: bytes, is_now: bytes, why: str
) -> None:
    """Every command names the file and says what to do, and writes nothing."""
    path = "foxes/releases/v0002/manifest.json"
    storage.write(path, storage.read(path).replace(was, is_now))
    for command in (["list"], ["verify", "v0001"], ["export", "v0002", "copy"]):
        told = run(*command).output
        assert why in told
        assert f"{path} is not what was released" in told
        assert "Restore it from a backup, or delete foxes/releases/v0002" in told
    assert not Path("copy").exists()


def private(file: Path) -> Path:
    """Return the file, which nobody else can read any more."""
    file.chmod(0o600)
    return file


def pem(folder: Path, name: str) -> tuple[Path, Path]:
    """Write both halves of a new key; return their files."""
    key = Ed25519PrivateKey.generate()
    secret, public = folder / name, folder / f"{name}.pub"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private(secret), private(public)


def test_a_signature_vouches_for_a_release(storage: LocalFolder, tmp_path: Path) -> None:
    """The key's own signature passes; no signature, another key and another manifest do not."""
    secret, public = pem(tmp_path, "mine")
    other, other_public = pem(tmp_path, "other")
    assert "not signed" in run("verify", "--public-key", str(public)).stderr
    other.chmod(0o644)
    assert f"chmod 600 {other}" in run("sign", "--key", str(other)).stderr
    assert "not an Ed25519 private key" in run("sign", "--key", str(public)).stderr
    assert "not an Ed25519 public key" in run("verify", "--public-key", str(secret)).stderr

    assert run("sign", "--key", str(secret)).stdout == "v0002 is signed.\n"
    assert run("verify", "--public-key", str(public)).exit_code == 0
    assert run("verify").exit_code == 0
    assert "not this key's" in run("verify", "--public-key", str(other_public)).stderr
    copied = run("export", "v0002", str(tmp_path / "copy")).stdout
    assert copied.startswith(f"{len(list(storage.list('foxes/releases/v0002')))} files")

    path = "foxes/releases/v0002/manifest.json"
    manifest = storage.read(path)
    storage.write(path, manifest.replace(b'"foxes"', b'"boxes"'))
    assert "not this key's" in run("verify", "--public-key", str(public)).stderr


def test_a_release_is_copied_whole(storage: LocalFolder, tmp_path: Path) -> None:
    """Every file arrives as it was released; a changed one stops the copy, a full folder too."""
    target = tmp_path / "copy"
    assert run("export", "v0002", str(target)).stdout == f"8 files copied to {target}.\n"
    for file in storage.list("foxes/releases/v0002"):
        name = file.removeprefix("foxes/releases/v0002/")
        assert (target / name).read_bytes() == storage.read(file)
    assert "is not empty" in run("export", "v0002", str(target)).output
    storage.write("foxes/releases/v0002/README.md", b"other")
    assert "is not the file" in run("export", "v0002", str(tmp_path / "other")).output


@pytest.mark.usefixtures("storage")
def test_a_release_that_is_not_there_is_told() -> None:
    """An unknown version names those that are there, also where there is none yet."""
    assert "There is no release v0009: there are v0001, v0002." in run("show", "v0009").output
    assert "There is no release yet." in do("releases", "show").output


def test_old_releases_are_pruned_when_a_person_agrees(storage: LocalFolder) -> None:
    """The newest stay whole, nothing is left of the others, and no number comes again."""
    assert run("prune", "--keep", "1").exit_code == 1
    assert len(json.loads(run("list", "--json").stdout)) == 2
    assert run("prune", "--keep", "1", "--yes").stdout == "Deleted: v0001.\n"
    assert list(storage.list("foxes/releases/v0001")) == []
    assert run("verify").exit_code == 0
    assert "no more than 1 release" in run("prune", "--keep", "1", "--yes").stdout


def test_pruning_waits_for_a_withdrawal(storage: LocalFolder) -> None:
    """What is being written anew is deleted afterwards: nothing comes back, or half of it."""
    pruning = threading.Thread(target=run, args=("prune", "--keep", "1", "--yes"))
    with closing(Ledger(f"sqlite:///{storage.uri_of('ledger.db').removeprefix('file://')}")) as own:
        with own.changing_releases():
            pruning.start()
            pruning.join(0.5)
            assert storage.exists("foxes/releases/v0001/manifest.json")
        pruning.join()
    assert not storage.exists("foxes/releases/v0001/manifest.json")
    rows = [kept_row(storage, number) for number in range(4)]
    assert publish_rows(storage, rows, folder="foxes/releases").version == "v0003"
