"""The storage read again: whether each image that the ledger knows is there, as it was bought."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, Row, func, select

from imagepipeline_dagster.ledger.records import Outcome
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import samples
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
    """An image that the storage lacks, or holds other than it was bought."""

    image_sha256: str
    uri: str
    damage: Damage
    request_keys: tuple[str, ...]


def count_images(ledger: Ledger) -> int:
    """Return how many images the ledger knows."""
    query = select(func.count(samples.c.image_sha256.distinct())).where(_is_there())
    with ledger.reading() as connection:
        return int(connection.execute(query).scalar_one())


def damaged_images(ledger: Ledger, storage: Storage) -> Iterator[DamagedImage | None]:
    """Read each image that the ledger knows, and yield what is wrong with it, or None.

    However many there are, a few of them are in memory at a time.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        for page in _pages(ledger):
            damages = readers.map(lambda image: damage_of(storage, *image), page)
            for image, damage in zip(page, damages, strict=True):
                yield None if damage is None else _damaged(ledger, storage, image, damage)


def count_strangers(ledger: Ledger, storage: Storage) -> int:
    """Return how many images on the storage the ledger does not know."""
    strangers = 0
    stored = (PurePosixPath(path).stem for path in storage.list("images"))
    while page := set(islice(stored, _IMAGES_AT_ONCE)):
        query = select(samples.c.image_sha256).where(samples.c.image_sha256.in_(page))
        with ledger.reading() as connection:
            strangers += len(page.difference(connection.scalars(query)))
    return strangers


def _is_there() -> ColumnElement[bool]:
    return samples.c.outcome != Outcome.WITHDRAWN


def _pages(ledger: Ledger) -> Iterator[list[Row[str, str, int]]]:
    last = ""
    columns = (samples.c.image_sha256, samples.c.format, samples.c.bytes)
    while True:
        query = (
            select(*columns)
            .where(samples.c.image_sha256 > last, _is_there())
            .distinct()
            .order_by(samples.c.image_sha256)
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
    query = (
        select(samples.c.request_key)
        .where(samples.c.image_sha256 == image.image_sha256)
        .distinct()
        .order_by(samples.c.request_key)
    )
    with ledger.reading() as connection:
        keys = tuple(connection.scalars(query))
    return DamagedImage(
        image_sha256=image.image_sha256,
        uri=storage.uri_of(image_path(image.image_sha256, image.format)),
        damage=damage,
        request_keys=keys,
    )
