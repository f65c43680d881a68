"""Measurements of pictures: scores and perceptual hashes, each computed once for ever.

Both are kept in the ledger's database under the picture's SHA-256 and what measured it, so that
another policy is tried out without reading a single picture.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise
from numbers import Real
from typing import Any, NamedTuple

from sqlalchemy import Column, select

from imagepipeline_dagster.databases import batches
from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import evidence
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.moderation.classifier import Classifier
from imagepipeline_dagster.moderation.duplicates import HASH_METHOD, perceptual_hash
from imagepipeline_dagster.moderation.verdicts import Evidence
from imagepipeline_dagster.purchase.images import GeneratedImage
from imagepipeline_dagster.purchase.thumbnails import stored_thumbnails
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage, image_path

_BATCH = 16  # pictures: the model is fastest so, and a batch's evidence is stored together
_BATCH_BYTES = 64 * 2**20


class ScoreInvalid(CorrectableError, ValueError):
    """A classifier failed, or answered what is no score; names it. Nothing is judged by it."""


def scores_of(
    images: Iterable[GeneratedImage],
    classifier: Classifier,
    *,
    ledger: Ledger,
    storage: Storage,
) -> Evidence:
    """Return the classifier's score of each picture, computing those that are not known yet.

    A batch's scores are stored before the next is looked at: a crash loses one batch. A picture
    whose bytes are gone has no score.

    Raises:
        ScoreInvalid: the classifier answered something else than a number from 0 to 1 a picture.
    """
    model = classifier.model_sha256
    pictures = {
        image.image_sha256: _Picture(image.image_sha256, str(image.format), image.bytes or 0)
        for image in images
        if image.image_sha256
    }
    stored = _known(ledger, evidence.c.score, by=model, keys=pictures)
    # A table that others can write to may hold what is no score: such a picture is shown again.
    known = {sha256: score for sha256, score in stored.items() if _is_score(score)}
    unknown = [picture for sha256, picture in pictures.items() if sha256 not in known]
    computed = 0
    with ThreadPoolExecutor(storage.reads_at_once) as readers:
        reads = ((b, readers.map(partial(_bytes_of, storage), b)) for b in _batches(unknown))
        # The next batch is being read while the model looks at this one.
        for (batch, read), _ in pairwise(chain(reads, [((), ())])):
            there = {
                p.sha256: data for p, data in zip(batch, read, strict=True) if data is not None
            }
            rounded = _scored(classifier, there)
            _store(ledger, evidence.c.score, rounded, by=model)
            known |= rounded
            computed += len(rounded)
    return Evidence(scores=known, computed=computed, model=model)


def _scored(classifier: Classifier, pictures: Mapping[str, bytes]) -> dict[str, float]:
    """Return the scores of a batch by SHA-256, each of them checked."""
    name = f"{type(classifier).__module__}:{type(classifier).__qualname__}"
    try:
        answers = list(classifier.score(list(pictures.values())))
    except Exception as error:
        raise ScoreInvalid(f"The classifier {name} failed: {error}") from error
    if len(answers) != len(pictures):
        raise ScoreInvalid(
            f"The classifier {name} gave {len(answers)} scores for {len(pictures)} pictures."
        )
    for sha256, score in zip(pictures, answers, strict=True):
        if not _is_score(score):
            raise ScoreInvalid(
                f"The classifier {name} gave picture {sha256} the score {score!r}. A score is a "
                "number from 0 (safe) to 1 (not safe). No verdict was made."
            )
    # Rounded: behind the sixth digit the machines differ, not the pictures.
    return {s: round(float(score), 6) for s, score in zip(pictures, answers, strict=True)}


def _is_score(answer: Any) -> bool:  # noqa: ANN401 - whatever a classifier answers
    # NaN is in no range. A bool is a number too, and a mistake.
    if isinstance(answer, bool) or not isinstance(answer, Real):
        return False
    return 0 <= float(answer) <= 1


def hashes_of(
    images: Iterable[GeneratedImage], *, ledger: Ledger, storage: Storage
) -> dict[str, int]:
    """Return a perceptual hash of 64 bits for each picture, from its thumbnail.

    Hashes are computed once and kept. A picture that is gone has none.
    """
    pictures = dict.fromkeys(image.image_sha256 for image in images if image.image_sha256)
    known = _known(ledger, evidence.c.hash, by=HASH_METHOD, keys=pictures)
    missing = [sha256 for sha256 in pictures if sha256 not in known]
    new = {
        sha256: f"{perceptual_hash(thumbnail):016x}"
        for sha256, thumbnail in zip(missing, stored_thumbnails(storage, missing), strict=True)
        if thumbnail is not None
    }
    _store(ledger, evidence.c.hash, new, by=HASH_METHOD)
    return {sha256: int(text, 16) for sha256, text in {**known, **new}.items()}


class _Picture(NamedTuple):
    """A picture on the storage; its format as Pillow names it."""

    sha256: str
    format: str
    size: int


def _bytes_of(storage: Storage, picture: _Picture) -> bytes | None:
    try:
        return storage.read(image_path(picture.sha256, picture.format))
    except ObjectMissing:
        return None


def _batches(pictures: Sequence[_Picture]) -> Iterator[list[_Picture]]:
    batch: list[_Picture] = []
    size = 0
    for picture in pictures:
        if batch and (len(batch) == _BATCH or size + picture.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(picture)
        size += picture.size
    if batch:
        yield batch


def _known(ledger: Ledger, value: Column[Any], *, by: str, keys: Iterable[str]) -> dict[str, Any]:
    """Return what a method measured of these pictures so far, by SHA-256."""
    of_method = select(evidence.c.image_sha256, value).where(evidence.c.method == by)
    known: dict[str, Any] = {}
    with ledger.reading() as connection:
        for some in batches(sorted(keys)):
            query = of_method.where(evidence.c.image_sha256.in_(some))
            known |= {row[0]: row[1] for row in connection.execute(query)}
    return known


def _store(
    ledger: Ledger, value: Column[Any], measured: Mapping[str, float | str], *, by: str
) -> None:
    if not measured:
        return
    now = dt.datetime.now(dt.UTC)
    rows = [
        {"image_sha256": sha256, "method": by, value.name: what, "measured_at": now}
        for sha256, what in measured.items()
    ]
    with ledger.engine.begin() as connection:
        put(connection, evidence, rows, replace=(value.name, "measured_at"))
