"""Refused rows in a CSV file: a person mends them there, and imports just these."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imagepipeline_dagster.tables.transfer.file_rows import FileRow, RowUnreadable
from imagepipeline_dagster.tables.values import read_text

_PLACE, _REASON = "refused_at", "refused_because"


class RefusedRows(ExitStack):
    """Writes refused rows as they came, each with its reasons, in memory that does not grow.

    The file is made with its first row; without a path nothing is written. `count` is how many rows
    it has.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._writer: Any = None
        self.count = 0

    def add(
        self, headers: Sequence[str], row: FileRow | RowUnreadable, problems: Sequence[str]
    ) -> None:
        """Add a row of a file with these headers."""
        if self._path is None:
            return
        if self._writer is None:
            # A person has to mend what is no text, too.
            file = self._path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            self._writer = csv.writer(self.enter_context(file))
            self._writer.writerow((_PLACE, _REASON, *headers))
        if isinstance(row, FileRow):
            cells = tuple(read_text(row.values.get(header)) for header in headers)
        else:
            cells = row.fields
        self._writer.writerow((row.place, "; ".join(problems), *cells))
        self.count += 1
