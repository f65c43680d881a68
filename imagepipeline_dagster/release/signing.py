"""An Ed25519 signature of a release's manifest, which in turn vouches for every other file.

    releases/v0001/manifest.json.sig      64 bytes, as `openssl pkeyutl -rawin` writes them

The keys are files of the user's, in PEM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )


SIGNATURE = "manifest.json.sig"
"""Name of the signature, beside the manifest."""

_OTHERS_MAY_READ = 0o077


class KeyUnusable(CorrectableError, ValueError):
    """A key file cannot be used; the message says why, and what to do."""


class ManifestChanged(CorrectableError):
    """What was signed is not the manifest any more."""


def sign(storage: Storage, release: Release, key_file: Path) -> None:
    """Sign the manifest with a private key that nobody but its owner can read.

    Raises:
        KeyUnusable: the key file is not such a key.
        ManifestChanged: a withdrawal wrote the manifest anew meanwhile.
    """
    manifest = storage.read(f"{release.path}/manifest.json")
    storage.write(f"{release.path}/{SIGNATURE}", _private_key(key_file).sign(manifest))
    if storage.read(f"{release.path}/manifest.json") != manifest:
        storage.delete(f"{release.path}/{SIGNATURE}")
        raise ManifestChanged(f"{release.version} was written anew meanwhile: sign it again")


def signature_problem(storage: Storage, release: Release, public_key_file: Path) -> str | None:
    """Return why the manifest is not one that the owner of the key signed, None where it is.

    Raises:
        KeyUnusable: the file is no public key.
    """
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key_file)
    try:
        signature = storage.read(f"{release.path}/{SIGNATURE}")
    except ObjectMissing:
        return "the manifest is not signed"
    try:
        key.verify(signature, storage.read(f"{release.path}/manifest.json"))
    except InvalidSignature:
        return f"{SIGNATURE} is not this key's signature of manifest.json"
    return None


def private_bytes(file: Path) -> bytes:
    """Return what is in a key file.

    Raises:
        KeyUnusable: others can read it too.
    """
    if file.stat().st_mode & _OTHERS_MAY_READ:
        raise KeyUnusable(f"{file} can be read by others: chmod 600 {file}")
    return file.read_bytes()


def _private_key(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret = private_bytes(file)
    try:
        key = load_pem_private_key(secret, password=None)
    except (TypeError, ValueError):  # the cause may quote the file
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(
            f"{file} is not an Ed25519 private key in PEM without a password: make one with "
            "openssl genpkey -algorithm ed25519"
        )
    return key


def _public_key(file: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(
            f"{file} is not an Ed25519 public key in PEM: get it with openssl pkey -pubout"
        )
    return key
