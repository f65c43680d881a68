"""Two releases compared, whatever their size: a hash tells which rows differ, and those are read.

Files that both releases have are not read at all. Of the others each row is hashed. The rows that
only one release has are read again, a band of some thousands at a time, to tell why they differ.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, groupby, pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.moderation.verdicts import NO_COUNTS, ModeratedImage
from imagepipeline_dagster.release.card import Release, ReleaseFile
from imagepipeline_dagster.release.changes import (
    COMPARED,
    PASSING,
    PLACE,
    READ,
    Cause,
    Change,
    Known,
    Lineage,
    cause_of_reason,
    changes_between,
)
from imagepipeline_dagster.release.reading import opened_shard, stored_changes
from imagepipeline_dagster.storage.contract import Storage

_BAND = 10_000  # rows of both releases that are held at once
_BATCH = 2_000  # rows that are hashed at once

_SORTED_SHARES = 16  # of all hashes: sorting takes several times their memory

_WITHOUT_A_PICTURE = frozenset(map(str, Outcome))

_Hashes = npt.NDArray[np.uint64]


def changes_of(
    storage: Storage,
    former: Release,
    release: Release,
    *,
    others: Iterable[ModeratedImage] = (),
    stopped: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Change]:
    """Yield what differs between two releases, one prompt set after the other.

    Args:
        storage: where both are.
        former: the release before.
        release: the one after; its manifest need not be written yet.
        others: the samples that were not kept for it; without them the cause of a removal is only
            told from what is there.
        stopped: the sets that are not in it though they exist, with why.
    """
    shared = {file.sha256 for file in former.shards} & {file.sha256 for file in release.shards}
    old, new = _Rows(storage, former, shared), _Rows(storage, release, shared)
    different = _different(old, new)
    groups = [list(rows.groups_with(different)) for rows in (old, new)]
    known = Known(
        judged={
            (row.prompt_set, row.prompt_id, row.call_index, row.sample_index): row for row in others
        },
        old_prompts=_Prompts(storage, former),
        new_sets=release.kept_sets,
        stopped=stopped,
        kept_out=_KeptOut(storage, former, release),
    )
    for band in _bands([*groups[0], *groups[1]]):
        before, after = (
            rows.lineage([group for group in own if group.reaches(band)], band)
            for rows, own in zip((old, new), groups, strict=True)
        )
        yield from changes_between(before, after, known)


@dataclass(frozen=True, slots=True)
class _Band:
    """Prompt sets that are compared at once; of one that is too large for that, a share."""

    first: str
    last: str
    share: int = 0
    shares: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A row group with rows that differ: where it is, and how many of them each prompt set has."""

    shard: ReleaseFile
    number: int
    rows: slice
    sets: Counter[str]

    def reaches(self, band: _Band) -> bool:
        return min(self.sets) <= band.last and band.first <= max(self.sets)


