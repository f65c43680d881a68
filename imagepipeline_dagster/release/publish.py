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

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.moderation.verdicts import Counts, ModeratedImage, Verdict, summarise
from imagepipeline_dagster.purchase.canaries import Drift
from imagepipeline_dagster.release.card import (
    CONTACT_SHEET,
    Release,
    ReleaseFile,
    card,
    examples_sheet,
    pick_examples,
)
from imagepipeline_dagster.release.changes import ChangesTable, changes_page, next_semantic_version
from imagepipeline_dagster.release.claims import claimed_version, clear_leftovers
from imagepipeline_dagster.release.columns import fingerprint
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.croissant import CROISSANT, croissant
from imagepipeline_dagster.release.packing import format_cards, pack
from imagepipeline_dagster.release.parts import SHARD_BYTES, Part, parts_of, shuffled_place
from imagepipeline_dagster.release.pictures import LostImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import delete_release, latest_manifest, read_rows
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.splits import Place, SplitsLeak, leaks, splits_of
from imagepipeline_dagster.storage.contract import Storage

_DEFAULT_POLICY = ReleasePolicy()


class NothingToRelease(CorrectableError):
    """No image was kept; `counts` tells what became of the samples."""

    def __init__(self, counts: Counts, left_out: Sequence[str] = ()) -> None:
        self.counts = counts
        why = ", ".join(f"{number} {reason}" for reason, number in counts.by_reason.items())
        summary = (
            f"None of {counts.requested} samples was kept ({why}), so there is nothing to release."
            " Materialize moderated_images for a prompt set whose images are there and checked."
            if counts.requested
            else "There are no samples at all, so there is nothing to release: materialize "
            "moderated_images for a prompt set first."
        )
        super().__init__("\n".join([summary, *(f"Left out: {sentence}" for sentence in left_out)]))


class TooMuchLost(CorrectableError):
    """A release would lack many pictures of the former one, and nobody said that this is meant."""


class UnmoderatedImage(CorrectableError, ValueError):
    """An image must not be released; `objections` has a sentence for each such row."""

    def __init__(self, objections: Sequence[str]) -> None:
        self.objections = tuple(objections)
        further = f" And {len(objections) - 3} more." if len(objections) > 3 else ""
        super().__init__(f"{' '.join(objections[:3])}{further}")


def release_counts(rows: Iterable[ModeratedImage]) -> dict[str, Counts]:
    """Return what became of the samples of each prompt set, the sets sorted by name."""
    by_set: dict[str, list[ModeratedImage]] = {}
    for row in rows:
        by_set.setdefault(row.prompt_set, []).append(row)
    return {name: summarise(by_set[name]) for name in sorted(by_set)}


