"""A dataset's next version: written whole or not at all, and only where the content changed.

    releases/v0002/parquet/…             the pictures, and other formats beside
    releases/v0002/README.md             the card
    releases/v0002/croissant.json        what is in it, for tools
    releases/v0002/contact_sheet.webp
    releases/v0002/manifest.json         written last: with it the version exists
    releases/latest                      the newest version's name, for plain tools

The number of a version is claimed first (`claims`): its folder has one writer in all its life.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pyarrow as pa

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import NO_COUNTS
from imagepipeline_dagster.release.card import (
    CONTACT_SHEET,
    Release,
    ReleaseFile,
    card,
    examples_sheet,
    pick_examples,
)
from imagepipeline_dagster.release.changes import (
    CHANGES,
    ChangesTable,
    changes_page,
    next_semantic_version,
)
from imagepipeline_dagster.release.claims import claimed_version, clear_leftovers, was_cleared
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.content import (
    Content,
    NothingToRelease,
    Publication,
    content_of,
    withdrawn_pictures,
)
from imagepipeline_dagster.release.croissant import CROISSANT, croissant
from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.packing import format_cards, pack
from imagepipeline_dagster.release.parts import parts_of
from imagepipeline_dagster.release.pictures import LostImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import delete_release, latest_manifest, newest_version
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

T = TypeVar("T")


class TakenForDead(CorrectableError):
    """Another publisher deleted what this one wrote, since it took so long."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"{version} was begun more than a day ago, so another run took this one for dead and "
            "deleted what it had written. Release again, with the rows as they are now. If this "
            "run did not sleep, compare the clocks of the machines that release."
        )


class TooMuchLost(CorrectableError):
    """A release would lack many pictures of the former one, and nobody said that this is meant."""


def publish(asked: Publication) -> Release:
    """Write the kept images as the dataset's next version, unless the latest one has just them.

    The rows that were not kept are counted in the card and the manifest, and are not released. A
    picture whose bytes are gone or changed is left out and named, and stops no other.

    Returns:
        The new release, or the latest one with `created` False where its content is the same.

    Raises:
        NothingToRelease: when no image is kept.
        UnmoderatedImage: when a row is kept that must not be.
        SplitsLeak: when pictures that tell of each other would be in several splits.
        TooMuchLost: when more of the former release would be gone than the policy allows.
        TakenForDead: when another publisher deleted the files of this one.
    """
    storage = asked.storage
    latest, content = _beside_latest(asked, partial(content_of, asked))
    if latest and latest.fingerprint == content.fingerprint:
        return _unchanged(asked, latest, asked.all_left_out)
    with scratch_folder(storage.scratch) as scratch:
        clear_leftovers(storage, asked.folder, scratch)
        version = claimed_version(
            storage, asked.folder, scratch, run_id=asked.run_id, created_at=asked.created_at
        )
        path = f"{asked.folder}/{version}"
        try:
            content, release = _packed(asked, content, version, latest, scratch)
            described = _newest(asked, release, content)
        except BaseException as error:
            storage.delete_folder(path)
            if isinstance(error, OSError) and was_cleared(storage, path):
                raise TakenForDead(version) from error
            raise
        if described.version != version:
            storage.delete_folder(path)
            return _unchanged(asked, described, release.left_out)
        # Nothing is discarded any more: a write whose answer was lost may have made the version.
        manifest = f"{described.model_dump_json(indent=2)}\n".encode()
        storage.write(f"{path}/manifest.json", manifest)
    # A withdrawal names its pictures before it looks for releases, and this one is there before
    # it looks for withdrawals: whoever is later sees the other.
    withdrawn = withdrawn_pictures(storage)
    if was_cleared(storage, path):
        delete_release(storage, described)
        raise TakenForDead(version)
    if withdrawn and content.shows_any(withdrawn):
        delete_release(storage, described)
        return publish(asked)
    point_to_latest(storage, asked.folder)
    return described.model_copy(update={"created": True})


def _packed(
    asked: Publication, content: Content, version: str, former: Release | None, scratch: Path
) -> tuple[Content, Release]:
    """Write the pictures in all formats; return what was not lost, and the release with it.

    They last once what is beside them is written.

    Raises:
        NothingToRelease: all pictures are lost.
    """
    policy, path = asked.policy, f"{asked.folder}/{version}"
    left_out = asked.all_left_out
    while content.kept:
        parts = {
            split: list(
                parts_of(
                    split,
                    content.runs.get(split, {}),
                    bytes_per_shard=asked.bytes_per_shard,
                    shaping=policy.shaping,
                )
            )
            for split in policy.splits
        }
        with TemporaryDirectory(dir=scratch) as unfinished, ThreadPoolExecutor(1) as beside:
            # Drawn while others hash and write: at the end it would be waited for.
            sheet = beside.submit(write_contact_sheet, asked.storage, path, content.kept)
            files, lost, sources_lost = pack(
                asked.storage,
                path,
                parts,
                policy=policy,
                scratch=Path(unfinished),
                former=former,
            )
        if not lost:
            left_out += tuple(sources_lost)
            break
        asked.storage.delete_folder(path)
        content = content.without(lost)
        left_out += tuple(map(_told, lost))
    # Arrow keeps what its writers took: the comparison that follows would come on top.
    pa.default_memory_pool().release_unused()
    counts = sum(content.counts.values(), start=NO_COUNTS)
    if not content.kept:
        raise NothingToRelease(counts, left_out)
    splits = content.splits
    return content, Release(
        name=asked.name,
        version=version,
        path=path,
        fingerprint=content.fingerprint,
        splits={split: splits[split] for split in policy.splits if splits.get(split)},
        split_policy=policy.splitting,
        policy=policy.model_dump_json(),
        created_at=asked.created_at,
        run_id=asked.run_id,
        emulated=content.kept.emulated,
        counts=counts,
        prompt_sets=content.counts,
        drift=asked.drift,
        left_out=left_out,
        files=(*files, sheet.result()),
    )


