"""What the newest release was last compared with: while that stays the same, nothing is read.

    releases/last_look.json      the version, a digest of all that it follows from, what is left out

Nobody needs the file. Without it, or with another digest, every table is read as for any release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.columns import FORMAT_VERSION
from imagepipeline_dagster.release.reading import latest_manifest
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage


class _Look(BaseModel, frozen=True):
    version: str
    basis: str
    left_out: tuple[str, ...] = ()


def basis_of_release(storage: Storage, content: Mapping[str, object]) -> str:
    """Return a digest of all that a release follows from, with the pictures that were withdrawn."""
    parts = {**content, "format": FORMAT_VERSION, "withdrawn": list(storage.list("withdrawn"))}
    return hashlib.blake2b(canonical_json(parts).encode(), digest_size=16).hexdigest()


def unchanged_release(storage: Storage, folder: str, basis: str) -> Release | None:
    """Return the newest release if it was last compared with just this basis."""
    try:
        look = _Look.model_validate_json(storage.read(f"{folder}/last_look.json"))
    except (ObjectMissing, ValidationError):
        return None
    latest = latest_manifest(storage, folder)
    if latest is None or (latest.version, basis) != (look.version, look.basis):
        return None
    return latest.model_copy(update={"left_out": look.left_out})


def record_look(
    storage: Storage, folder: str, release: Release, basis: str, *, left_out: Sequence[str]
) -> None:
    """Note that the newest release is what follows from this basis.

    A release that lost pictures is looked at again: they may come back.
    """
    if len(release.left_out) == len(left_out):
        look = _Look(version=release.version, basis=basis, left_out=release.left_out)
        storage.write(f"{folder}/last_look.json", f"{look.model_dump_json(indent=2)}\n".encode())
