"""From an image back to everything that it comes from, and from a row forward to its images.

An image is its bytes: several samples may have the same ones, of several requests, and several
prompts may use one request. All of them are told.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import Column, ColumnElement, Connection, select

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.decisions import (
    FIRST_DIGITS,
    MIN_PREFIX,
    TakenDecision,
    decisions_about,
)
from imagepipeline_dagster.ledger.records import Attempt, Entry, StoredSample
from imagepipeline_dagster.ledger.requests import Ledger, entries_seen_by
from imagepipeline_dagster.ledger.schema import samples, sources, uses
from imagepipeline_dagster.ledger.uses import Use, uses_of

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ImageUnknown(CorrectableError):
    """What was given names no single image of the ledger; the message says what it does name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLineage:
    """One sample with these bytes, its request with all attempts, and what led to it.

    The request's `samples` are those of the call: a sample can be made again with the same seed,
    number of samples and index.
    """

    sample: StoredSample
    entry: Entry
    uses: tuple[Use, ...]
    decisions: tuple[TakenDecision, ...]

    @property
    def job(self) -> Entry | Attempt:
        """The attempt that gave it."""
        return self.entry.bought_by(self.sample)

    @property
    def earlier(self) -> tuple[Attempt, ...]:
        """The attempts before the job that gave it."""
        return tuple(it for it in self.entry.earlier if it.attempt < self.job.attempt)

    @property
    def seed(self) -> int | None:
        """The seed of its call."""
        seed: int | None = json.loads(self.entry.request).get("seed")
        return seed


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLineage:
    """Every sample with an image's bytes, the first one stored first."""

    image_sha256: str
    samples: tuple[SampleLineage, ...]


class RequestUse(NamedTuple):
    """A call that used a request once, and what came of it: the way from a row to its pictures."""

    use: Use
    entry: Entry

    @property
    def images(self) -> list[str]:
        """The SHA-256 of the pictures that were stored."""
        return [stored.image_sha256 for stored in self.entry.stored if stored.image_sha256]


def uses_of_prompt(ledger: Ledger, prompt_set: str, prompt_id: str) -> list[RequestUse]:
    """Return what the calls of a prompt used, in all its wordings, the first use first."""
    return _request_uses(ledger, uses.c.prompt_set == prompt_set, uses.c.prompt_id == prompt_id)


def uses_of_embedding(ledger: Ledger, embedding_id: str) -> list[RequestUse]:
    """Return what was asked for with an embedding, the first use first, in all its versions."""
    quoted = json.dumps(embedding_id, ensure_ascii=False)
    mentions = uses.c.embedding_row.contains(quoted, autoescape=True)
    # The row mentions it somewhere; its id decides.
    return [
        of
        for of in _request_uses(ledger, mentions)
        if json.loads(of.use.embedding_row or "{}").get("embedding_id") == embedding_id
    ]


def _request_uses(ledger: Ledger, *conditions: ColumnElement[bool]) -> list[RequestUse]:
    query = select(uses).where(*conditions).order_by(uses.c.used_at, uses.c.call_index)
    with ledger.reading() as connection:
        calls = [Use(**row) for row in connection.execute(query).mappings()]
        entries = entries_seen_by(connection, (use.request_key for use in calls))
    return [RequestUse(use, entries[use.request_key]) for use in calls]


def lineage_of(ledger: Ledger, image: str) -> ImageLineage:
    """Return where an image comes from.

    `image` is the SHA-256 of its bytes or a unique prefix of at least eight hex digits, the path
    of a file (the image itself, wherever it is, or its thumbnail on the storage), or the file:// or
    s3:// URI of an object on the storage.

    Raises:
        ImageUnknown: it names no image, several, or one that the ledger does not know.
        OSError: the file cannot be read.
    """
    with ledger.reading() as connection:
        sha256 = _sha256(connection, image)
        query = select(samples.c.request_key).where(samples.c.image_sha256 == sha256).distinct()
        entries = entries_seen_by(connection, connection.scalars(query).all())
        if not entries:
            link = _link_of(connection, sha256)
            raise ImageUnknown(
                f"The ledger knows no image with the SHA-256 {sha256} (from {image}). It was made "
                "elsewhere, or its bytes were changed."
                if link is None
                else f"The image {sha256} was not bought: requests start from it, by {link}."
            )
        calls = uses_of(connection, entries)
        decisions = {key: tuple(decisions_about(connection, key)) for key in entries}
    traced = [
        SampleLineage(sample=sample, entry=entry, uses=tuple(calls[key]), decisions=decisions[key])
        for key, entry in entries.items()
        for sample in entry.stored
        if sample.image_sha256 == sha256
    ]
    traced.sort(key=lambda of: (of.sample.stored_at, of.entry.request_key, of.sample.slot))
    return ImageLineage(image_sha256=sha256, samples=tuple(traced))


