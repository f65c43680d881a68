"""What each prompt set's verdicts were made from, and which sets are to be moderated anew.

Desired is what the policy and the overrides say now, actual is what the last verdicts were made
from. Nothing is derived from events: what was missed is seen at the next look.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, select, update

from imagepipeline_dagster.api.contract import canonical_json
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import prompt_sets, samples, uses
from imagepipeline_dagster.ledger.upserts import upsert
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.tables.overrides import EVERY_SET, Override

__all__ = ["VerdictStates", "basis_of"]

_KEYS_AT_ONCE = 500


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


_PATIENCE = dt.timedelta(minutes=30)
"""After so long a set that was asked for, and is not moderated yet, is asked for again."""


class VerdictStates:
    """The bases of one dataset's prompt sets, kept in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset

    def about_sets(self, overrides: Sequence[Override]) -> dict[str, list[Override]]:
        """Return the overrides by the prompt set that they are about.

        A picture may be in several sets, or in none that this dataset ever had.
        """
        by_set: dict[str, list[Override]] = {}
        sets_of = self._sets_of({o.image_sha256 for o in overrides if o.image_sha256})
        for override in overrides:
            named = [] if override.prompt_set in (None, EVERY_SET) else [override.prompt_set]
            for prompt_set in named or sets_of.get(override.image_sha256 or "", []):
                by_set.setdefault(prompt_set, []).append(override)
        return by_set

    def _sets_of(self, pictures: Iterable[str]) -> dict[str, list[str]]:
        wanted = sorted(pictures)
        sets: dict[str, list[str]] = {}
        with self._ledger.reading() as connection:
            for start in range(0, len(wanted), _KEYS_AT_ONCE):
                query = (
                    select(samples.c.image_sha256, uses.c.prompt_set)
                    .join(uses, uses.c.request_key == samples.c.request_key)
                    .where(
                        uses.c.dataset == self._dataset,
                        samples.c.image_sha256.in_(wanted[start : start + _KEYS_AT_ONCE]),
                    )
                    .distinct()
                )
                for sha256, prompt_set in connection.execute(query):
                    sets.setdefault(sha256, []).append(prompt_set)
        return sets

    def ask(
        self,
        policy: ModerationPolicy,
        overrides: Sequence[Override],
        *,
        present: Iterable[str],
        at_most: int,
    ) -> tuple[dict[str, str], bool]:
        """Note which sets are to be moderated anew, and return them with their new basis.

        They are those of the sets `present` whose verdicts were made from something else, and that
        were not asked for just now. The second value tells whether all sets are as they should be.
        """
        about = self.about_sets(overrides)
        known = self._all()
        now = dt.datetime.now(dt.UTC)
        settled = True
        asked: dict[str, str] = {}
        for prompt_set in sorted(set(present) & known.keys()):
            state = known[prompt_set]
            basis = basis_of(policy, prompt_set, about.get(prompt_set, ()))
            if basis == state.built_basis:
                continue
            settled = False
            asked_at = state.basis_requested_at
            lately = asked_at is not None and now < asked_at + _PATIENCE
            if not (lately and basis == state.requested_basis) and len(asked) < at_most:
                asked[prompt_set] = basis
        with self._ledger.engine.begin() as connection:
            for prompt_set, basis in asked.items():
                mine = self._is(prompt_set)
                values = {"requested_basis": basis, "basis_requested_at": now}
                connection.execute(update(prompt_sets).where(mine).values(values))
        return asked, settled

    def record_built(self, prompt_set: str, basis: str) -> None:
        """Record what a set's stored verdicts were made from."""
        values = {
            "dataset": self._dataset,
            "prompt_set": prompt_set,
            "built_basis": basis,
            # What was asked for is settled: after another change it may be asked for again.
            "requested_basis": None,
            "basis_requested_at": None,
        }
        never_asked_for = {"attempt": 0, "retries": 0, "pending": 0}
        columns = ["built_basis", "requested_basis", "basis_requested_at"]
        with self._ledger.engine.begin() as connection:
            connection.execute(
                upsert(connection, prompt_sets, values | never_asked_for, replace=columns)
            )

    def _all(self) -> dict[str, Row[Any]]:
        """Return the states of the sets that have verdicts, by name."""
        query = select(prompt_sets).where(
            prompt_sets.c.dataset == self._dataset, prompt_sets.c.built_basis.is_not(None)
        )
        with self._ledger.reading() as connection:
            return {row.prompt_set: row for row in connection.execute(query)}

    def _is(self, prompt_set: str) -> ColumnElement[bool]:
        return and_(prompt_sets.c.dataset == self._dataset, prompt_sets.c.prompt_set == prompt_set)
