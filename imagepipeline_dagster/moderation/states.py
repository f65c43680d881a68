"""The grounds of each prompt set's verdicts, and the sets that are to be moderated anew.

Desired is what the policy and the overrides say now, actual is what the last verdicts were made
from. Nothing is derived from events: the next look sees every change that was missed.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, select, update

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.ledger.identity import check_ledger
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import prompt_sets
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.ledger.uses import sets_of_pictures
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.tables.overrides import EVERY_SET, Override

_PATIENCE = dt.timedelta(minutes=30)
"""After so long a set that was asked for, and is not moderated yet, is asked for again."""


def basis_of(policy: ModerationPolicy, prompt_set: str, overrides: Iterable[Override]) -> str:
    """Return a digest of everything but the images that a set's verdicts follow from.

    `overrides` are those that are about the set.
    """
    decided = sorted(
        (
            o.image_sha256 or "",
            o.prompt_id or "",
            # An older row about a picture named no set, and its digest stays as it was.
            *([o.prompt_set] if o.image_sha256 and o.prompt_set else []),
            *map(str, o.rank),
            o.decision,
            o.reviewer,
            o.reason,
        )
        for o in overrides
    )
    content = {
        "rules": policy.rules_for(prompt_set).digest,
        "classifier": policy.classifier,
        "overrides": decided,
    }
    return hashlib.blake2b(canonical_json(content).encode(), digest_size=16).hexdigest()


def overrides_by_set(
    ledger: Ledger,
    overrides: Sequence[Override],
    *,
    dataset: str,
    storage: Storage | None = None,
) -> dict[str, list[Override]]:
    """Return the overrides by the prompt set that they are about.

    A picture may be in several sets, or in none that this dataset ever had. The overrides' clock is
    compared with the ledger's, which tells when pictures came.

    Raises:
        LedgerMismatch: a picture is in no set, and the ledger is not the storage's own. One that
            was lost would forget what a person rejected.
    """
    ahead = ledger.clock_ahead() if overrides else dt.timedelta(0)
    by_set: dict[str, list[Override]] = {}
    anywhere = (None, EVERY_SET)
    pictures = {o.image_sha256 for o in overrides if o.image_sha256 and o.prompt_set in anywhere}
    with ledger.reading() as connection:
        sets_of = sets_of_pictures(connection, pictures, dataset=dataset)
    if storage is not None and pictures - sets_of.keys():
        check_ledger(ledger, storage)
    for decided in overrides:
        override = dataclasses.replace(decided, apart=decided.ahead - ahead)
        named = [] if override.prompt_set in anywhere else [override.prompt_set]
        for prompt_set in named or sets_of.get(override.image_sha256 or "", []):
            by_set.setdefault(prompt_set, []).append(override)
    return by_set


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictState:
    """The bases that a set's verdicts were last requested and built from."""

    prompt_set: str
    requested_basis: str | None
    basis_requested_at: dt.datetime | None
    built_basis: str


def retry_due(desired: str, state: VerdictState, *, now: dt.datetime) -> bool:
    """Tell whether verdicts that differ are to be asked for: not yet, or half an hour ago."""
    asked_at = state.basis_requested_at
    waits = asked_at is not None and now < asked_at + _PATIENCE
    return state.built_basis != desired and not (waits and state.requested_basis == desired)


class VerdictStates:
    """The states of one dataset's verdicts, kept in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset

    def all(self) -> dict[str, VerdictState]:
        """Return the states of the sets that have verdicts, by name."""
        columns = [prompt_sets.c[name] for name in VerdictState.__slots__]
        query = select(*columns).where(
            prompt_sets.c.dataset == self._dataset, prompt_sets.c.built_basis.is_not(None)
        )
        with self._ledger.reading() as connection:
            states = [VerdictState(**row) for row in connection.execute(query).mappings()]
        return {state.prompt_set: state for state in states}

    def ask(self, desired: Mapping[str, str], *, now: dt.datetime) -> None:
        """Note that these sets are to be moderated anew, each on its basis."""
        if not desired:
            return
        mine = and_(
            prompt_sets.c.dataset == self._dataset, prompt_sets.c.prompt_set == bindparam("name")
        )
        values = {"requested_basis": bindparam("basis"), "basis_requested_at": now}
        with self._ledger.engine.begin() as connection:
            connection.execute(
                update(prompt_sets).where(mine).values(values),
                [{"name": name, "basis": basis} for name, basis in desired.items()],
            )

    def record_built(self, prompt_set: str, basis: str) -> None:
        """Record what a set's stored verdicts were made from."""
        values = {
            "dataset": self._dataset,
            "prompt_set": prompt_set,
            "built_basis": basis,
            # The request is settled: after another change the set may be asked for again.
            "requested_basis": None,
            "basis_requested_at": None,
        }
        never_asked_for = {"attempt": 0, "retries": 0, "pending": 0}
        columns = ["built_basis", "requested_basis", "basis_requested_at"]
        with self._ledger.engine.begin() as connection:
            put(connection, prompt_sets, values | never_asked_for, replace=columns)
