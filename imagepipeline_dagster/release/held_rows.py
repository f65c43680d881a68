"""The rows of a release, of which there may be many: held encoded, decoded some at a time.

A row as Python's objects takes 1.2 kB, and some 170 bytes as it is held here.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Collection, Iterable, Iterator, Set
from functools import partial
from operator import attrgetter

from typing_extensions import override

from imagepipeline_dagster.moderation.verdicts import ModeratedImage
from imagepipeline_dagster.release.columns import DIGEST_BYTES, digest_of, sources_of
from imagepipeline_dagster.rows import row_with

_TOGETHER = 50  # rows
_QUICK = 1  # of zlib's levels
_VALUES = attrgetter(*ModeratedImage.__dataclass_fields__)
_row = partial(row_with, ModeratedImage)


class HeldRows(Collection[ModeratedImage]):
    """Rows in an order. Whenever they are gone through they are other objects of the same content.

    Attributes:
        picture_bytes: the size of their pictures together.
        emulated: how many of them the emulator drew.
        sources: which kinds of kept pictures any of them starts from.
    """

    __slots__ = ("_digests", "_encoded", "_last", "emulated", "picture_bytes", "sources")

    def __init__(self, rows: Iterable[ModeratedImage] = ()) -> None:
        self._encoded: list[tuple[int, bytes]] = []
        self._last: list[ModeratedImage] = []
        self._digests = bytearray()
        self.picture_bytes = self.emulated = 0
        self.sources: Set[str] = frozenset()
        for row in rows:
            self.append(row)
        self._encode()

    @property
    def digests(self) -> list[bytes]:
        """Digests of the content of each row."""
        ends = range(DIGEST_BYTES, len(self._digests) + 1, DIGEST_BYTES)
        return [bytes(self._digests[end - DIGEST_BYTES : end]) for end in ends]

    def append(self, row: ModeratedImage) -> None:
        """Add a row; the last few are not encoded yet."""
        self._last.append(row)
        self._digests += digest_of(row)
        self.picture_bytes += row.bytes or 0
        self.emulated += row.emulated
        if kinds := sources_of(row).keys():
            self.sources |= kinds
        if len(self._last) == _TOGETHER:
            self._encode()

    def extend(self, others: HeldRows) -> None:
        """Add rows that are held elsewhere, as they are."""
        self._encode()
        others._encode()
        self._encoded += others._encoded
        self._digests += others._digests
        self.picture_bytes += others.picture_bytes
        self.emulated += others.emulated
        self.sources |= others.sources

    def every(self, step: int) -> Iterator[ModeratedImage]:
        """Yield the first of every so many rows; no other one is decoded."""
        self._encode()
        first = 0
        for number, encoded in self._encoded:
            if -first % step < number:
                yield from map(_row, _values(encoded)[-first % step :: step])
            first += number

    @override
    def __len__(self) -> int:
        return len(self._digests) // DIGEST_BYTES

    @override
    def __iter__(self) -> Iterator[ModeratedImage]:
        for _, encoded in self._encoded:
            yield from map(_row, _values(encoded))
        yield from self._last

    @override
    def __contains__(self, row: object) -> bool:
        return any(row == own for own in self)

    def _encode(self) -> None:
        if self._last:
            encoded = zlib.compress(pickle.dumps(list(map(_VALUES, self._last))), _QUICK)
            self._encoded.append((len(self._last), encoded))
            self._last = []


def joined(some: Iterable[HeldRows]) -> HeldRows:
    """Return all rows, those of each one after the other; none is decoded."""
    rows = HeldRows()
    for own in some:
        rows.extend(own)
    return rows


def _values(encoded: bytes) -> list[tuple[object, ...]]:
    values: list[tuple[object, ...]] = pickle.loads(zlib.decompress(encoded))  # noqa: S301 - its own
    return values
