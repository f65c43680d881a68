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
            "CREATE TABLE seen (key BLOB, whole BLOB, place TEXT, PRIMARY KEY (key, whole))"
            " WITHOUT ROWID"
        )

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

    def earlier_place(self, key: str, *, whole: str = "", place: str) -> str | None:
        """Note a row and its place; return where the same row was noted before, if it was."""
        digests = (_digest(key), _digest(whole))
        added = self._database.execute(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (*digests, place)
        )
        if added.rowcount:
            return None
        found = self._database.execute(
            "SELECT place FROM seen WHERE key = ? AND whole = ?", digests
        )
        return str(found.fetchone()[0])

    def count(self, key: str) -> int:
        """Return how many different rows were noted under a key."""
        found = self._database.execute("SELECT count(*) FROM seen WHERE key = ?", (_digest(key),))
        return int(found.fetchone()[0])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
