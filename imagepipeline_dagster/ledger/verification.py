"""The storage read again: whether each image that the ledger knows is there, as it was bought."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, Row, Table, func, select

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import samples, sources
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

_IMAGES_AT_ONCE = 500
_READERS = 4  # each holds one image


class Damage(StrEnum):
    """What is wrong with a stored image."""

    MISSING = "missing"
    OTHER_SIZE = "other size"
    OTHER_BYTES = "other bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedImage:
    """An image that the storage lacks, or holds other than it was stored.

    It came by these requests, or by these links to pictures that requests start from.
    """

    image_sha256: str
    uri: str
    damage: Damage
    request_keys: tuple[str, ...]
    links: tuple[str, ...]


def count_images(ledger: Ledger) -> int:
    """Return how many images the ledger knows."""
    with ledger.reading() as connection:
        return sum(
            connection.execute(
                select(func.count(table.c.image_sha256.distinct())).where(is_there)
            ).scalar_one()
            for table, is_there in _KEPT
        )


def damaged_images(ledger: Ledger, storage: Storage) -> Iterator[DamagedImage | None]:
    """Read each image that the ledger knows, and yield what is wrong with it, or None.

    However many there are, a few of them are in memory at a time.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        for page in chain.from_iterable(_pages(ledger, *kept) for kept in _KEPT):
            damages = readers.map(lambda image: damage_of(storage, *image), page)
            for image, damage in zip(page, damages, strict=True):
                yield None if damage is None else _damaged(ledger, storage, image, damage)


def count_strangers(ledger: Ledger, storage: Storage) -> int:
    """Return how many images on the storage the ledger does not know."""
    strangers = 0
    stored = (PurePosixPath(path).stem for path in storage.list("images"))
    while page := set(islice(stored, _IMAGES_AT_ONCE)):
        known: set[str] = set()
        with ledger.reading() as connection:
            for column in (samples.c.image_sha256, sources.c.image_sha256):
                known.update(connection.scalars(select(column).where(column.in_(page))))
        strangers += len(page - known)
    return strangers


_KEPT = (
    (samples, samples.c.outcome != Outcome.WITHDRAWN),
    (sources, sources.c.error.is_(None)),
)
"""The tables of images, each with what says of a row that its image is on the storage."""


def _pages(
    ledger: Ledger, table: Table, is_there: ColumnElement[bool]
) -> Iterator[list[Row[str, str, int]]]:
    last = ""
    columns = (table.c.image_sha256, table.c.format, table.c.bytes)
    while True:
        query = (
            select(*columns)
            .where(table.c.image_sha256 > last, is_there)
            .distinct()
            .order_by(table.c.image_sha256)
            .limit(_IMAGES_AT_ONCE)
        )
        with ledger.reading() as connection:
            page = list(connection.execute(query).all())
        if not page:
            return
        yield page
        last = page[-1].image_sha256


def damage_of(
    storage: Storage, image_sha256: str, picture_format: str, size: int | None
) -> Damage | None:
    """Read an image from the storage, and return what is wrong with it."""
    try:
        data = storage.read(image_path(image_sha256, picture_format))
    except ObjectMissing:
        return Damage.MISSING
    if len(data) != size:
        return Damage.OTHER_SIZE
    return None if hashlib.sha256(data).hexdigest() == image_sha256 else Damage.OTHER_BYTES


def _damaged(
    ledger: Ledger, storage: Storage, image: Row[str, str, int], damage: Damage
) -> DamagedImage:
    with ledger.reading() as connection:
        keys, links = (
            tuple(
                connection.scalars(
                    select(named).where(column == image.image_sha256).distinct().order_by(named)
                )
            )
            for named, column in (
                (samples.c.request_key, samples.c.image_sha256),
                (sources.c.link, sources.c.image_sha256),
            )
        )
    return DamagedImage(
        image_sha256=image.image_sha256,
        uri=storage.uri_of(image_path(image.image_sha256, image.format)),
        damage=damage,
        request_keys=keys,
        links=links,
    )
