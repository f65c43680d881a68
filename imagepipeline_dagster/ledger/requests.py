"""The ledger opened, and its entries read: what was claimed, bought and stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Executable, Table, select

from imagepipeline_dagster.databases import (
    batches,
    clock_ahead,
    one_at_a_time,
    parsed_url,
    shown_url,
    sqlite_file,
)
from imagepipeline_dagster.ledger.opening import open_ledger_for_reading, open_ledger_for_writing
from imagepipeline_dagster.ledger.records import Attempt, Entry, Failure, Owner, State, StoredSample
from imagepipeline_dagster.ledger.schema import attempts, requests, samples, uses
from imagepipeline_dagster.ledger.uses import Use

_CHANGING_RELEASES = 7190113216


class Ledger:
    """The ledger behind a SQLAlchemy URL; its tables are created at the first use.

    With `create=False` it can only be read, and nothing is created: where there is no ledger, it
    reads as an empty one.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = parsed_url(url)
        self._create = create

    @cached_property
    def engine(self) -> Engine:
        """The engine, with the ledger's tables in place."""
        if self._create:
            return open_ledger_for_writing(self._url)
        return open_ledger_for_reading(self._url)

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where it is another database."""
        return sqlite_file(self._url)

    @property
    def shown_url(self) -> str:
        """The URL without its password; a file's path is absolute."""
        if self.file is None:
            return shown_url(self._url)
        return str(self.file.absolute())

    @property
    def warning(self) -> str | None:
        """A sentence for whoever is about to pay, where the URL is a path that begins in a folder.

        A process that starts in another one finds no ledger there.
        """
        if self.file is None or self.file.is_absolute():
            return None
        return (
            f"The ledger's path, {self.file}, begins in the folder that a process starts in, which "
            f"is {Path.cwd()} here: one that starts elsewhere finds none, and buys nothing. "
            "Whole paths in IMAGEPIPELINE_STORAGE or IMAGEPIPELINE_LEDGER_URL hold everywhere."
        )

    @property
    def is_absent(self) -> bool:
        """Whether it reads as an empty one because there is none."""
        return not self._create and self.engine.url.database is None

    def close(self) -> None:
        """Close the connections."""
        if "engine" in self.__dict__:
            self.engine.dispose()
            del self.engine

    @contextmanager
    def changing_releases(self) -> Iterator[None]:
        """Let one process at a time change or delete releases that are there; the others wait."""
        file = None if self.is_absent else self.file
        with one_at_a_time(self.engine, file, _CHANGING_RELEASES):
            yield

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection.execution_options(only_reads=True)

    def execute_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Carry a statement out with each of these rows' values, all or none."""
        if rows:
            with self.engine.begin() as connection:
                connection.execute(statement, rows)

    def clock_ahead(self) -> dt.timedelta:
        """Return how far the database's clock is ahead of this machine's, as measured now."""
        with self.reading() as connection:
            return clock_ahead(connection)

    def today(self) -> dt.date:
        """Return the day by its clock, in UTC, on which budgets count what is bought now."""
        return (dt.datetime.now(dt.UTC) + self.clock_ahead()).date()

    def entries(self, request_keys: Iterable[str]) -> dict[str, Entry]:
        """Return what is known of these requests, by key; unknown keys are absent."""
        with self.reading() as connection:
            return entries_seen_by(connection, request_keys)

    def latest_uses(
        self, dataset: str, prompt_set: str, prompt_ids: Iterable[str] | None = None
    ) -> dict[tuple[str, int], Use]:
        """Return the request last used by each call of a set, by (prompt id, call index).

        `prompt_ids` are those wanted; all of the set unless given.
        """
        all_uses = (
            select(uses)
            .where(uses.c.dataset == dataset, uses.c.prompt_set == prompt_set)
            .order_by(uses.c.used_at, uses.c.request_key)
        )
        queries = [all_uses]
        if prompt_ids is not None:
            parts = batches(sorted(set(prompt_ids)))
            queries = [all_uses.where(uses.c.prompt_id.in_(some)) for some in parts]
        with self.reading() as connection:
            return {
                (row["prompt_id"], row["call_index"]): Use(**row)
                for query in queries
                for row in connection.execute(query).mappings()
            }

    def unrecorded(self, uses: Sequence[Use]) -> list[Use]:
        """Return those uses, all of one set, that are not known as their calls' latest."""
        if not uses:
            return []
        ids = (use.prompt_id for use in uses)
        latest = self.latest_uses(uses[0].dataset, uses[0].prompt_set, ids)
        return [use for use in uses if latest.get((use.prompt_id, use.call_index)) != use]


def entries_seen_by(connection: Connection, request_keys: Iterable[str]) -> dict[str, Entry]:
    """Return the same inside a transaction."""
    entries: dict[str, Entry] = {}
    for keys in batches(sorted(set(request_keys))):
        stored = _by_key(connection, samples, samples.c.slot, keys)
        earlier = _by_key(connection, attempts, attempts.c.attempt, keys)
        for row in connection.execute(
            select(requests).where(requests.c.request_key.in_(keys))
        ).mappings():
            key = row["request_key"]
            entries[key] = _entry(dict(row), stored.get(key, ()), earlier.get(key, ()))
    return entries


def _by_key(
    connection: Connection, table: Table, order: ColumnElement[int], keys: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of these requests, ordered, without their key."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    names = [column.name for column in table.columns if column.name != "request_key"]
    columns = (table.c.request_key, *(table.c[name] for name in names))
    query = select(*columns).where(table.c.request_key.in_(keys)).order_by(order)
    # Fetched in one go and without a mapping each: a set may have ten thousand of them.
    for key, *values in connection.execute(query).all():
        by_key.setdefault(key, []).append(dict(zip(names, values, strict=True)))
    return by_key


def _entry(
    row: dict[str, Any], stored: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]
) -> Entry:
    failure = row["failure"]
    row |= {
        "state": State(row["state"]),
        "owner": Owner(row["owner"]),
        "links": tuple(row["links"] or ()),
        "failure": Failure(failure) if failure else None,
    }
    return Entry(
        **row,
        stored=tuple([StoredSample(**values) for values in stored]),
        earlier=tuple(
            Attempt(**{**values, "failure": Failure(values["failure"])})
            for values in earlier
            # The current one is the entry itself; one that was not sent is none.
            if values["attempt"] < row["attempt"] or failure == Failure.NOT_SENT
        ),
    )
