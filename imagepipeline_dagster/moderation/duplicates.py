"""Pictures that repeat another of their set: by their bytes, or nearly, by a perceptual hash."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from PIL import Image

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.purchase.pictures import as_shown, decoding

HASH_METHOD = "imagehash.phash/64"
"""The name that the hashes are kept under; another method needs another."""


class HashesMissing(CorrectableError):
    """The policy asks for near-duplicates, and there is no library to find them with."""


def check_hashes() -> None:
    """See whether perceptual hashes can be computed.

    Raises:
        HashesMissing: says what to install.
    """
    if find_spec("imagehash") is None:
        raise HashesMissing(
            "The moderation policy has a near_duplicate_distance, and ImageHash is not installed: "
            "pip install 'imagepipeline-dagster[moderation]', or leave the distance out: equal "
            "bytes are found without it."
        )


def perceptual_hash(picture: bytes) -> int:
    """Return a picture's perceptual hash (a discrete cosine transform's signs): 64 bits."""
    import imagehash

    with decoding(), Image.open(io.BytesIO(picture)) as opened:
        return int(str(imagehash.phash(as_shown(opened).convert("RGB"))), 16)


def near_pairs(hashes: Mapping[str, int], *, distance: int) -> Iterator[tuple[str, str]]:
    """Yield the pairs of near-duplicates among pictures of any sets.

    Of several pictures with one hash the first stands for all, in pairs with the others.

    Args:
        hashes: perceptual hashes by SHA-256.
        distance: bits in which the hashes of near-duplicates differ at most.
    """
    first_of: dict[int, str] = {}
    for sha256, own in sorted(hashes.items()):
        first = first_of.setdefault(own, sha256)
        if first != sha256:
            yield first, sha256
    values, names = np.array(list(first_of), dtype=np.uint64), list(first_of.values())
    # Cut into one band more than bits may differ, two close hashes have a band that is the same.
    borders = [64 * number // (distance + 1) for number in range(distance + 2)]
    for low, high in pairwise(borders):
        bands = values << np.uint64(64 - high) >> np.uint64(64 - high + low)
        order = np.argsort(bands, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(bands[order])) + 1):
            for place, one in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                near = np.bitwise_count(values[others] ^ values[one]) <= distance
                yield from ((names[one], names[other]) for other in others[near])


def repeated(
    pictures: Sequence[str | None], hashes: Mapping[str, int], *, distance: int | None
) -> list[str | None]:
    """Return for each picture the SHA-256 of the earlier one that it repeats, or None.

    Equal bytes repeat the picture that has their own SHA-256.

    Args:
        pictures: their SHA-256, in the order in which the first of several counts; None has none.
        hashes: perceptual hashes by SHA-256; a picture without one only repeats equal bytes.
        distance: bits in which the hashes of near-duplicates differ at most; None: equal bytes.
    """
    originals: list[str | None] = []
    stands_for: dict[str, str] = {}
    firsts: list[str] = []
    their_hashes = np.zeros(len(pictures), dtype=np.uint64)
    for sha256 in pictures:
        if sha256 is None or sha256 in stands_for:
            originals.append(None if sha256 is None else stands_for[sha256])
            continue
        nearest = None
        if distance is not None and sha256 in hashes:
            own = np.uint64(hashes[sha256])
            bits = np.bitwise_count(their_hashes[: len(firsts)] ^ own)
            close = np.flatnonzero(bits <= distance)
            if len(close):
                nearest = firsts[int(close[0])]
            else:
                their_hashes[len(firsts)] = own
                firsts.append(sha256)
        stands_for[sha256] = nearest or sha256
        originals.append(nearest)
    return originals