def publish(
    storage: Storage,
    *,
    name: str,
    images: Iterable[ModeratedImage],
    run_id: str,
    created_at: datetime,
    folder: str = "releases",
    left_out: Sequence[str] = (),
    policy: ReleasePolicy = _DEFAULT_POLICY,
    alike: Sequence[tuple[str, str]] = (),
    drift: Drift | None = None,
    bytes_per_shard: int = SHARD_BYTES,
) -> Release:
    """Write the kept images as the dataset's next version, unless the latest one has just them.

    The rows that were not kept are counted in the card and the manifest, and are not released. A
    picture whose bytes are gone or changed is left out and named, and stops no other.

    Args:
        storage: where the images are, and where the release goes.
        name: the dataset's name, for its card.
        images: all rows of the dataset, in any order. They are held in memory, without the bytes.
        run_id: the Dagster run.
        created_at: now, with a time zone.
        folder: where the dataset's versions are; another dataset needs another folder.
        left_out: what is not among the images though it exists, a sentence each.
        policy: how it is released.
        alike: near-duplicates among the pictures, in pairs of their SHA-256: they share a split.
        drift: that the hosted model gives other pictures now, for the card.
        bytes_per_shard: images of a Parquet file, in bytes; also the temporary disk space needed.

    Returns:
        The new release, or the latest one with `created` False where its content is the same.

    Raises:
        NothingToRelease: when no image is kept.
        UnmoderatedImage: when a row is kept that must not be.
        SplitsLeak: when pictures that tell of each other would be in several splits.
        TooMuchLost: when more of the former release would be gone than the policy allows.
    """
    images = list(images)
    rows = _without_withdrawn(storage, images)
    # The order makes the same content the same bytes.
    kept = sorted(
        (row for row in rows if row.verdict == Verdict.KEPT),
        key=partial(_place_in_release, shuffled=policy.order == "shuffled"),
    )
    if problems := objections(kept):
        raise UnmoderatedImage(problems)
    if not kept:
        raise NothingToRelease(summarise(rows), left_out)
    latest = latest_manifest(storage, folder)
    splits = _splits(storage, kept, latest, policy, alike)
    content = fingerprint(kept, splits, packing=policy.packing)
    if latest and latest.fingerprint == content:
        return _unchanged(storage, folder, latest, left_out)

    with scratch_folder(storage.scratch) as scratch:
        clear_leftovers(storage, folder, scratch)
        version = claimed_version(storage, folder, scratch, run_id=run_id, created_at=created_at)
        path = f"{folder}/{version}"
        try:
            parts = _parts(kept, splits, policy, bytes_per_shard=bytes_per_shard)
            files, lost = pack(storage, path, parts, policy=policy, scratch=scratch, former=latest)
            said = [*left_out, *map(_told, lost)]
            if lost:
                rows, kept, splits = _without_lost(rows, kept, splits, lost)
                content = fingerprint(kept, splits, packing=policy.packing)
            if not kept:
                raise NothingToRelease(summarise(rows), said)
            release = Release(
                name=name,
                version=version,
                path=path,
                fingerprint=content,
                splits={split: splits.count(split) for split in policy.splits if split in splits},
                split_policy=policy.splitting,
                policy=policy.model_dump_json(),
                created_at=created_at,
                run_id=run_id,
                emulated=sum(row.emulated for row in kept),
                counts=summarise(rows),
                prompt_sets=release_counts(rows),
                drift=drift,
                left_out=tuple(said),
                files=files,
            )
            described = _newest(storage, folder, release, kept, rows, policy)
            if described.version != version:
                storage.delete_folder(path)
                return _unchanged(storage, folder, described, said)
        except BaseException:
            storage.delete_folder(path)
            raise
        # Nothing is discarded any more: a write whose answer was lost may have made the version.
        manifest = f"{described.model_dump_json(indent=2)}\n".encode()
        storage.write(f"{path}/manifest.json", manifest)
        # A withdrawal names its pictures before it looks for releases, and this one is there before
        # it looks for withdrawals: whoever is later sees the other.
        if not _withdrawn(storage).isdisjoint(row.image_sha256 for row in kept):
            delete_release(storage, described)
            return publish(
                storage,
                name=name,
                images=images,
                run_id=run_id,
                created_at=created_at,
                folder=folder,
                left_out=left_out,
                policy=policy,
                alike=alike,
                drift=drift,
                bytes_per_shard=bytes_per_shard,
            )
        point_to_latest(storage, folder)
    return described.model_copy(update={"created": True})


def _splits(
    storage: Storage,
    kept: Sequence[ModeratedImage],
    latest: Release | None,
    policy: ReleasePolicy,
    alike: Sequence[tuple[str, str]],
) -> list[str]:
    """Return the split of each row.

    Raises:
        SplitsLeak: when pictures that tell of each other would be in several splits.
    """
    splits = splits_of(kept, policy, former=_former_splits(storage, latest, policy), alike=alike)
    if sentences := leaks(kept, splits, policy, alike=alike):
        raise SplitsLeak(" ".join(sentences[:3]))
    return splits


def _parts(
    kept: Sequence[ModeratedImage],
    splits: Sequence[str],
    policy: ReleasePolicy,
    *,
    bytes_per_shard: int,
) -> dict[str, list[Part]]:
    """Return the parts of each split."""
    rows: dict[str, list[ModeratedImage]] = {split: [] for split in policy.splits}
    for row, split in zip(kept, splits, strict=True):
        rows[split].append(row)
    return {
        split: list(
            parts_of(
                split,
                own,
                bytes_per_shard=bytes_per_shard,
                shaping=policy.shaping,
                shuffled=policy.order == "shuffled",
            )
        )
        for split, own in rows.items()
    }


def _without_withdrawn(storage: Storage, images: Iterable[ModeratedImage]) -> list[ModeratedImage]:
    """Return the rows; verdicts that are older than a withdrawal bring no picture back."""
    withdrawn = _withdrawn(storage)
    return [
        dataclasses.replace(
            row,
            verdict=Verdict.REJECTED.value,
            moderation_reason=Outcome.WITHDRAWN.value,
            outcome=Outcome.WITHDRAWN.value,
        )
        if row.image_sha256 in withdrawn
        else row
        for row in images
    ]


def _withdrawn(storage: Storage) -> set[str]:
    return {PurePosixPath(path).stem for path in storage.list("withdrawn")}


