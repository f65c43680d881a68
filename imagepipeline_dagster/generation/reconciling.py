"""What each prompt set was last requested and built from, and which sets want a run.

Desired is what the tables say, actual is what was last built. A set is asked for when the two
differ and that difference was not asked for yet. Whatever was missed (a daemon that was down, a
reset sensor) is seen at the next look, because nothing is derived from events.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, select, update

from imagepipeline_dagster.generation.ledger import Ledger, upsert
from imagepipeline_dagster.generation.ledger_schema import prompt_sets
from imagepipeline_dagster.tables.fingerprints import SetFingerprint

__all__ = [
    "PromptSetState",
    "PromptSetStates",
    "is_built",
    "retry_due",
    "wants_run_for_embeddings",
    "wants_run_for_prompts",
]

_FIRST_RETRY = dt.timedelta(minutes=30)
_LONGEST_PAUSE = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSetState:
    """What is known of a prompt set; a fingerprint is None where it never came to that.

    `retries` are the runs asked for again since the content last changed or was built whole;
    `pending` are the samples that were still open when it was last built.
    """

    prompt_set: str
    requested_prompts: str | None
    requested_embeddings: str | None
    requested_at: dt.datetime | None
    retries: int
    built_content: str | None
    built_at: dt.datetime | None
    pending: int


def is_built(desired: SetFingerprint, state: PromptSetState | None) -> bool:
    """Tell whether a set was last built from just this content."""
    return state is not None and state.built_content == desired.content


def wants_run_for_prompts(desired: SetFingerprint, state: PromptSetState | None) -> bool:
    """Tell whether a set's rows changed since a run was last asked for."""
    return not is_built(desired, state) and (
        state is None or state.requested_prompts != desired.prompts
    )


def wants_run_for_embeddings(desired: SetFingerprint, state: PromptSetState | None) -> bool:
    """Tell whether the embeddings that a set uses changed since a run was last asked for.

    A set that was never asked for is not this function's business: its rows are new too.
    """
    return (
        state is not None
        and not is_built(desired, state)
        and state.requested_embeddings != desired.embeddings
    )


def retry_due(desired: SetFingerprint, state: PromptSetState, *, now: dt.datetime) -> bool:
    """Tell whether a set that is not built whole, by request or by hand, is to be asked for again.

    The pauses double from half an hour to a day.
    """
    last = state.requested_at or state.built_at
    if last is None or (is_built(desired, state) and not state.pending):
        return False
    doublings: int = 2 ** min(state.retries, 10)
    pause = min(_FIRST_RETRY * doublings, _LONGEST_PAUSE)
    return now >= last + pause


def _requested(state: PromptSetState) -> tuple[str | None, str | None]:
    return state.requested_prompts, state.requested_embeddings


class PromptSetStates:
    """The states of one dataset's prompt sets, kept in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset

    def all(self) -> dict[str, PromptSetState]:
        """Return the states by prompt set."""
        query = select(prompt_sets).where(prompt_sets.c.dataset == self._dataset)
        with self._ledger.reading() as connection:
            return {
                row["prompt_set"]: PromptSetState(
                    **{name: row[name] for name in PromptSetState.__slots__}
                )
                for row in connection.execute(query).mappings()
            }

    def ask(self, desired: SetFingerprint, *, again: bool = False) -> int | None:
        """Note that a run for this content is asked for, and return its number, from 1.

        None where the same was asked for already, by another sensor or process; `again` asks all
        the same.
        """
        asked = (desired.prompts, desired.embeddings)
        mine = self._is(desired.prompt_set)
        with self._ledger.engine.begin() as connection:
            unknown = {
                "dataset": self._dataset,
                "prompt_set": desired.prompt_set,
                "attempt": 0,
                "retries": 0,
                "pending": 0,
            }
            connection.execute(upsert(connection, prompt_sets, unknown, replace=()))
            row = connection.execute(select(prompt_sets).where(mine).with_for_update()).one()
            same = asked == (row.requested_prompts, row.requested_embeddings)
            if same and not again:
                return None
            attempt: int = row.attempt + 1
            connection.execute(
                update(prompt_sets)
                .where(mine)
                .values(
                    requested_prompts=desired.prompts,
                    requested_embeddings=desired.embeddings,
                    requested_at=dt.datetime.now(dt.UTC),
                    attempt=attempt,
                    retries=row.retries + 1 if same else 0,
                )
            )
        return attempt

    def note_built(self, prompt_set: str, *, content: str, pending: int) -> None:
        """Record what a set was built from, and how many of its samples are still open."""
        values = {
            "dataset": self._dataset,
            "prompt_set": prompt_set,
            "built_content": content,
            "built_at": dt.datetime.now(dt.UTC),
            "pending": pending,
        }
        with self._ledger.engine.begin() as connection:
            connection.execute(
                upsert(
                    connection,
                    prompt_sets,
                    {"attempt": 0, "retries": 0, **values},
                    replace=["built_content", "built_at", "pending"],
                )
            )

    def settle(self, built: Iterable[SetFingerprint], known: Mapping[str, PromptSetState]) -> None:
        """Note for sets that are built as desired that just this is what was asked for.

        Otherwise a change that was taken back, and is made again, would look as if asked for.
        """
        stale = [
            desired
            for desired in built
            if _requested(known[desired.prompt_set]) != (desired.prompts, desired.embeddings)
        ]
        if not stale:
            return
        with self._ledger.engine.begin() as connection:
            for desired in stale:
                connection.execute(
                    update(prompt_sets)
                    .where(self._is(desired.prompt_set))
                    .values(
                        requested_prompts=desired.prompts,
                        requested_embeddings=desired.embeddings,
                        retries=0,
                    )
                )

    def forget(self, vanished: Iterable[str]) -> None:
        """Drop the states of sets that left the tables: one that comes back is compared anew."""
        with self._ledger.engine.begin() as connection:
            for prompt_set in vanished:
                connection.execute(delete(prompt_sets).where(self._is(prompt_set)))

    def _is(self, prompt_set: str) -> ColumnElement[bool]:
        return and_(prompt_sets.c.dataset == self._dataset, prompt_sets.c.prompt_set == prompt_set)
