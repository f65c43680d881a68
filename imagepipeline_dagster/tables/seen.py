"""Which rows of a file were seen before, in memory that does not grow with the file."""

from __future__ import annotations

import hashlib
import sqlite3

__all__ = ["SeenRows"]


class SeenRows:
    """Rows by a key and, within it, by their whole text; close it when done."""

    def __init__(self) -> None:
        # The empty name is a private database in a temporary file, removed on closing. Nothing in
        # it is worth a journal.
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA journal_mode = OFF")
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
        digests = (_digest(key), _digest(whole))
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", digests)
        if not added.rowcount:
            return None
        count = self._database.execute("SELECT count(*) FROM seen WHERE key = ?", digests[:1])
        return int(count.fetchone()[0])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
