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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain, groupby, repeat
from operator import attrgetter
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeVar

import pyarrow as pa

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.moderation.verdicts import (
    NO_COUNTS,
    Counts,
    ModeratedImage,
    Verdict,
    summarise,
)
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
from imagepipeline_dagster.release.columns import fingerprint, without_sources
from imagepipeline_dagster.release.comparing import changes_of
from imagepipeline_dagster.release.croissant import CROISSANT, croissant
from imagepipeline_dagster.release.held_rows import HeldRows, joined
from imagepipeline_dagster.release.packing import format_cards, pack
from imagepipeline_dagster.release.parts import SHARD_BYTES, in_order, parts_of
from imagepipeline_dagster.release.pictures import LostImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import (
    delete_release,
    latest_manifest,
    newest_version,
    splits_in,
)
from imagepipeline_dagster.release.scratch import scratch_folder
from imagepipeline_dagster.release.splits import SplitsLeak, leaks, splits_of
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be the dataset's next version, and how it is released.

    Attributes:
        storage: where the images are, and where the release goes.
        name: the dataset's name, for its card.
        images: all rows of the dataset, in any order.
        run_id: the Dagster run.
        created_at: now, with a time zone.
        folder: where the dataset's versions are; another dataset needs another folder.
        left_out: what is not among the images though it exists, a sentence each.
        stopped: the sets among that, with why.
        policy: how it is released.
        alike: near-duplicates among the pictures, in pairs of their SHA-256: they share a split.
        drift: that the hosted model gives other pictures now, for the card.
        bytes_per_shard: images of a Parquet file, in bytes; also the temporary disk space needed.
    """

    storage: Storage
    name: str
    images: Collection[ModeratedImage]
    run_id: str
    created_at: datetime
    folder: str = "releases"
    left_out: Sequence[str] = ()
    stopped: Mapping[str, str] = field(default_factory=dict)
    policy: ReleasePolicy = field(default_factory=ReleasePolicy)
    alike: Sequence[tuple[str, str]] = ()
    drift: Drift | None = None
    bytes_per_shard: int = SHARD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """The rows of a release.

    Attributes:
        runs: those that are released, in order, by their split and the name of their run.
        others: those that are counted, and no more.
    """

    runs: Mapping[str, Mapping[str, HeldRows]]
    others: HeldRows
    packing: str

    @property
    def kept(self) -> HeldRows:
        """Those that are released, one after the other."""
        return joined(run for runs in self.runs.values() for run in runs.values())

    @property
    def splits(self) -> dict[str, int]:
        """How many are in each split."""
        return {split: sum(map(len, runs.values())) for split, runs in self.runs.items()}

    @property
    def fingerprint(self) -> str:
        splits = chain.from_iterable(repeat(*own) for own in self.splits.items())
        return fingerprint(self.kept.digests, splits, packing=self.packing)

    def without(self, lost: Sequence[LostImage]) -> _Content:
        """Return what is left without lost pictures, which are counted as quarantined."""
        gone = {loss.row for loss in lost}
        set_aside = (
            dataclasses.replace(
                loss.row, verdict=Verdict.QUARANTINED.value, moderation_reason="lost"
            )
            for loss in lost
        )
        return dataclasses.replace(
            self,
            runs={
                split: {
                    name: HeldRows(row for row in run if row not in gone)
                    for name, run in runs.items()
                }
                for split, runs in self.runs.items()
            },
            others=HeldRows(chain(self.others, set_aside)),
        )


def release_counts(rows: Iterable[ModeratedImage]) -> dict[str, Counts]:
    """Return what became of the samples of each prompt set, the sets sorted by name."""
    by_set: dict[str, Counts] = {}
    for name, some in groupby(rows, attrgetter("prompt_set")):
        by_set[name] = by_set.get(name, NO_COUNTS) + summarise(some)
    return dict(sorted(by_set.items()))


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
    """
    storage = asked.storage
    latest, content = _beside_latest(asked, partial(_content, asked))
    if latest and latest.fingerprint == content.fingerprint:
        return _unchanged(asked, latest, asked.left_out)
    with scratch_folder(storage.scratch) as scratch:
        clear_leftovers(storage, asked.folder, scratch)
        version = claimed_version(
            storage, asked.folder, scratch, run_id=asked.run_id, created_at=asked.created_at
        )
        path = f"{asked.folder}/{version}"
        try:
            content, release = _packed(asked, content, version, latest, scratch)
            described = _newest(asked, release, content)
        except BaseException:
            storage.delete_folder(path)
            raise
        if described.version != version:
            storage.delete_folder(path)
            return _unchanged(asked, described, release.left_out)
        # Nothing is discarded any more: a write whose answer was lost may have made the version.
        manifest = f"{described.model_dump_json(indent=2)}\n".encode()
        storage.write(f"{path}/manifest.json", manifest)
    # A withdrawal names its pictures before it looks for releases, and this one is there before
    # it looks for withdrawals: whoever is later sees the other.
    withdrawn = _withdrawn(storage)
    if withdrawn and any(_starts_or_is(row, withdrawn) for row in content.kept):
        delete_release(storage, described)
        return publish(asked)
    point_to_latest(storage, asked.folder)
    return described.model_copy(update={"created": True})


