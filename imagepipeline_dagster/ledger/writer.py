"""Commits to the ledger, grouped and off the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import stamina
from sqlalchemy import Connection, Engine

from imagepipeline_dagster.databases import AWAY

T = TypeVar("T")
ItemT = TypeVar("ItemT")
P = ParamSpec("P")
_GROUP = 200
_LONGEST_REST_SECONDS = 0.05

PATIENCE_SECONDS = 60.0
"""A database that is away for so long must not cost the job id of a paid picture."""


# The log of a write that is tried again shows it: no prompt, no link, and no key of whose method
# it is.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Write(Generic[T]):
    record: Callable[[Connection, list[Any]], Sequence[T]]
    item: Any
    done: Future[T] = field(default_factory=Future)

    def __post_init__(self) -> None:
        # A running future cannot be cancelled: the change is written in any case.
        self.done.set_running_or_notify_cancel()


class LedgerWriter:
    """One thread that commits what the event loop hands it.

    A commit takes all changes that wait once it has the database's lock: under load many share one.
    Then the thread rests as long as it had the lock, for those who wait for it in other processes.
    `write` returns when its commit is durable.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._locked_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    async def write(
        self,
        change: Callable[Concatenate[Connection, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """Apply `change(connection, …)` in a transaction; return its result once committed."""
        return await self.write_together(
            _apply_each, lambda connection: change(connection, *arguments, **options)
        )

    async def write_together(
        self, record: Callable[[Connection, list[ItemT]], Sequence[T]], item: ItemT
    ) -> T:
        """Let `record(connection, items)` write this item, with all others that wait for the same.

        Return its own of the results, one for each item, once they are committed.
        """
        write = _Write(record, item)
        self._waiting.put(write)
        return await asyncio.wrap_future(write.done)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            self._take_waiting(group)
            self._commit(group)
            # SQLite has no queue: a process that waits for its lock looks now and then whether it
            # is free, and must find it so as often as not.
            time.sleep(min(time.monotonic() - self._locked_since, _LONGEST_REST_SECONDS))

    def _take_waiting(self, group: list[_Write[Any]]) -> None:
        while len(group) < _GROUP and not self._waiting.empty():
            following = self._waiting.get()
            if following is None:
                self._waiting.put(None)
                break
            group.append(following)

    def _commit(self, group: list[_Write[Any]], *, alone: bool = False) -> None:
        try:
            results = self._apply(group, alone=alone)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the write
            if len(group) == 1 or isinstance(error, AWAY):
                # The database is at fault, and had its time: the others would wait as long again.
                for write in group:
                    write.done.set_exception(error)
                return
            # One bad write must not take the others with it.
            for write in group:
                self._commit([write], alone=True)
        else:
            for write, result in zip(group, results, strict=True):
                write.done.set_result(result)

    @stamina.retry(on=AWAY, attempts=None, timeout=PATIENCE_SECONDS)
    def _apply(self, group: list[_Write[Any]], *, alone: bool) -> list[Any]:
        with self._engine.begin() as connection:
            self._locked_since = time.monotonic()
            if not alone:
                # Other processes may have had the lock until now: what came meanwhile comes along.
                self._take_waiting(group)
            alike: dict[object, list[_Write[Any]]] = {}
            # A change may undo what it was handed over after: those that came one by one are last.
            for write in sorted(group, key=lambda write: write.record is _apply_each):
                alike.setdefault(write.record, []).append(write)
            results = {
                write: result
                for writes in alike.values()
                for write, result in zip(
                    writes,
                    writes[0].record(connection, [write.item for write in writes]),
                    strict=True,
                )
            }
            return [results[write] for write in group]


def _apply_each(
    connection: Connection, changes: Sequence[Callable[[Connection], T]]
) -> Sequence[T]:
    return [change(connection) for change in changes]
