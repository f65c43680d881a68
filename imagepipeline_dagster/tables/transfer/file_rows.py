"""A file as rows that know their place in it, and what a person may say about how it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


class FileUnreadable(ValueError):
    """The file as a whole cannot be read; says why and what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """How a file is written, where it does not tell.

    `encoding` is Python's name for it; `delimiter` stands between the fields of a CSV file;
    without `quotes` a quote in it is part of the text.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quotes: bool = True


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row: `place` is "line 12" or "row 12", `values` are by header."""

    place: str
    values: Mapping[str, object]


@dataclass
class RowUnreadable(Exception):
    """A row which is not one; `problem` says why, `fields` are what of it was read.

    It is raised where nothing of the file can be read after it.
    """

    place: str
    problem: str
    fields: tuple[str, ...] = ()


class RowsFile(ABC):
    """A file of rows; it can be read as often as need be, and memory does not grow with it."""

    marks_formulas = False
    """Whether an export puts a quote before texts that a spreadsheet would run."""

    def __init__(self, path: Path, options: FileOptions) -> None:
        self.path = path
        self.options = options

    @abstractmethod
    def headers(self) -> tuple[str, ...]:
        """Return the names of the file's columns.

        Raises:
            FileUnreadable: where the file has none.
        """

    def rows(self) -> Iterator[FileRow | RowUnreadable]:
        """Yield the rows in their order, those that cannot be read among them."""
        try:
            yield from self._rows()
        except RowUnreadable as error:
            yield error

    @abstractmethod
    def _rows(self) -> Iterator[FileRow | RowUnreadable]: ...