def _content(asked: Publication, latest: Release | None) -> _Content:
    """Return the rows as they are released and counted, each in its split.

    Raises:
        NothingToRelease, UnmoderatedImage, SplitsLeak: they cannot be released.
    """
    withdrawn = _withdrawn(asked.storage)
    splits = _splits(asked, latest, withdrawn)
    others, problems = HeldRows(), list[str]()

    def released() -> Iterator[tuple[str, ModeratedImage]]:
        for row in _judged(asked, withdrawn):
            if row.verdict == Verdict.KEPT:
                problems.extend(objections([row]))
                yield next(splits), row
            else:
                others.append(row)

    runs = in_order(released(), shuffled=asked.policy.order == "shuffled")
    if problems:
        raise UnmoderatedImage(problems)
    if not runs:
        raise NothingToRelease(summarise(others), asked.left_out)
    return _Content(runs=runs, others=others, packing=asked.policy.packing)


def _splits(
    asked: Publication, latest: Release | None, withdrawn: Collection[str]
) -> Iterator[str]:
    """Return the split of each row that is released, in the order of the images.

    Raises:
        SplitsLeak: pictures that tell of each other would be in several.
    """
    policy = asked.policy
    if len(policy.splits) == 1:
        return repeat(*policy.splits)

    def kept() -> Iterator[ModeratedImage]:
        return (row for row in _judged(asked, withdrawn) if row.verdict == Verdict.KEPT)

    same_policy = latest and latest.split_policy == policy.splitting
    former = splits_in(asked.storage, latest) if latest and same_policy else {}
    splits = splits_of(kept(), policy, former=former, alike=asked.alike)
    # A group is in one split, unless its samples are given several.
    if policy.split_of and (sentences := leaks(kept(), splits, policy, alike=asked.alike)):
        raise SplitsLeak(" ".join(sentences[:3]))
    return iter(splits)


def _judged(asked: Publication, withdrawn: Collection[str]) -> Iterator[ModeratedImage]:
    """Yield the rows; verdicts that are older than a withdrawal bring no picture back."""
    for row in asked.images:
        if row.image_sha256 in withdrawn:
            yield taken_back(row)
        else:
            yield without_sources(row, withdrawn)


def taken_back(row: ModeratedImage) -> ModeratedImage:
    """Return a row as it is counted once its picture was withdrawn."""
    return dataclasses.replace(
        row,
        verdict=Verdict.REJECTED.value,
        moderation_reason=Outcome.WITHDRAWN.value,
        outcome=Outcome.WITHDRAWN.value,
    )


def _starts_or_is(row: ModeratedImage, withdrawn: Collection[str]) -> bool:
    return row.image_sha256 in withdrawn or without_sources(row, withdrawn) is not row


def _withdrawn(storage: Storage) -> set[str]:
    return {PurePosixPath(path).stem for path in storage.list("withdrawn")}


def _packed(
    asked: Publication, content: _Content, version: str, former: Release | None, scratch: Path
) -> tuple[_Content, Release]:
    """Write the pictures in all formats; return what was not lost, and the release with it.

    Raises:
        NothingToRelease: all pictures are lost.
    """
    policy, path = asked.policy, f"{asked.folder}/{version}"
    left_out = tuple(asked.left_out)
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
        with TemporaryDirectory(dir=scratch) as unfinished:
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
    by_set = release_counts(chain(content.others, content.kept))
    counts = sum(by_set.values(), start=NO_COUNTS)
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
        prompt_sets=by_set,
        drift=asked.drift,
        left_out=left_out,
        files=files,
    )


def _newest(asked: Publication, release: Release, content: _Content) -> Release:
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
    asked: Publication, release: Release, former: Release | None, content: _Content
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


def write_beside(
    storage: Storage,
    release: Release,
    kept: HeldRows,
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


def _unchanged(asked: Publication, latest: Release, left_out: Sequence[str]) -> Release:
    point_to_latest(asked.storage, asked.folder)
    return latest.model_copy(update={"left_out": tuple(left_out)})


def point_to_latest(storage: Storage, folder: str) -> None:
    """Let `latest` name the newest version; the next publisher does it for one that died before."""
    if version := newest_version(storage, folder):
        storage.write(f"{folder}/latest", f"{version}\n".encode())


def _told(lost: LostImage) -> str:
    return f"{lost.row.prompt_set!r}, prompt {lost.row.prompt_id!r}: {lost.why}."


def _write(storage: Storage, path: str, file: str, data: bytes) -> ReleaseFile:
    storage.write(f"{path}/{file}", data)
    return ReleaseFile.of(file, data)
