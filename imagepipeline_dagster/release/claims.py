"""Who may write a version: a number that one publisher claims, and nobody takes again.

    releases/claims/v0002/….json         who took the number
    releases/claims/v0002/made           the version was seen whole: nobody need look again
    releases/claims/v0002/cleared        its publisher was taken for dead, and its files deleted

A publisher takes a number by a claim of its own under it, where no other claim is. Of several at
most one finds itself alone, and no number is ever taken again. So a folder has one writer in all
its life, and no release can be a mixture, whoever else publishes at the same time and wherever one
of them dies. The price: a publisher that fails halfway, or meets another, leaves a number out.
Numbers say what is newer, not how many versions there are.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.release.reading import VERSION, made_mark, number_of
from imagepipeline_dagster.release.scratch import is_left_behind
from imagepipeline_dagster.storage.contract import Storage

_ABANDONED = timedelta(days=1)  # after which a publisher of another machine is taken for dead
_LONGEST_PAUSE_MS = 200  # between two tries of publishers that met


def claimed_version(
    storage: Storage, folder: str, scratch: Path, *, run_id: str, created_at: datetime
) -> str:
    """Take the next number and return its version."""
    taken = [*storage.folders(folder), *storage.folders(f"{folder}/claims")]
    number = max(map(number_of, filter(VERSION.fullmatch, taken)), default=0) + 1
    claim = canonical_json(
        {
            "run_id": run_id,
            "claimed_at": created_at.isoformat(),
            "scratch": scratch.name,
            "home": _home(storage, scratch),
        }
    ).encode()
    while True:
        version = f"v{number:04d}"
        mine = f"{folder}/claims/{version}/{uuid.uuid4().hex}.json"
        storage.write(mine, claim)
        # The first writer is alone if it looks before the second writes; the second then sees two.
        # Where both wrote before either looked, neither is alone, and both go on to another number.
        if list(storage.list(f"{folder}/claims/{version}")) == [mine]:
            return version
        time.sleep(secrets.randbelow(_LONGEST_PAUSE_MS) / 1000)
        number += 1


def clear_leftovers(storage: Storage, folder: str, scratch: Path) -> None:
    """Remove what died publishers left, and half pictures, thumbnails and tables of other writers.

    However many versions there are, those that were made since the last time are looked at alone.
    """
    claims: dict[str, list[str]] = defaultdict(list)
    for path in storage.list(f"{folder}/claims"):
        claims[PurePosixPath(path).parent.name].append(path)
    for version in filter(VERSION.fullmatch, storage.folders(folder)):
        path = f"{folder}/{version}"
        if (made := made_mark(path)) in claims[version]:
            continue
        if storage.exists(f"{path}/manifest.json"):
            storage.write(made, b"")
            continue
        of_version = (claim for claim in claims[version] if claim.endswith(".json"))
        taken = [json.loads(storage.read(claim)) for claim in of_version]
        if taken and all(_is_abandoned(storage, claim, scratch) for claim in taken):
            # It may have slept, or have another clock: whoever of the two is later sees the other.
            storage.write(_cleared_mark(path), b"")
            if not storage.exists(f"{path}/manifest.json"):
                storage.delete_folder(path)
    # Names alone are read: beside a release that is little, and nothing else looks at all.
    home = folder.rpartition("/")[0]  # has the tables, and pointers; `claims` has half claims
    for path in {"", home, folder, f"{folder}/claims", "images", "thumbnails"}:
        storage.delete_unfinished(path)


def was_cleared(storage: Storage, path: str) -> bool:
    """Tell whether another publisher deleted the files of the version at a path."""
    return storage.exists(_cleared_mark(path))


def _cleared_mark(path: str) -> str:
    return f"{PurePosixPath(made_mark(path)).parent}/cleared"


def _is_abandoned(storage: Storage, claim: Mapping[str, str], scratch: Path) -> bool:
    """Tell whether the publisher with this claim is dead.

    Its scratch folder tells, where that can be looked at. Elsewhere a day is waited.
    """
    if claim.get("home") == _home(storage, scratch):
        return is_left_behind(scratch.with_name(claim["scratch"]))
    return datetime.now(UTC) - datetime.fromisoformat(claim["claimed_at"]) > _ABANDONED


def _home(storage: Storage, scratch: Path) -> str:
    """Return what stands for the place of scratch folders, the same for all who share it."""
    if storage.scratch is not None:
        return "storage"
    place = scratch.parent.stat()
    parts = f"{socket.gethostname()} {place.st_dev} {place.st_ino}"
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
