"""The rows of a release, cut into parts that later releases take over.

A part is a run of rows of one split, known by its content. The next release takes the files of a
part over as they are. So parts end where prompt sets end, and a change reaches one part alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.columns import fingerprint
from imagepipeline_dagster.release.held_rows import HeldRows

SHARD_BYTES = 256 * 2**20
"""Images of a shard, in bytes: few files, yet each is quick to fetch and to hold."""

_PART_BYTES = 4 * 2**20  # a prompt set with more pictures than this has parts of its own
_MOST_PARTS = 4096  # of a split, about: a larger dataset has larger parts


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A run of rows of one split, whose files are the same as long as its content is.

    Attributes:
        split: of all its rows.
        number: its place in the split.
        rows: in the order of the release.
        key: of the content, and of what else makes the files' bytes.
        shaping: what else that is.
    """

    split: str
    number: int
    rows: HeldRows
    key: str
    shaping: str = ""

    @classmethod
    def of(cls, split: str, number: int, rows: HeldRows, *, shaping: str = "") -> Part:
        """Return the part that these rows are; `shaping` is what else makes the files' bytes."""
        return cls(split, number, rows, _key(rows.digests, split, shaping), shaping)

    def key_of(self, digest: bytes) -> str:
        """Return what a part of the row with this digest alone would be known by."""
        return _key([digest], self.split, self.shaping)


def _key(digests: Iterable[bytes], split: str, shaping: str) -> str:
    return fingerprint(digests, packing=f"{split} {shaping}")[:32]


def in_order(
    rows: Iterable[tuple[str, ModeratedImage]], *, shuffled: bool
) -> dict[str, dict[str, HeldRows]]:
    """Return rows, which come with their splits, in an order that makes the same content the same.

    They are runs by split and name: those of a prompt set or, where rows are shuffled, those whose
    places begin alike. A few rows at most are held as objects at once.
    """
    return _shuffled(rows) if shuffled else _by_set(rows)


def _by_set(rows: Iterable[tuple[str, ModeratedImage]]) -> dict[str, dict[str, HeldRows]]:
    portions: dict[str, dict[str, list[HeldRows]]] = defaultdict(lambda: defaultdict(list))
    for name, of_set in groupby(rows, lambda own: own[1].prompt_set):
        for split, own in groupby(sorted(of_set, key=_split_and_place), itemgetter(0)):
            portions[split][name].append(HeldRows(row for _, row in own))
    return {
        split: {name: _merged_rows(own) for name, own in sorted(of_split.items())}
        for split, of_split in portions.items()
    }


def _merged_rows(portions: Sequence[HeldRows]) -> HeldRows:
    """Return the rows of a set, which mostly come at once."""
    if len(portions) == 1:
        return portions[0]
    return HeldRows(sorted(chain.from_iterable(portions), key=_place))


def _shuffled(rows: Iterable[tuple[str, ModeratedImage]]) -> dict[str, dict[str, HeldRows]]:
    portions: dict[tuple[str, str], HeldRows] = defaultdict(HeldRows)
    for split, row in rows:  # which come set by set: those of a run are far apart
        portions[split, _hashed_place(row)[:2]].append(row)
    runs: dict[str, dict[str, HeldRows]] = defaultdict(dict)
    for key in sorted(portions):
        portion = sorted(portions.pop(key), key=_shuffled_place)
        for name, run in groupby(portion, lambda row: _hashed_place(row)[:3]):
            runs[key[0]][name] = HeldRows(run)
    return runs


def _split_and_place(own: tuple[str, ModeratedImage]) -> tuple[object, ...]:
    split, row = own
    return split, *_place(row)


def _place(row: ModeratedImage) -> tuple[str, str, int, int, str]:
    # Where fewer links than samples came back, no sample index is known.
    call, sample = (-1 if i is None else i for i in (row.call_index, row.sample_index))
    return row.prompt_set, row.prompt_id, call, sample, row.image_sha256 or ""


def _shuffled_place(row: ModeratedImage) -> tuple[str, ...]:
    return _hashed_place(row), row.image_sha256 or ""


def _hashed_place(row: ModeratedImage) -> str:
    """Return what a sample is sorted by where the order is shuffled: no other one's matters."""
    place = [row.prompt_set, row.prompt_id, row.call_index, row.sample_index]
    return hashlib.blake2b(json.dumps(place).encode(), digest_size=16).hexdigest()


def parts_of(
    split: str, runs: Mapping[str, HeldRows], *, bytes_per_shard: int, shaping: str = ""
) -> Iterator[Part]:
    """Yield the rows of a split, in order, in parts that end where runs end.

    A large run has parts of its own. Of the small ones the names decide which end a part: so no
    change of one set moves the borders between others.
    """
    shards = chain.from_iterable(
        [run]
        if run.picture_bytes <= bytes_per_shard
        else map(HeldRows, portions_of(run, bytes_at_most=bytes_per_shard))
        for run in _merged(runs)
        if run
    )
    for number, shard in enumerate(shards):
        yield Part.of(split, number, shard, shaping=shaping)


def _merged(runs: Mapping[str, HeldRows]) -> Iterator[HeldRows]:
    """Yield the rows of a large run, or of several small ones."""
    least = _PART_BYTES
    total = sum(run.picture_bytes for run in runs.values())
    while total > least * _MOST_PARTS:
        least *= 2
    merged = HeldRows()
    for name, run in runs.items():
        if run.picture_bytes >= least:
            yield merged
            merged = HeldRows()
        merged.extend(run)
        if run.picture_bytes >= least * _share(name):
            yield merged
            merged = HeldRows()
    yield merged


def _share(name: str) -> float:
    """Return a number from 0 to 1 that a set's name stands for."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32


def portions_of(
    rows: Iterable[ModeratedImage], *, bytes_at_most: int, rows_at_most: int = sys.maxsize
) -> Iterator[list[ModeratedImage]]:
    """Yield the rows in order, in lists of at most so many rows and bytes of images.

    An image that alone takes more has a list of its own.
    """
    portion: list[ModeratedImage] = []
    size = 0
    for row in rows:
        added = row.bytes or 0
        if portion and (size + added > bytes_at_most or len(portion) == rows_at_most):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += added
    if portion:
        yield portion
