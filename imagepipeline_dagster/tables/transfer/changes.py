"""The changes of an import to a table: row by row, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ChangeKind(StrEnum):
    """The fate of a row."""

    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """A row of the table by our names: as it is, and as it is to be.

    `before` is None where the row is new. `after` is None where it goes; `before` then holds its
    key alone. Otherwise both hold the columns that the import brings.
    """

    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def kind(self) -> ChangeKind:
        """The fate of the row."""
        if self.before is None:
            return ChangeKind.INSERTED
        if self.after is None:
            return ChangeKind.DELETED
        return ChangeKind.UPDATED if self.changed else ChangeKind.UNCHANGED

    @property
    def values(self) -> Mapping[str, Any]:
        """The row as it is to be, or as it was where it goes."""
        return self.after or self.before or {}

    @property
    def changed(self) -> tuple[str, ...]:
        """The columns whose values differ. A file's missing time changes none."""
        before, after = self.before or {}, self.after or {}
        return tuple(
            name
            for name, value in after.items()
            if before.get(name) != value and not (name == "updated_at" and value is None)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """How many rows are new, different, as they were, and gone."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0

    @classmethod
    def of(cls, changes: Iterable[RowChange]) -> RowCounts:
        """Return the counts of these rows."""
        return cls(**Counter(change.kind.value for change in changes))

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
            deleted=self.deleted + other.deleted,
        )

    @property
    def changed(self) -> int:
        """How many rows are not as they were."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The changes that an import would make.

    `by_set` has the prompt sets in which something changes, by name; for embeddings it is empty.
    `sample` holds the first changes of each kind, unchanged rows aside.
    """

    total: RowCounts
    by_set: Mapping[str, RowCounts]
    sample: tuple[RowChange, ...]
