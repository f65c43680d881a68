"""The rows of a release, cut into parts that later releases take over.

A part is a run of rows of one split, known by its content. The next release takes the files of a
part over as they are. So parts end where prompt sets end, and a change reaches one part alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter

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
    def of(
        cls, split: str, number: int, rows: Collection[ModeratedImage], *, shaping: str = ""
    ) -> Part:
        """Return the part that these rows are; `shaping` is what else makes the files' bytes."""
        return cls(split, number, HeldRows(rows), _key(rows, split, shaping), shaping)

    def key_of(self, row: ModeratedImage) -> str:
        """Return what a part of this row alone would be known by."""
        return _key([row], self.split, self.shaping)

    def without(self, lost: Collection[ModeratedImage]) -> Part:
        """Return the part as it is without these rows."""
        if not lost:
            return self
        rows = [row for row in self.rows if row not in lost]
        return self.of(self.split, self.number, rows, shaping=self.shaping)


def _key(rows: Iterable[ModeratedImage], split: str, shaping: str) -> str:
    return fingerprint(rows, packing=f"{split} {shaping}")[:32]


def in_order(rows: Iterable[ModeratedImage], *, shuffled: bool) -> HeldRows:
    """Return the rows in the order of a release, which makes the same content the same bytes.

    The rows of a prompt set are held as objects at once, and no others.
    """
    place = _shuffled_place if shuffled else _place
    runs: dict[str, list[HeldRows]] = defaultdict(list)
    for name, some in groupby(rows, key=_run_of(shuffled=shuffled)):
        runs[name].append(HeldRows(sorted(some, key=place)))
    ordered = HeldRows()
    for name in sorted(runs):
        run, *others = runs.pop(name)
        if others:
            run = HeldRows(sorted(chain(run, *others), key=place))
        ordered.extend(run)
    return ordered


def _run_of(*, shuffled: bool) -> Callable[[ModeratedImage], str]:
    """Return what names the run of a row: its prompt set, or how its place begins."""
    return (lambda row: _hashed_place(row)[:3]) if shuffled else attrgetter("prompt_set")


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
    split: str,
    rows: HeldRows,
    *,
    bytes_per_shard: int,
    shaping: str = "",
    shuffled: bool = False,
) -> Iterator[Part]:
    """Yield the rows of a split, in order, in parts that end where prompt sets end.

    A large set has parts of its own. Of the small ones the names decide which end a part: so no
    change of one set moves the borders between others. Where rows are shuffled, those whose places
    begin alike are as a set.
    """
    runs = _runs(rows, shuffled=shuffled)
    shards = chain.from_iterable(
        split_into_shards(run, bytes_per_shard=bytes_per_shard) for run in runs
    )
    for number, shard in enumerate(shards):
        yield Part.of(split, number, shard, shaping=shaping)


def _runs(rows: HeldRows, *, shuffled: bool) -> Iterator[list[ModeratedImage]]:
    """Yield the rows of a large prompt set, or of several small ones."""
    least = _PART_BYTES
    while rows.picture_bytes > least * _MOST_PARTS:
        least *= 2
    run: list[ModeratedImage] = []
    for name, of_set in groupby(rows, key=_run_of(shuffled=shuffled)):
        listed = list(of_set)
        size = sum(row.bytes or 0 for row in listed)
        if size >= least:
            yield run
            run = []
        run += listed
        if size >= least * _share(name):
            yield run
            run = []
    yield run


def _share(name: str) -> float:
    """Return a number from 0 to 1 that a set's name stands for."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32


def split_into_shards(
    rows: Iterable[ModeratedImage], *, bytes_per_shard: int
) -> Iterator[list[ModeratedImage]]:
    """Yield the rows in order, in lists whose images take at most `bytes_per_shard` together.

    An image that alone takes more has a shard of its own.
    """
    shard: list[ModeratedImage] = []
    size = 0
    for row in rows:
        added = row.bytes or 0
        if shard and size + added > bytes_per_shard:
            yield shard
            shard, size = [], 0
        shard.append(row)
        size += added
    if shard:
        yield shard