def _former_splits(
    storage: Storage, former: Release | None, policy: ReleasePolicy
) -> dict[Place, str]:
    """Return the splits of the former release's samples, where it was split by the same policy."""
    if former is None or former.split_policy != policy.splitting or len(policy.splits) == 1:
        return {}
    columns = ["prompt_set", "prompt_id", "call_index", "sample_index", "image_sha256", "split"]
    rows = read_rows(storage, former, columns).to_pylist()
    return {tuple(row[name] for name in columns[:-1]): row["split"] for row in rows}


def _newest(
    storage: Storage,
    folder: str,
    release: Release,
    kept: Sequence[ModeratedImage],
    rows: Sequence[ModeratedImage],
    policy: ReleasePolicy,
) -> Release:
    """Return the release described as the next one, or the newest where it has just its content.

    Writing takes a while: somebody may have published meanwhile, and even the same.
    """
    while True:
        latest = latest_manifest(storage, folder)
        if latest and latest.fingerprint == release.fingerprint:
            return latest
        described = _described(storage, release, latest, kept, rows, policy)
        if latest_manifest(storage, folder) == latest:
            return described


def _described(
    storage: Storage,
    release: Release,
    former: Release | None,
    kept: Sequence[ModeratedImage],
    rows: Sequence[ModeratedImage],
    policy: ReleasePolicy,
) -> Release:
    """Write all that is beside the shards, and return the release with these files.

    Raises:
        TooMuchLost: it lacks more of the former release's pictures than the policy allows.
    """
    differences = changes_of(storage, former, release, judged=rows) if former else ()
    changes = ChangesTable(differences)
    if former is not None:
        _refuse_losses(former, release, changes, policy)
    release = release.model_copy(
        update={
            "previous": former.version if former else None,
            "semantic_version": next_semantic_version(
                former.semantic_version if former else None, {kind for kind, _ in changes.counts}
            ),
            "changes": changes.by_cause,
        }
    )
    return write_beside(storage, release, kept, changes, policy)


def write_beside(
    storage: Storage,
    release: Release,
    kept: Sequence[ModeratedImage],
    changes: ChangesTable,
    policy: ReleasePolicy,
) -> Release:
    """Write the card, the sheet, the changes and the formats' cards; return it with them."""
    examples = pick_examples(kept)
    page = changes_page(release.version, release.previous, changes)
    others = {
        CONTACT_SHEET: examples_sheet(storage, examples),
        "README.md": card(release, examples, policy=policy).encode(),
        CROISSANT: croissant(release, policy),
        "CHANGES.md": page.encode(),
        "changes.parquet": changes.parquet,
        **format_cards(release, policy, kept),
    }
    written = tuple(_write(storage, release.path, file, data) for file, data in others.items())
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


def _unchanged(storage: Storage, folder: str, latest: Release, left_out: Sequence[str]) -> Release:
    point_to_latest(storage, folder)
    return latest.model_copy(update={"left_out": tuple(left_out)})


def point_to_latest(storage: Storage, folder: str) -> None:
    """Let `latest` name the newest version; the next publisher does it for one that died before."""
    newest = latest_manifest(storage, folder)
    if newest:
        storage.write(f"{folder}/latest", f"{newest.version}\n".encode())


def _without_lost(
    rows: Sequence[ModeratedImage],
    kept: Sequence[ModeratedImage],
    splits: Sequence[str],
    lost: Sequence[LostImage],
) -> tuple[list[ModeratedImage], list[ModeratedImage], list[str]]:
    """Return the rows as they are counted, lost pictures set aside; and those left, and splits."""
    gone = {loss.row for loss in lost}
    judged = [
        dataclasses.replace(row, verdict=Verdict.QUARANTINED.value, moderation_reason="lost")
        if row in gone
        else row
        for row in rows
    ]
    left = [pair for pair in zip(kept, splits, strict=True) if pair[0] not in gone]
    return judged, [row for row, _ in left], [split for _, split in left]


def _told(lost: LostImage) -> str:
    return f"{lost.row.prompt_set!r}, prompt {lost.row.prompt_id!r}: {lost.why}."


def _write(storage: Storage, path: str, file: str, data: bytes) -> ReleaseFile:
    storage.write(f"{path}/{file}", data)
    return ReleaseFile.of(file, data)


def _place_in_release(
    row: ModeratedImage, *, shuffled: bool
) -> tuple[str, str, str, int, int, str]:
    # Where fewer links than samples came back, no sample index is known.
    call, sample = (-1 if i is None else i for i in (row.call_index, row.sample_index))
    first = shuffled_place(row) if shuffled else ""
    return first, row.prompt_set, row.prompt_id, call, sample, row.image_sha256 or ""
