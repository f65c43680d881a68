"""Which split a sample is in: by a stable hash of its group, and as it was before.

Pictures that tell of each other stay together: those of one prompt (or of one value of a column),
of one init image, those with equal bytes, and near-duplicates. So nothing of a test split was seen
in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.policy import ReleasePolicy

Place = tuple[str, str, int | None, int | None, str | None]
"""Prompt set, prompt id, call, sample and SHA-256: what tells a sample from every other."""


class SplitsLeak(CorrectableError):
    """Pictures that tell of each other are in several splits; names the first."""


def place_of(row: ModeratedImage) -> Place:
    """Return what tells a sample from every other."""
    return row.prompt_set, row.prompt_id, row.call_index, row.sample_index, row.image_sha256


def splits_of(
    rows: Collection[ModeratedImage],
    policy: ReleasePolicy,
    *,
    former: Mapping[Place, str],
    alike: Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Return the split of each row.

    Args:
        rows: those of the release.
        policy: names the splits, their shares, and what makes a group.
        former: the splits of the samples that the former release held.
        alike: near-duplicates among the pictures, in pairs of their SHA-256.
    """
    if len(policy.splits) == 1:
        return list(policy.splits) * len(rows)
    parents: dict[str, str] = {}

    def root(bond: str) -> str:
        while (parent := parents.setdefault(bond, bond)) != bond:
            parents[bond] = parents[parent]
            bond = parents[bond]
        return bond

    bonds = (_bonds(row, policy) for row in rows)
    for first, *others in chain(bonds, (map("image {}".format, pair) for pair in alike)):
        for other in others:
            # The smaller name stands for both, so that no order of rows matters.
            low, high = sorted((root(first), root(other)))
            parents[high] = low
    groups: list[str] = []
    given: list[str | None] = []
    of_group: dict[str, str] = {}
    before: dict[str, str] = {}
    for row in rows:
        group = root(next(_bonds(row, policy)))
        split = policy.split_of.get(str(getattr(row, policy.group_by)))
        groups.append(group)
        given.append(split)
        if split is not None:
            of_group.setdefault(group, split)
        if (kept := former.get(place_of(row))) in policy.splits:
            before.setdefault(group, str(kept))
    return [
        split or of_group.get(group) or before.get(group) or _split_by_hash(group, policy)
        for group, split in zip(groups, given, strict=True)
    ]


def _bonds(row: ModeratedImage, policy: ReleasePolicy) -> Iterator[str]:
    """Yield what a sample shares with those that it stays together with."""
    yield f"group {getattr(row, policy.group_by)}"
    for sha256 in (row.image_sha256, row.duplicate_of):
        if sha256 is not None:
            yield f"image {sha256}"
    init_image = json.loads(row.request or "{}").get("init_image")
    if init_image:
        yield f"init {init_image}"


def _split_by_hash(group: str, policy: ReleasePolicy) -> str:
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64 * sum(policy.splits.values())
    for split, share in policy.splits.items():
        if place < share:
            return split
        place -= share
    return list(policy.splits)[-1]


def leaks(
    rows: Iterable[ModeratedImage],
    splits: Sequence[str],
    policy: ReleasePolicy,
    *,
    alike: Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Return a sentence for each bond that reaches from one split into another.

    `alike` are near-duplicates among the pictures, in pairs of their SHA-256.
    """
    if len(policy.splits) == 1 and set(splits) <= set(policy.splits):
        return []  # nothing can leak: no bond of a hundred thousand rows need be held
    where: dict[str, str] = {}
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
        one, other = (where.get(f"image {sha256}") for sha256 in pair)
        if one and other and one != other:
            sentences.append(
                f"Picture {pair[0][:12]} is in {one!r}, and its near-duplicate {pair[1][:12]} in "
                f"{other!r}."
            )
    return sentences