def _newest(asked: Publication, release: Release, content: Content) -> Release:
    """Return the release described as the next one, or the newest where it has just its content.

    Writing takes a while: somebody may have published meanwhile, and even the same.
    """

    def described(latest: Release | None) -> Release:
        if latest and latest.fingerprint == release.fingerprint:
            return latest
        return _described(asked, release, latest, content)

    return _beside_latest(asked, described)[1]


def _beside_latest(
    asked: Publication, work: Callable[[Release | None], T]
) -> tuple[Release | None, T]:
    """Return the newest release, and what comes of work with it.

    A withdrawal may write it anew meanwhile, and others may publish: then the work is done again.
    """
    while True:
        latest = latest_manifest(asked.storage, asked.folder)
        try:
            done = work(latest)
        except ObjectMissing as error:
            if latest and latest_manifest(asked.storage, asked.folder) == latest:
                raise ObjectMissing(
                    f"{error}. {latest.version} is not whole, and what differs from it is told in "
                    f"the next release: restore the file from a backup, or delete "
                    f"{asked.storage.uri_of(latest.path)}, and publish again"
                ) from error
            continue
        if latest_manifest(asked.storage, asked.folder) == latest:
            return latest, done


def _described(
    asked: Publication, release: Release, former: Release | None, content: Content
) -> Release:
    """Write all that is beside the shards, and return the release with these files.

    Raises:
        TooMuchLost: it lacks more of the former release's pictures than the policy allows.
    """
    storage, policy = asked.storage, asked.policy
    changes = ChangesTable(
        changes_of(storage, former, release, others=content.others, stopped=asked.stopped)
        if former
        else ()
    )
    if former is not None:
        _refuse_losses(former, release, changes, policy)
    release = release.model_copy(
        update={
            "previous": former.version if former else None,
            "semantic_version": next_semantic_version(
                former.semantic_version if former else None, changes.kinds
            ),
            "changes": changes.by_cause,
        }
    )
    return write_beside(storage, release, content.kept, changes, policy)


def write_contact_sheet(storage: Storage, path: str, kept: HeldRows) -> ReleaseFile:
    """Write the sheet of a few pictures into a release's folder, and return what it is."""
    sheet = examples_sheet(storage, pick_examples(kept))
    storage.write_all({f"{path}/{CONTACT_SHEET}": sheet})
    return ReleaseFile.of(CONTACT_SHEET, sheet)


def write_beside(
    storage: Storage,
    release: Release,
    kept: HeldRows,
    changes: ChangesTable,
    policy: ReleasePolicy,
) -> Release:
    """Write the card, the changes and the formats' cards, and return the release with them.

    All that is below its folder survives a loss of power then, and a manifest may vouch for it.
    """
    page = changes_page(release.version, release.previous, changes)
    others = {
        "README.md": card(release, pick_examples(kept), policy=policy).encode(),
        CROISSANT: croissant(release, policy),
        "CHANGES.md": page.encode(),
        CHANGES: changes.parquet,
        **format_cards(release, policy, kept),
    }
    storage.write_all({f"{release.path}/{name}": data for name, data in others.items()})
    storage.settle(release.path)
    written = [ReleaseFile.of(name, data) for name, data in others.items()]
    return release.model_copy(update={"files": (*release.files, *written)})


def _refuse_losses(
    former: Release, release: Release, changes: ChangesTable, policy: ReleasePolicy
) -> None:
    lost = changes.accidental_losses
    if (number := sum(lost.values())) > policy.max_lost_share * former.counts.kept:
        why = ", ".join(f"{number} {cause}" for cause, number in lost.items())
        raise TooMuchLost(
            f"{number} of the {former.counts.kept} pictures of {former.version} would be gone "
            f"({why}), and max_lost_share allows {policy.max_lost_share:.0%}. If that is meant, "
            "release once with the run config max_lost_share: 1, or raise it in the ReleasePolicy."
            + "".join(f"\nLeft out: {sentence}" for sentence in release.left_out)
        )


def _unchanged(asked: Publication, latest: Release, left_out: tuple[str, ...]) -> Release:
    point_to_latest(asked.storage, asked.folder)
    return latest.model_copy(update={"left_out": left_out})


def point_to_latest(storage: Storage, folder: str) -> None:
    """Let `latest` name the newest version; the next publisher does it for one that died before.

    Where no version is left, it names none.
    """
    if version := newest_version(storage, folder):
        storage.write(f"{folder}/latest", f"{version}\n".encode())
    else:
        storage.delete(f"{folder}/latest")


def _told(lost: LostImage) -> str:
    return f"{lost.row.prompt_set!r}, prompt {lost.row.prompt_id!r}: {lost.why}."