def picture_named(ledger: Ledger, image: str) -> str:
    """Return the SHA-256 of a picture, named as in `lineage_of`; requests may start from it.

    Raises:
        ImageUnknown: it names no picture, several, or one that the ledger does not know.
        OSError: the file cannot be read.
    """
    with ledger.reading() as connection:
        sha256 = _sha256(connection, image)
        if _link_of(connection, sha256) is not None:
            return sha256
    return lineage_of(ledger, image).image_sha256


def _link_of(connection: Connection, sha256: str) -> str | None:
    """Return a link that led to a picture which requests start from."""
    query = select(sources.c.link).where(sources.c.image_sha256 == sha256).limit(1)
    return connection.scalars(query).first()


def _sha256(connection: Connection, image: str) -> str:
    """Return the SHA-256 of the bytes that `image` stands for."""
    scheme = urlsplit(image).scheme if "://" in image else ""
    if scheme == "file":
        return _of_file(connection, Path(url2pathname(urlsplit(image).path)))
    if scheme:
        named = _named(Path(urlsplit(image).path))
        if scheme != "s3" or named is None:
            raise ImageUnknown(
                f"{image} is not the URI of an image on the storage: those are file:// or s3:// "
                "URIs that end in images/…/<sha256>.<format>"
            )
        return named
    path = Path(image)
    if FIRST_DIGITS.fullmatch(digits := image.lower()) and not path.is_file():
        return _completed(connection, digits)
    return _of_file(connection, path)


def _of_file(connection: Connection, path: Path) -> str:
    named = _named(path)
    if not path.is_file():
        if named is None:
            raise ImageUnknown(
                f"{path} is no file, and no SHA-256 of {MIN_PREFIX} or more hex digits"
            )
        return named
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    is_known = bool(images_beginning_with(connection, sha256, at_most=1))
    if named is None or named == sha256 or is_known:
        return sha256
    if path.parent.parent.name == "thumbnails":
        return named
    raise ImageUnknown(
        f"{path} does not hold what its name says: the SHA-256 of its bytes is {sha256}. "
        "It was changed after it was stored."
    )


def _named(path: Path) -> str | None:
    return path.stem if _SHA256.fullmatch(path.stem) else None


def _completed(connection: Connection, prefix: str) -> str:
    matching = sorted(
        {
            sha256
            for table in (samples, sources)
            for sha256 in _beginning_with(connection, table.c.image_sha256, prefix, at_most=2)
        }
    )
    if not matching:
        raise ImageUnknown(f"The ledger knows no image whose SHA-256 begins with {prefix}.")
    if len(matching) > 1:
        raise ImageUnknown(f"Several images' SHA-256 begin with {prefix}; give more digits.")
    return matching[0]


def images_beginning_with(connection: Connection, digits: str, *, at_most: int) -> list[str]:
    """Return the SHA-256 of images that the ledger knows which begin so, in their order."""
    return _beginning_with(connection, samples.c.image_sha256, digits, at_most=at_most)


def _beginning_with(
    connection: Connection, column: Column[str], digits: str, *, at_most: int
) -> list[str]:
    # A range and no LIKE, which SQLite does not look up in an index: "g" follows every hex digit.
    begins_so = column.between(digits, f"{digits}g")
    query = select(column).where(begins_so).distinct().order_by(column).limit(at_most)
    return list(connection.scalars(query))
