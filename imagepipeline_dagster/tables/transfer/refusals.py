"""Refused rows in a CSV file: a person mends them there, and imports just these."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from imagepipeline_dagster.tables.transfer.file_rows import FileRow, RowUnreadable

__all__ = ["RefusedRows"]

_PLACE, _REASON = "refused_at", "refused_because"


class RefusedRows:
    """Writes refused rows as they came, each with its reasons, in memory that does not grow.

    The file is made with its first row; without a path nothing is written. `count` is how many rows
    it has.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._writer: Any = None
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(
        self, headers: Sequence[str], row: FileRow | RowUnreadable, problems: Sequence[str]
    ) -> None:
        """Add a row of a file with these headers."""
        values: Mapping[str, object] = row.values if isinstance(row, FileRow) else {}
        if self._path is None:
            return
        if self._file is None:
            self._file = self._path.open("w", newline="", encoding="utf-8")
            self._writer = csv.DictWriter(
                self._file, (_PLACE, _REASON, *headers), extrasaction="ignore"
            )
            self._writer.writeheader()
        reasons = "; ".join(problems)
        self._writer.writerow({**values, _PLACE: row.place, _REASON: reasons})
        self.count += 1
