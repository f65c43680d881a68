"""Whether a ledger is the one that its storage knows: by another one nothing is bought.

A ledger that was lost, emptied, restored from an old copy or opened in another folder knows less
than was bought, and would have it bought again. So the storage keeps, for each ledger that buys
into it, an object with the ledger's id and a count. The count is raised when a run begins to buy,
while it buys, and when it has bought: in the ledger first, then on the storage. A process that
dies in between leaves a ledger that is ahead of its storage, never behind it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection, select, update

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import identity, requests
from imagepipeline_dagster.storage.contract import ObjectMissing, Storage

_MARKS = "ledgers"


class LedgerMismatch(CorrectableError):
    """The ledger is not the one that bought what the storage holds; nothing was bought."""


class LedgerIdentity(BaseModel):
    """A ledger's id, and how often purchases were counted in it."""

    model_config = ConfigDict(frozen=True)

    ledger_id: str
    purchases: int


def check_ledger(ledger: Ledger, storage: Storage) -> LedgerIdentity | None:
    """Refuse a ledger that knows less than was bought into the storage; nothing is written.

    Returns:
        Its id and count, which is not lower than the storage's; None where there is no ledger yet.

    Raises:
        LedgerMismatch: says what does not match, and what to do.
    """
    if ledger.is_absent:
        if is_known_to_ledgers(storage) or _holds(storage, "images"):
            raise LedgerMismatch(
                f"There is no ledger at {ledger.shown_url}, and one bought into {storage.uri}. "
                f"Without it nothing is bought. {_REMEDIES}"
            )
        return None
    with ledger.reading() as connection:
        own = _identity_in(connection)
    mark = _mark_of(own, storage)
    has_marks = has_images = False
    if mark is None:
        with ThreadPoolExecutor() as looks:  # a bucket takes its time for each
            has_marks, has_images = looks.map(partial(_holds, storage), (_MARKS, "images"))
        if has_marks:
            mark = _mark_of(own, storage)
    # Last: a run that begins meanwhile counts in the ledger before it marks the storage.
    with ledger.reading() as connection:
        own = _identity_in(connection)
        is_empty = connection.execute(select(requests.c.request_key).limit(1)).first() is None
    if mark is not None and mark.purchases > own.purchases:
        raise LedgerMismatch(
            f"The ledger at {ledger.shown_url} is an older copy of the one that bought into "
            f"{storage.uri}: it counts {own.purchases} purchases, the storage {mark.purchases}. "
            f"Nothing was bought. {_REMEDIES}"
        )
    if mark is None and (has_marks or (is_empty and has_images)):
        raise LedgerMismatch(
            f"The ledger at {ledger.shown_url} knows nothing of what was bought into "
            f"{storage.uri}: it is new, or another one. Nothing was bought. {_REMEDIES}"
        )
    return own


def may_be_older(ledger: Ledger, storage: Storage) -> bool:
    """Tell whether the ledger may be a copy from before purchases that the storage counts."""
    with ledger.reading() as connection:
        own = _identity_in(connection)
    try:
        mark = _mark_of(own, storage)
    except LedgerMismatch:
        return True
    return mark is not None and mark.purchases > own.purchases


def is_known_to_ledgers(storage: Storage) -> bool:
    """Tell whether any ledger has bought into the storage."""
    return _holds(storage, _MARKS)


_REMEDIES = (
    "Put the right ledger back (IMAGEPIPELINE_LEDGER_URL; a relative path depends on the folder "
    "that a process starts in). If it is lost, `imagepipeline-dagster ledger rebuild` makes its "
    "entries anew from what is stored. `imagepipeline-dagster ledger adopt` takes this one as it "
    "is; what it does not know is then bought again."
)


def record_purchase(connection: Connection) -> LedgerIdentity:
    """Raise the count in the ledger, and return what the storage is to be marked with."""
    connection.execute(update(identity).values(purchases=identity.c.purchases + 1))
    return _identity_in(connection)


def mark_storage(
    storage: Storage, counted: LedgerIdentity, *, after: LedgerIdentity | None = None
) -> None:
    """Keep the count on the storage, unless another run's is higher already.

    `after` is a count that the storage's was not above. If it is the one before `counted`, nobody
    counted in between, and the storage is not asked.
    """
    if after is None or counted.purchases != after.purchases + 1:
        mark = _mark_of(counted, storage)
        if mark is not None and mark.purchases >= counted.purchases:
            return
    _write_mark(storage, counted)


def adopt(ledger: Ledger, storage: Storage) -> LedgerIdentity:
    """Take the ledger as it is for the storage's own, whatever was counted before."""
    with ledger.engine.begin() as connection:
        own, mark = _identity_in(connection), None
        with suppress(LedgerMismatch):  # it is written anew
            mark = _mark_of(own, storage)
        reached = max(own.purchases, mark.purchases if mark else 0)
        connection.execute(update(identity).values(purchases=reached))
        adopted = record_purchase(connection)
    _write_mark(storage, adopted)
    return adopted


def _identity_in(connection: Connection) -> LedgerIdentity:
    return LedgerIdentity.model_validate(connection.execute(select(identity)).mappings().one())


def _mark_of(own: LedgerIdentity, storage: Storage) -> LedgerIdentity | None:
    try:
        return LedgerIdentity.model_validate_json(storage.read(_path(own)))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise LedgerMismatch(
            f"{storage.uri_of(_path(own))} does not say what was counted. Nothing was bought. "
            "`imagepipeline-dagster ledger adopt` writes it anew."
        ) from error


def _write_mark(storage: Storage, counted: LedgerIdentity) -> None:
    storage.write(_path(counted), counted.model_dump_json().encode())


def _path(own: LedgerIdentity) -> str:
    return f"{_MARKS}/{own.ledger_id}.json"


def _holds(storage: Storage, folder: str) -> bool:
    return next(storage.list(folder), None) is not None
