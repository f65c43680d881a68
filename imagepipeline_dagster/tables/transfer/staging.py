"""Rows on their way between a file and a table, by their key, in memory that does not grow."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from imagepipeline_dagster.tables.fingerprints import digest_of
from imagepipeline_dagster.tables.schema import RowType, columns_of, key_columns

Values = Mapping[str, Any]
"""A row by our names."""


def _temporary_database() -> sqlite3.Connection:
    # The empty name is a private database in a file that closing removes: worth no journal.
    database = sqlite3.connect("")
    database.execute("PRAGMA journal_mode = OFF")
    return database


class StagedRows:
    """Rows of one of the tables in a temporary database of their own; closing it removes them.

    They come back in the order of their keys, with the values that they came with. The table's keys
    are always among their columns.
    """

    def __init__(self, row_type: RowType, columns: Sequence[str] = ()) -> None:
        self._keys = key_columns(row_type)
        self.columns = tuple(dict.fromkeys((*self._keys, *columns)))
        self._readers = [(name, columns_of(row_type)[name].read) for name in self.columns]
        self._database = _temporary_database()
        # The names in these statements are our own columns.
        names, keys = ", ".join(self.columns), ", ".join(self._keys)
        self._database.execute(
            f"CREATE TABLE staged ({names}, place, PRIMARY KEY ({keys})) WITHOUT ROWID"
        )
        is_key = " AND ".join(f"{name} = ?" for name in self._keys)
        self._insert = f"INSERT OR IGNORE INTO staged VALUES ({'?, ' * len(self.columns)}?)"  # noqa: S608
        self._find = f"SELECT place FROM staged WHERE {is_key}"  # noqa: S608
        self._all = f"SELECT {names} FROM staged ORDER BY {keys}"  # noqa: S608
        self._of_set = f"SELECT {names} FROM staged WHERE prompt_set = ? ORDER BY {keys}"  # noqa: S608

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def add(self, values: Values, *, place: str = "") -> str | None:
        """Take a row and its place in the file; return the place of an earlier one with its key.

        The earlier row stays then.
        """
        kept = [_kept(values[name]) for name in self.columns]
        if self._database.execute(self._insert, (*kept, place)).rowcount:
            return None
        key = [values[name] for name in self._keys]
        return str(self._database.execute(self._find, key).fetchone()[0])

    def __contains__(self, key: Sequence[str]) -> bool:
        return self._database.execute(self._find, key).fetchone() is not None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM staged").fetchone()[0])

    def chunks(self, size: int) -> Iterator[list[Values]]:
        """Yield all rows, so many at a time."""
        cursor = self._database.execute(self._all)
        while rows := cursor.fetchmany(size):
            yield [self._values(row) for row in rows]

    def prompt_sets(self, size: int) -> Iterator[list[str]]:
        """Yield the names of the prompt sets, so many at a time."""
        cursor = self._database.execute("SELECT DISTINCT prompt_set FROM staged")
        while names := cursor.fetchmany(size):
            yield [name for (name,) in names]

    def count_prompt_sets(self) -> int:
        """Return how many prompt sets there are."""
        query = "SELECT count(DISTINCT prompt_set) FROM staged"
        return int(self._database.execute(query).fetchone()[0])

    def of_set(self, prompt_set: str) -> list[Values]:
        """Return the rows of a prompt set."""
        rows = self._database.execute(self._of_set, (prompt_set,))
        return [self._values(row) for row in rows]

    def _values(self, row: Sequence[object]) -> Values:
        return {name: read(kept) for (name, read), kept in zip(self._readers, row, strict=True)}


def _kept(value: object) -> object:
    """Return a value as SQLite keeps it; its column's reader gives it back."""
    match value:
        case dt.datetime():
            return value.isoformat()
        case tuple():
            return json.dumps(value)
        case _:
            return value


class SeenRows:
    """Rows by a key and, within it, by their whole text; close it when done."""

    def __init__(self) -> None:
        self._database = _temporary_database()
        self._database.execute(
            "CREATE TABLE seen (key BLOB, whole BLOB, PRIMARY KEY (key, whole)) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def ordinal(self, key: str, *, whole: str) -> int | None:
        """Note a row; return its place among the different rows of its key, from 1.

        None where the same row was noted before.
        """
        digests = (digest_of(key), digest_of(whole))
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", digests)
        if not added.rowcount:
            return None
        count = self._database.execute("SELECT count(*) FROM seen WHERE key = ?", digests[:1])
        return int(count.fetchone()[0])
