"""What a release is asked to be, and its rows: those that are released, and those just counted."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, repeat
from pathlib import PurePosixPath

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.checks import objections
from imagepipeline_dagster.moderation.verdicts import (
    Counts,
    Fate,
    ModeratedImage,
    Verdict,
    counts_of,
    fate_of,
    summarise,
)
from imagepipeline_dagster.purchase.canaries import Drift
from imagepipeline_dagster.release.card import Release
from imagepipeline_dagster.release.columns import fingerprint, without_sources
from imagepipeline_dagster.release.held_rows import HeldRows, joined
from imagepipeline_dagster.release.parts import SHARD_BYTES, in_order
from imagepipeline_dagster.release.pictures import LostImage
from imagepipeline_dagster.release.policy import ReleasePolicy
from imagepipeline_dagster.release.reading import splits_in
from imagepipeline_dagster.release.splits import SplitsLeak, leaks, splits_of
from imagepipeline_dagster.storage.contract import Storage


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
        stopped: the sets that exist and are not among the images, with why.
        left_out: what else is not among them though it exists, a sentence each.
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
    stopped: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    policy: ReleasePolicy = field(default_factory=ReleasePolicy)
    alike: Sequence[tuple[str, str]] = ()
    drift: Drift | None = None
    bytes_per_shard: int = SHARD_BYTES

    @property
    def all_left_out(self) -> tuple[str, ...]:
        """A sentence for each set, or part of one, that is not among the images."""
        stopped = (f"{name!r}: {why}" for name, why in self.stopped.items())
        return *stopped, *self.left_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The rows of a release.

    Attributes:
        runs: those that are released, in order, by their split and the name of their run.
        others: those that are counted, and no more.
        counts: what became of the samples of each prompt set, the sets sorted by name.
        packing: how they are packed.
    """

    runs: Mapping[str, Mapping[str, HeldRows]]
    others: HeldRows
    counts: Mapping[str, Counts]
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
        """What they say and show, in their splits: the same content is the same release."""
        splits = chain.from_iterable(repeat(*own) for own in self.splits.items())
        return fingerprint(self.kept.digests, splits, packing=self.packing)

    def without(self, lost: Sequence[LostImage]) -> Content:
        """Return what is left without lost pictures, which are counted as quarantined."""
        gone = {loss.row for loss in lost}
        set_aside = [
            dataclasses.replace(
                loss.row, verdict=Verdict.QUARANTINED.value, moderation_reason="lost"
            )
            for loss in lost
        ]
        counts = dict(self.counts)
        for loss, row in zip(lost, set_aside, strict=True):
            counts[row.prompt_set] += summarise([row]) - summarise([loss.row])
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
            counts=counts,
        )

    def shows_any(self, withdrawn: Collection[str]) -> bool:
        """Tell whether a released row is one of these pictures, or starts from one."""
        return any(
            row.image_sha256 in withdrawn or without_sources(row, withdrawn) is not row
            for row in self.kept
        )


def content_of(asked: Publication, latest: Release | None) -> Content:
    """Return the rows as they are released and counted, each in its split.

    Raises:
        NothingToRelease, UnmoderatedImage, SplitsLeak: they cannot be released.
    """
    withdrawn = withdrawn_pictures(asked.storage)
    splits = _splits(asked, latest, withdrawn)
    others, problems = HeldRows(), list[str]()
    fates: dict[str, Counter[Fate]] = defaultdict(Counter)

    def released() -> Iterator[tuple[str, ModeratedImage]]:
        for row in _judged(asked, withdrawn):
            fates[row.prompt_set][fate_of(row)] += 1
            if row.verdict == Verdict.KEPT:
                problems.extend(objections([row]))
                yield next(splits), row
            else:
                others.append(row)

    runs = in_order(released(), shuffled=asked.policy.order == "shuffled")
    if problems:
        raise UnmoderatedImage(problems)
    if not runs:
        raise NothingToRelease(summarise(others), asked.all_left_out)
    counts = {name: counts_of(of_set) for name, of_set in sorted(fates.items())}
    return Content(runs=runs, others=others, counts=counts, packing=asked.policy.packing)


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


def withdrawn_pictures(storage: Storage) -> set[str]:
    """Return the pictures that were taken back, by SHA-256."""
    return {PurePosixPath(path).stem for path in storage.list("withdrawn")}
