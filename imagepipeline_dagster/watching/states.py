"""What each prompt set was last requested and built from, and which sets want a run.

Desired is what `SetContents` keeps of the tables, actual is what was last built. A set is asked for
when the two differ and that difference was not asked for yet. Nothing is derived from events, so
the next look sees every change that was missed (a daemon that was down, a reset sensor).

Whoever asks names the tick that it asks in. A tick whose answer Dagster never got is repeated under
the same name, finds what it asked for, and gives the same answer: `asked_in` and `reported_in`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    func,
    not_,
    or_,
    select,
    update,
)

from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import prompt_sets, set_contents
from imagepipeline_dagster.ledger.upserts import put
from imagepipeline_dagster.tables.fingerprints import SetFingerprint

_LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
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

    @property
    def retry_at(self) -> dt.datetime | None:
        """When it may be asked for again if it is not built whole; None if it never was.

        The pauses double from half an hour to a day.
        """
        last = self.requested_at or self.built_at
        if last is None:
            return None
        doublings: int = 2 ** min(self.retries, 10)
        return last + min(_FIRST_RETRY * doublings, _LONGEST_PAUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRun:
    """A run that was asked for: of which content, as the how-manieth of its set, and when.

    `rows` is how many prompts the set has.
    """

    prompt_set: str
    content: str
    attempt: int
    asked_at: dt.datetime
    rows: int


_DESIRED, _STATE = set_contents.c, prompt_sets.c
_SAME_SET = and_(_DESIRED.dataset == _STATE.dataset, _DESIRED.prompt_set == _STATE.prompt_set)
_WITH_STATE = set_contents.outerjoin(prompt_sets, _SAME_SET)
_STATES = select(*(_STATE[name] for name in PromptSetState.__slots__))
_STATE_WITH_DESIRED = prompt_sets.outerjoin(set_contents, _SAME_SET)
_AS_DESIRED = (_DESIRED.prompt_set, _DESIRED.rows, _DESIRED.prompts, _DESIRED.embeddings)
_NOT_BUILT = _STATE.built_content.is_distinct_from(_DESIRED.content)
_ASKED_AS_DESIRED = and_(
    _STATE.requested_prompts == _DESIRED.prompts, _STATE.requested_embeddings == _DESIRED.embeddings
)
# A set that was never asked for nor made waits for its rows, whatever its embeddings say.
_KNOWN = or_(_STATE.attempt > 0, _STATE.built_content.is_not(None))


# Rows are changed in this order, so that two sensors wait for each other and never both. Many are
# sent at once: a tick has no time for an answer to each where the ledger is far away.
_name = attrgetter("prompt_set")
_SET_NAME = bindparam("set_name", type_=Text)


def _named(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"set_name": name} for name in sorted(names)]


class PromptSetStates:
    """The states of one dataset's prompt sets, kept in the ledger's database."""

    def __init__(self, ledger: Ledger, *, dataset: str) -> None:
        self._ledger = ledger
        self._dataset = dataset

    def wanting_for_prompts(self) -> list[SetFingerprint]:
        """Return the sets whose rows changed since a run was last asked for, longest wait first."""
        return self._saying(_NOT_BUILT, _STATE.requested_prompts.is_distinct_from(_DESIRED.prompts))

    def wanting_for_embeddings(self) -> list[SetFingerprint]:
        """Return those whose embeddings changed since; a set that is new is not among them."""
        return self._saying(
            _NOT_BUILT, _KNOWN, _STATE.requested_embeddings.is_distinct_from(_DESIRED.embeddings)
        )

    def _saying(self, *wanted: ColumnElement[bool]) -> list[SetFingerprint]:
        """Return what the sets say for which these conditions hold, longest wait first."""
        query = (
            select(*_AS_DESIRED)
            .select_from(_WITH_STATE)
            .where(_DESIRED.dataset == self._dataset, *wanted)
            .order_by(_DESIRED.changed_at, _DESIRED.prompt_set)
        )
        with self._ledger.reading() as connection:
            return [SetFingerprint(*row) for row in connection.execute(query)]

    def all(self) -> dict[str, PromptSetState]:
        """Return what is known of each prompt set that was ever asked for or built."""
        states = self._states(_STATES.where(_STATE.dataset == self._dataset))
        return {state.prompt_set: state for state in states}

    def not_whole(self) -> list[str]:
        """Return the sets that were asked for or built, and are not whole, as far as is known."""
        return sorted(state.prompt_set for state in self._not_whole())

    def end_pauses(self, sets: Iterable[str]) -> None:
        """Let these sets be asked for at the next look, as if nothing had been asked for yet."""
        self._forget_asking(sets, requested_at=_LONG_AGO)

    def _forget_asking(self, sets: Iterable[str], **also: object) -> None:
        values = {"requested_prompts": None, "requested_embeddings": None, "retries": 0, **also}
        of_set = self._is(_SET_NAME)
        self._ledger.execute_many(update(prompt_sets).where(of_set).values(values), _named(sets))

    def overdue(self, *, now: dt.datetime) -> list[str]:
        """Return the sets that are not whole, as far as is known, and waited long enough.

        Longest wait first.
        """
        states = self._not_whole()
        return [s.prompt_set for s in states if s.retry_at is not None and now >= s.retry_at]

    def _not_whole(self) -> list[PromptSetState]:
        last = func.coalesce(_STATE.requested_at, _STATE.built_at)
        return self._states(
            _STATES.select_from(_STATE_WITH_DESIRED)
            .where(_STATE.dataset == self._dataset, or_(_NOT_BUILT, _STATE.pending > 0))
            .order_by(last, _STATE.prompt_set)
        )

    def _states(self, query: Select[Any]) -> list[PromptSetState]:
        with self._ledger.reading() as connection:
            return [PromptSetState(**row) for row in connection.execute(query).mappings()]

    def ask(
        self, desired: SetFingerprint, *, tick: str | None = None, again: bool = False
    ) -> int | None:
        """Note that a run for this content is asked for, and return its number, from 1.

        None where the same was asked for already, by another sensor or process; `again` asks all
        the same.
        """
        with self._ledger.engine.begin() as connection:
            return self._ask(connection, desired, tick=tick, again=again)

    def _ask(
        self, connection: Connection, desired: SetFingerprint, *, tick: str | None, again: bool
    ) -> int | None:
        asked = (desired.prompts, desired.embeddings)
        of_set = self._is(desired.prompt_set)
        unknown = {
            "dataset": self._dataset,
            "prompt_set": desired.prompt_set,
            "attempt": 0,
            "retries": 0,
            "pending": 0,
        }
        put(connection, prompt_sets, unknown)
        row = connection.execute(select(prompt_sets).where(of_set).with_for_update()).one()
        same = asked == (row.requested_prompts, row.requested_embeddings)
        if same and not again:
            return None
        attempt: int = row.attempt + 1
        connection.execute(
            update(prompt_sets)
            .where(of_set)
            .values(
                requested_prompts=desired.prompts,
                requested_embeddings=desired.embeddings,
                requested_at=dt.datetime.now(dt.UTC),
                attempt=attempt,
                retries=row.retries + 1 if same else 0,
            )
        )
        connection.execute(
            update(set_contents).where(self._says(desired.prompt_set)).values(asked_in=tick)
        )
        return attempt

    def ask_for(
        self, wanting: Iterable[SetFingerprint], *, tick: str, at_most: int
    ) -> list[AskedRun]:
        """Ask for as many of these sets as there is room for; return all that the tick asked for.

        Where the tick is repeated, what it asked for the first time comes first.
        """
        room = at_most - len(self.asked_in(tick))
        chosen = sorted(islice(wanting, max(room, 0)), key=_name)
        with self._ledger.engine.begin() as connection:
            for desired in chosen:
                self._ask(connection, desired, tick=tick, again=False)
        return self.asked_in(tick)

    def ask_again(
        self, prompt_sets: Collection[str], *, now: dt.datetime, tick: str, at_most: int
    ) -> list[AskedRun]:
        """Ask for those of these sets that are still overdue, and return the runs."""
        known = {says.prompt_set: says for says in self._saying()}
        overdue = set(prompt_sets).intersection(known)
        due = (known[name] for name in self.overdue(now=now) if name in overdue)
        for desired in islice(due, at_most):
            self.ask(desired, tick=tick, again=True)
        return self.asked_in(tick)

    def asked_in(self, tick: str) -> list[AskedRun]:
        """Return the runs that a tick asked for and that are wanted still, longest wait first."""
        query = (
            select(
                _STATE.prompt_set,
                _DESIRED.content,
                _STATE.attempt,
                _STATE.requested_at.label("asked_at"),
                _DESIRED.rows,
            )
            .select_from(_WITH_STATE)
            .where(
                _DESIRED.dataset == self._dataset,
                _DESIRED.asked_in == tick,
                or_(_NOT_BUILT, _STATE.pending > 0),
                _ASKED_AS_DESIRED,
            )
            .order_by(_DESIRED.changed_at, _DESIRED.prompt_set)
        )
        with self._ledger.reading() as connection:
            return [AskedRun(**row) for row in connection.execute(query).mappings()]

    def close_tick(self, tick: str) -> None:
        """Forget what a tick asked for and reported: it is over, and its name may come again."""
        c = set_contents.c
        ours = and_(c.dataset == self._dataset, or_(c.asked_in == tick, c.reported_in == tick))
        with self._ledger.reading() as connection:
            if connection.execute(select(c.prompt_set).where(ours).limit(1)).first() is None:
                return  # as nearly always: a ledger's only writer is kept for who has to write
        with self._ledger.engine.begin() as connection:
            for column in (c.asked_in, c.reported_in):
                connection.execute(
                    update(set_contents)
                    .where(c.dataset == self._dataset, column == tick)
                    .values({column: None})
                )

    def record_built(self, prompt_set: str, *, content: str, pending: int) -> None:
        """Record what a set was built from, and how many of its samples are still open."""
        values = {
            "dataset": self._dataset,
            "prompt_set": prompt_set,
            "built_content": content,
            "built_at": dt.datetime.now(dt.UTC),
            "pending": pending,
        }
        whole = [] if pending else ["retries"]
        with self._ledger.engine.begin() as connection:
            put(
                connection,
                prompt_sets,
                {"attempt": 0, "retries": 0, **values},
                replace=["built_content", "built_at", "pending", *whole],
            )

    def settle(self) -> None:
        """Note for sets that are built as desired that nothing else is asked for.

        Otherwise a change that was taken back, and is made again, would look as if asked for.
        """
        stale = self._saying(
            _STATE.built_content == _DESIRED.content,
            _STATE.requested_prompts.is_not(None),
            not_(_ASKED_AS_DESIRED),
        )
        self._forget_asking(says.prompt_set for says in stale)

    def forget(self, vanished: Iterable[str]) -> None:
        """Drop the states of sets that left the tables: one that comes back is compared anew."""
        names = _named(vanished)
        if not names:
            return
        with self._ledger.engine.begin() as connection:
            connection.execute(delete(prompt_sets).where(self._is(_SET_NAME)), names)
            connection.execute(
                update(set_contents)
                .where(self._says(_SET_NAME))
                .values(reported=None, reported_in=None, asked_in=None),
                names,
            )

    def keep_only(self, names: Collection[str]) -> None:
        """Drop the states of all other sets."""
        query = select(_STATE.prompt_set).where(_STATE.dataset == self._dataset)
        with self._ledger.reading() as connection:
            kept = set(connection.scalars(query))
        self.forget(kept.difference(names))

    def _says(self, prompt_set: str | BindParameter[str]) -> ColumnElement[bool]:
        return and_(_DESIRED.dataset == self._dataset, _DESIRED.prompt_set == prompt_set)

    def _is(self, prompt_set: str | BindParameter[str]) -> ColumnElement[bool]:
        return and_(prompt_sets.c.dataset == self._dataset, prompt_sets.c.prompt_set == prompt_set)