def _bands(groups: Sequence[_Group]) -> Iterator[_Band]:
    """Yield the prompt sets of these row groups in bands, sorted by name."""
    sizes: Counter[str] = Counter()
    for group in groups:
        sizes.update(group.sets)
    band: list[str] = []
    held = 0
    for name in sorted(sizes):
        if band and held + sizes[name] > _BAND:
            yield _Band(band[0], band[-1])
            band, held = [], 0
        shares = -(-sizes[name] // _BAND)
        if shares > 1:
            yield from (_Band(name, name, share, shares) for share in range(shares))
        else:
            band.append(name)
            held += sizes[name]
    if band:
        yield _Band(band[0], band[-1])


class _Rows:
    """The rows of a release in files that the other one has not: a hash of each, in order.

    Attributes:
        places: tell a sample from every other.
        contents: tell whether it is the same in both, too.
    """

    places: _Hashes
    contents: _Hashes

    def __init__(self, storage: Storage, release: Release, shared: set[str]) -> None:
        self._open = partial(opened_shard, storage, release)
        self._shards = [shard for shard in release.shards if shard.sha256 not in shared]
        self._sizes: dict[str, list[int]] = {}
        hashes: list[tuple[_Hashes, _Hashes]] = []
        for shard in self._shards:
            opened = self._open(shard)
            groups = map(opened.metadata.row_group, range(opened.num_row_groups))
            self._sizes[shard.path] = [group.num_rows for group in groups]
            hashes += [
                (_hashes(batch, PLACE), _hashes(batch, COMPARED))
                for batch in _batches(opened, COMPARED)
            ]
        nothing = np.empty(0, np.uint64)
        self.places, self.contents = (
            (np.concatenate([nothing, *column]) for column in zip(*hashes, strict=True))
            if hashes
            else (nothing, nothing)
        )

    def groups_with(self, different: _Hashes) -> Iterator[_Group]:
        """Yield the row groups that have a row with one of these places, which are wanted."""
        self._wanted = _are_among(self.places, different)
        end = 0
        for shard in self._shards:
            ends = list(accumulate(self._sizes[shard.path], initial=end))
            groups = [slice(*bounds) for bounds in pairwise(ends)]
            end = ends[-1]
            masks = [self._wanted[rows] for rows in groups]
            wanted = [number for number, mask in enumerate(masks) if mask.any()]
            if not wanted:
                continue
            names = pa.concat_arrays(
                [batch.column(0) for batch in _batches(self._open(shard), PLACE[:1], wanted)]
            )
            start = 0
            for number in wanted:
                own = names.slice(start, len(masks[number])).filter(pa.array(masks[number]))
                start += len(masks[number])
                sets = Counter(map(str, own.to_pylist()))
                yield _Group(shard=shard, number=number, rows=groups[number], sets=sets)

    def lineage(self, groups: Sequence[_Group], band: _Band) -> list[dict[str, Any]]:
        """Return the wanted rows of a band."""
        rows: list[dict[str, Any]] = []
        for _, of_shard in groupby(groups, key=attrgetter("shard")):
            read = list(of_shard)
            wanted = np.concatenate(
                [
                    self._wanted[group.rows] & (self.places[group.rows] % band.shares == band.share)
                    for group in read
                ]
            )
            start = 0
            opened = self._open(read[0].shard)
            for batch in _batches(opened, READ, [group.number for group in read]):
                own = pa.array(wanted[start : start + batch.num_rows])
                start += batch.num_rows
                name: Any = batch.column("prompt_set")
                first, last = pa.scalar(band.first), pa.scalar(band.last)
                inside = pc.and_(pc.greater_equal(name, first), pc.less_equal(name, last))
                rows += batch.filter(pc.and_(own, inside)).to_pylist()
        return rows


class _Prompts:
    """The prompts of a release, which are read when first asked for."""

    def __init__(self, storage: Storage, release: Release) -> None:
        self._storage = storage
        self._release = release

    def __contains__(self, prompt: object) -> bool:
        wanted = _hash_of(*prompt)  # type: ignore[misc] # a set's name and a prompt's id
        at = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        return at < len(self._hashes) and int(self._hashes[at]) == wanted

    @cached_property
    def _hashes(self) -> _Hashes:
        """Eight bytes a row: a million prompts are not held as texts."""
        found = [
            np.fromiter(map(_hash_of, *(column.to_pylist() for column in batch.columns)), np.uint64)
            for shard in self._release.shards
            for batch in _batches(opened_shard(self._storage, self._release, shard), PLACE[:2])
        ]
        return np.unique(np.concatenate(found))


class _KeptOut:
    """What kept a row of a release out of the former one, though its picture was there then.

    Either it lost the picture, as its changes tell, or it was made without it. Of the latter it has
    the counts alone: a set has fewer samples by now that a rule or a decision keeps out.
    """

    def __init__(self, storage: Storage, former: Release, release: Release) -> None:
        self._storage = storage
        self._former = former
        self._release = release
        self._over: dict[str, tuple[tuple[str, str | None] | None, int]] = {}

    def __call__(self, row: Lineage) -> tuple[str, str | None] | None:
        lost = self._why.get(_hash_of(*(row[name] for name in PLACE), row["image_sha256"]))
        is_older = row["completed_at"] and row["completed_at"] < self._former.created_at
        return lost or (self._held_back(row["prompt_set"]) if is_older else None)

    def _held_back(self, prompt_set: str) -> tuple[str, str | None] | None:
        """Return what kept one more sample of a set out; None where it is over for no further."""
        if prompt_set not in self._over:
            self._over[prompt_set] = self._over_in(prompt_set)
        why, samples = self._over[prompt_set]
        self._over[prompt_set] = why, samples - 1
        return why if samples > 0 else None

    def _over_in(self, prompt_set: str) -> tuple[tuple[str, str | None] | None, int]:
        """Return what kept samples of a set out and does no more, and of how many that is true."""
        counts = self._former.prompt_sets.get(prompt_set)
        if counts is None:
            sentences = (text.partition(f"{prompt_set!r}: ") for text in self._former.left_out)
            why = next((why for before, own, why in sentences if own and not before), None)
            return ((Cause.LEFT_OUT, why), sys.maxsize) if why else (None, 0)
        now = self._release.prompt_sets.get(prompt_set, NO_COUNTS).why_not_kept
        over = {
            reason: fewer
            for reason, number in counts.why_not_kept.items()
            if (fewer := number - now.get(reason, 0)) > 0 and reason not in _WITHOUT_A_PICTURE
        }
        causes = set(map(cause_of_reason, over))
        cause = causes.pop() if len(causes) == 1 else Cause.POLICY
        # By whom it was decided, no release says.
        return (cause, None if cause == Cause.OVERRIDE else " or ".join(over)), sum(over.values())

    @cached_property
    def _why(self) -> dict[int, tuple[str, str | None]]:
        found: dict[int, tuple[str, str | None]] = {}
        told: dict[tuple[str, str | None], tuple[str, str | None]] = {}  # few, of many samples
        for change in stored_changes(self._storage, self._former) or ():
            if change.change == "removed" and change.cause in PASSING:
                why = (change.cause, change.after)
                key = _hash_of(*(getattr(change, name) for name in PLACE), change.image_before)
                found[key] = told.setdefault(why, why)
        return found


def _hash_of(*values: object) -> int:
    """Return a hash of these values: eight bytes, where many would not be held as texts."""
    text = repr(values).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _batches(
    shard: pq.ParquetFile, columns: Sequence[str], groups: list[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file or of some of its row groups; columns that it lacks are null."""
    there = [name for name in columns if name in shard.schema_arrow.names]
    # Each of Arrow's threads would keep memory of its own, and hashing takes most of the time.
    read = shard.iter_batches(_BATCH, row_groups=groups, columns=there, use_threads=False)
    for batch in read:
        null = pa.nulls(batch.num_rows, pa.string())
        arrays = [batch.column(name) if name in there else null for name in columns]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _hashes(batch: pa.RecordBatch, columns: Sequence[str]) -> _Hashes:
    """Return a hash of these columns for each row."""
    import pandas as pd

    texts: list[Any] = [batch.column(name).cast(pa.string()) for name in columns]
    # With its lengths before it, one text stands for one row of values alone.
    lengths: list[Any] = [pc.binary_length(text).cast(pa.string()) for text in texts]
    separator: Any = pa.scalar(" ")
    joined = pc.binary_join_element_wise(
        *lengths, *texts, separator, null_handling="replace", null_replacement="-"
    )
    return pd.util.hash_array(joined.to_numpy(zero_copy_only=False), categorize=False)


def _are_among(places: _Hashes, some: _Hashes) -> npt.NDArray[np.bool_]:
    """Tell of each place whether it is one of some that are sorted; numpy's own way sorts all."""
    if not len(some):
        return np.zeros(len(places), np.bool_)
    nearest = some[np.searchsorted(some[:-1], places)]
    return np.equal(nearest, places)


def _different(old: _Rows, new: _Rows) -> _Hashes:
    """Return the places whose rows are not the same in both, sorted."""
    different = [np.empty(0, np.uint64)]
    for share in range(_SORTED_SHARES):
        masks = [rows.contents % _SORTED_SHARES == share for rows in (old, new)]
        places = np.concatenate([old.places[masks[0]], new.places[masks[1]]])
        contents = np.concatenate([old.contents[masks[0]], new.contents[masks[1]]])
        _, content = np.unique(contents, return_inverse=True)
        sides = np.repeat([1, -1], [mask.sum() for mask in masks])
        surplus = np.bincount(content, weights=sides)
        different.append(places[surplus[content] != 0])
    return np.unique(np.concatenate(different))
