"""What writes the parts of one split in a format of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from imagepipeline_dagster.release.held_rows import HeldRows
from imagepipeline_dagster.release.parts import Part
from imagepipeline_dagster.release.pictures import Batch


class Writer(ABC):
    """Writes the parts of one split in a format of its own.

    Two threads write two runs of parts at the same time; all else is asked by one.
    """

    @abstractmethod
    def wants(self, part: Part) -> HeldRows:
        """Return the rows whose pictures must be read; the files of the others are taken over."""

    def runs(self, parts: Sequence[Part]) -> Sequence[Sequence[Part]]:
        """Return the parts in runs, each of which one thread writes in its order."""
        return [[part] for part in parts]

    @abstractmethod
    def add(self, part: Part, batch: Batch) -> None:
        """Take some rows of a part, with their pictures; others may have asked for them."""

    def end(self, part: Part) -> None:  # noqa: B027 - not every format has to
        """Take note that these were all rows of a part of which it wanted some."""

    def finish(self) -> None:  # noqa: B027 - not every format has to
        """Take note that these were all parts."""

    def abandon(self) -> None:  # noqa: B027 - not every format has to
        """Close what is open, after a failure."""


def marks_of(batch: Batch) -> Counter[str]:
    """Return how many pictures say what of their origin."""
    return Counter(row["mark"] for row in batch.rows if row["mark"] is not None)
