"""Which split a sample is in: by a stable hash of its group, and as it was before.

Pictures that tell of each other stay together: those of one prompt (or of one value of a column),
of one init image, those with equal bytes, and near-duplicates. So nothing of a test split was seen
in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.policy import ReleasePolicy

BondT = TypeVar("BondT", int, str)

_KINDS = ("group", "image", "init")  # of bonds


class SplitsLeak(CorrectableError):
    """Pictures that tell of each other are in several splits; names the first."""


def place_of(row: Any) -> int:  # noqa: ANN401 - a row before its release, or read from one
    """Return what tells a sample from every other."""
    place = row.prompt_set, row.prompt_id, row.call_index, row.sample_index, row.image_sha256
    return _hash(repr(place))


def splits_of(
    rows: Iterable[ModeratedImage],
    policy: ReleasePolicy,
    *,
    former: Mapping[int, str],
    alike: Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Return the split of each row.

    Args:
        rows: those of the release, each gone through once.
        policy: names the splits, their shares, and what makes a group.
        former: the splits of the samples that the former release held, by their places.
        alike: near-duplicates among the pictures, in pairs of their SHA-256.
    """
    joined = Joined[int]()
    groups: list[int] = []
    given: list[str | None] = []
    before: list[str | None] = []
    for row in rows:
        group, *others = _bonds(row, policy)
        for bond in others:
            joined.join(group, bond)
        groups.append(group)
        given.append(policy.split_of.get(str(getattr(row, policy.group_by))))
        before.append(former.get(place_of(row)) if former else None)
    for one, other in alike:
        joined.join(_bond("image", one), _bond("image", other))
    groups = list(map(joined.first, groups))
    of_group, of_former = _firsts(groups, given), _firsts(groups, before)
    return [
        split or of_group.get(group) or of_former.get(group) or _split_by_hash(group, policy)
        for group, split in zip(groups, given, strict=True)
    ]


class Joined(Generic[BondT]):
    """Bonds that hold the same samples together, by the first of them."""

    def __init__(self) -> None:
        self._parents: dict[BondT, BondT] = {}

    def first(self, bond: BondT) -> BondT:
        """Return the smallest bond that this one is joined with, whatever the order of rows."""
        parents = self._parents
        while (parent := parents.setdefault(bond, bond)) != bond:
            parents[bond] = parents[parent]
            bond = parents[bond]
        return bond

    def join(self, one: BondT, other: BondT) -> bool:
        """Join two bonds, and tell whether they were apart."""
        low, high = sorted((self.first(one), self.first(other)))
        self._parents[high] = low
        return low != high


def _firsts(groups: Iterable[int], splits: Iterable[str | None]) -> dict[int, str]:
    """Return the first split that each group has, where it has any."""
    firsts: dict[int, str] = {}
    for group, split in zip(groups, splits, strict=True):
        if split is not None:
            firsts.setdefault(group, split)
    return firsts


def _bonds(row: Any, policy: ReleasePolicy) -> Iterator[int]:  # noqa: ANN401 - as for place_of
    """Yield what a sample shares with those that it stays together with: first its group."""
    yield _bond("group", getattr(row, policy.group_by))
    for sha256 in (row.image_sha256, row.duplicate_of, row.init_image_sha256):
        if sha256 is not None:
            yield _bond("image", sha256)
    init_image = json.loads(row.request or "{}").get("init_image")
    if init_image:
        yield _bond("init", init_image)


def _bond(kind: str, value: object) -> int:
    """Return a hash of a bond, below those of any kind whose name comes later.

    Hundreds of thousands of bonds are held: as texts they would take several times the memory.
    """
    return _KINDS.index(kind) << 64 | _hash(f"{kind} {value}")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _split_by_hash(group: int, policy: ReleasePolicy) -> str:
    place = group / 2**64 * sum(policy.splits.values())
    for split, share in policy.splits.items():
        if place < share:
            return split
        place -= share
    return list(policy.splits)[-1]


def leaks(
    rows: Iterable[Any],
    splits: Iterable[str],
    policy: ReleasePolicy,
    *,
    alike: Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Return a sentence for each bond that reaches from one split into another.

    Args:
        rows: samples before their release, or read from one, each gone through once.
        splits: the split that each is in.
        policy: says what makes a group.
        alike: near-duplicates among the pictures, in pairs of their SHA-256.
    """
    if len(policy.splits) == 1:
        return []  # nothing can leak: no bond of a hundred thousand rows need be held
    where: dict[int, str] = {}
    sentences: list[str] = []
    for row, split in zip(rows, splits, strict=True):
        for bond in _bonds(row, policy):
            if where.setdefault(bond, split) != split:
                sentences.append(
                    f"{row.prompt_set!r}, prompt {row.prompt_id!r} is in {split!r}, and "
                    f"{where[bond]!r} has its like."
                )
                break
    for pair in alike:
        one, other = (where.get(_bond("image", sha256)) for sha256 in pair)
        if one and other and one != other:
            sentences.append(
                f"Picture {pair[0][:12]} is in {one!r}, and its near-duplicate {pair[1][:12]} in "
                f"{other!r}."
            )
    return sentences
