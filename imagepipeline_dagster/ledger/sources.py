"""The pictures that requests start from, by their links: what a link led to, or why to nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select, update

from imagepipeline_dagster.api.contract import storable
from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import sources
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.rows import fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """What a link led to when it was looked up.

    Where it led to no picture, `error` says why, and the next run looks it up again. A picture with
    an error was withdrawn, and no run does.
    """

    link: str
    looked_up_at: dt.datetime
    image_sha256: str | None = None
    format: str | None = None
    bytes: int | None = None
    error: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether its picture is on the storage."""
        return self.error is None


def sources_of(ledger: Ledger, links: Iterable[str]) -> dict[str, SourcePicture]:
    """Return what is known of these links; unknown ones are absent."""
    known: dict[str, SourcePicture] = {}
    columns = [sources.c[name] for name in SourcePicture.__slots__]
    for keys in batches(sorted(set(map(_key, links)))):
        query = select(*columns).where(sources.c.link_sha256.in_(keys))
        with ledger.reading() as connection:
            for row in connection.execute(query).mappings():
                known[row["link"]] = SourcePicture(**row)
    return known


def record_source(connection: Connection, source: SourcePicture) -> None:
    """Record what a link led to; the first picture that it ever led to stays its own."""
    row = {**fields_of(source), "error": source.error and storable(source.error)}
    put(connection, sources, {**row, "link_sha256": _key(source.link)})
    mine = sources.c.link_sha256 == _key(source.link)
    connection.execute(update(sources).where(mine, sources.c.image_sha256.is_(None)).values(row))


def forget_source(connection: Connection, source: SourcePicture, error: str) -> None:
    """Let the next run look a link up again, unless another run recorded what it leads to."""
    nothing = {"image_sha256": None, "format": None, "bytes": None, "error": storable(error)}
    mine = and_(
        sources.c.link_sha256 == _key(source.link), sources.c.looked_up_at == source.looked_up_at
    )
    connection.execute(update(sources).where(mine).values(nothing))


def withdraw_sources(connection: Connection, images: Collection[str], error: str) -> None:
    """Let no link lead to these pictures any more; `images` are SHA-256, `error` says why."""
    ours = and_(sources.c.image_sha256.in_(sorted(images)), sources.c.error.is_(None))
    connection.execute(update(sources).where(ours).values(error=error))


def _key(link: str) -> str:
    # A link may be longer than what a database can have in an index.
    return hashlib.sha256(link.encode()).hexdigest()
