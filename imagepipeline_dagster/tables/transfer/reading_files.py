"""CSV, TSV, JSON Lines and Parquet files as rows that know their place in the file.

Files are streamed: memory does not grow with their length.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.errors import CorrectableError

__all__ = ["FILE_ENDINGS", "FileRow", "FileUnreadable", "RowUnreadable", "RowsFile", "open_file"]

_PARQUET_BATCH = 2_000  # rows
# A field in quotes with doubled quotes inside.
_DOUBLED_QUOTES = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*""(?:[^"\t]|"")*"(?=\t|\r?\n|\Z)')

# One prompt may be longer than csv's 128 KiB; the limit is the process's, and a C long.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class FileUnreadable(CorrectableError):
    """The file as a whole cannot be read; says why and what is expected."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row: `place` is "line 12" or "row 12", `values` are by header."""

    place: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RowUnreadable:
    """A row which is not one; `problem` says why."""

    place: str
    problem: str


class RowsFile(ABC):
    """A file of rows; it can be read as often as need be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def headers(self) -> tuple[str, ...]:
        """Return the names of the file's columns.

        Raises:
            FileUnreadable: where the file has none.
        """

    @abstractmethod
    def rows(self) -> Iterator[FileRow | RowUnreadable]:
        """Yield the rows in their order, those that cannot be read among them."""


class _LineUnreadable(ValueError):
    def __init__(self, place: str, problem: str) -> None:
        self.place = place
        self.problem = problem
        super().__init__(f"{place}: {problem}")


def _lines(path: Path) -> Iterator[str]:
    # Decoded line by line, which a text file does not do, to know the line that is not UTF-8.
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _LineUnreadable(
                    f"line {number}",
                    f"is not UTF-8 text (byte 0x{line[error.start]:02x} at position "
                    f"{error.start + 1}); save the file as UTF-8",
                ) from None


class _DelimitedFile(RowsFile):
    """A CSV or TSV file: the first line has the headers."""

    def __init__(self, path: Path, *, delimiter: str, quoted: bool) -> None:
        super().__init__(path)
        self._delimiter = delimiter
        self._quoted = quoted

    def headers(self) -> tuple[str, ...]:
        first = next(self._records(), None)
        if isinstance(first, RowUnreadable):
            raise FileUnreadable(f"cannot be read: {first.place} {first.problem}")
        if first is None:
            raise FileUnreadable("is empty; its first line must name the columns")
        return tuple(header.strip() for header in first[1])

    def rows(self) -> Iterator[FileRow | RowUnreadable]:
        headers = self.headers()
        records = self._records()
        next(records)
        for record in records:
            if isinstance(record, RowUnreadable):
                yield record
                continue
            place, fields = record
            if len(fields) == len(headers):
                yield FileRow(place, dict(zip(headers, fields, strict=True)))
            elif fields:  # an empty line is no row
                yield RowUnreadable(place, _ragged(len(fields), len(headers)))

    def _records(self) -> Iterator[tuple[str, list[str]] | RowUnreadable]:
        if self._quoted:
            reader = csv.reader(_lines(self.path), delimiter=self._delimiter, strict=True)
        else:
            reader = csv.reader(
                _lines(self.path), delimiter=self._delimiter, quoting=csv.QUOTE_NONE
            )
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                yield place, next(reader)
            except StopIteration:
                return
            except _LineUnreadable as error:
                yield RowUnreadable(error.place, error.problem)
                return
            except csv.Error as error:
                yield RowUnreadable(place, f"is not well-formed: {error}")


def _ragged(fields: int, headers: int) -> str:
    return f"has {fields} fields where the header has {headers}"


def _csv_delimiter(path: Path) -> str:
    # Where the comma is the decimal sign, spreadsheets write semicolons.
    try:
        header = next(_lines(path), "")
    except _LineUnreadable:
        return ","
    return ";" if ";" in header and "," not in header else ","


def _tsv_is_quoted(path: Path) -> bool:
    """Return whether quotes in a TSV file are its syntax, or part of its texts.

    Spreadsheets quote fields with tabs, line ends or quotes in them, as in CSV; plain TSV files
    have no quoting, and a text may well begin with a quote. A file counts as quoted where all of it
    is well-formed in that way, and its header or some field would not read well otherwise.
    """
    quoted = _DelimitedFile(path, delimiter="\t", quoted=True)
    try:
        is_needed = next(_lines(path), "").startswith('"')
        width = len(quoted.headers())
    except (FileUnreadable, _LineUnreadable):
        return False
    for row in quoted.rows():
        if isinstance(row, RowUnreadable) or len(row.values) != width:
            return False
        is_needed = is_needed or any(
            "\t" in field or "\n" in field for field in map(str, row.values.values())
        )
    return is_needed or any(_DOUBLED_QUOTES.search(line) for line in _lines(path))


_LIKE_THIS = '{"prompt": "…"}'


class _JsonLinesFile(RowsFile):
    """A file with a JSON object a line; a key that some rows lack is null in them."""

    def headers(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        row = None
        for row in self._objects():
            if isinstance(row, FileRow):
                found.update(dict.fromkeys(row.values))
        if row is None:
            raise FileUnreadable(f"is empty; its lines are JSON objects, like {_LIKE_THIS}")
        return tuple(found)

    def rows(self) -> Iterator[FileRow | RowUnreadable]:
        return self._objects()

    def _objects(self) -> Iterator[FileRow | RowUnreadable]:
        lines = _lines(self.path)
        for number in count(1):
            place = f"line {number}"
            try:
                line = next(lines)
                value: object = json.loads(line) if line.strip() else None
            except StopIteration:
                return
            except _LineUnreadable as error:
                yield RowUnreadable(error.place, error.problem)
                return
            except (json.JSONDecodeError, RecursionError) as error:
                yield RowUnreadable(place, f"is not JSON: {error}")
                continue
            if isinstance(value, dict):
                yield FileRow(place, value)
            elif line.strip():
                yield RowUnreadable(place, f"is not a JSON object, like {_LIKE_THIS}")


class _ParquetFile(RowsFile):
    def headers(self) -> tuple[str, ...]:
        with self._opened() as file:
            return tuple(file.schema_arrow.names)

    def rows(self) -> Iterator[FileRow | RowUnreadable]:
        numbers = count(1)
        with self._opened() as file:
            try:
                for batch in file.iter_batches(_PARQUET_BATCH):
                    for values in batch.to_pylist():
                        yield FileRow(f"row {next(numbers)}", values)
            except (pa.ArrowException, OSError) as error:
                yield RowUnreadable(f"row {next(numbers)}", f"cannot be read: {error}")

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise FileUnreadable(f"is not a Parquet file: {error}") from error


FILE_ENDINGS: tuple[str, ...] = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""The endings of the files that can be read."""


def open_file(path: Path) -> RowsFile:
    """Return the file, read as its ending says.

    Raises:
        FileUnreadable: where there is no such file, or its ending is not a known one.
    """
    if not path.is_file():
        raise FileUnreadable("is not there" if not path.exists() else "is not a file")
    match path.suffix.lower():
        case ".csv":
            return _DelimitedFile(path, delimiter=_csv_delimiter(path), quoted=True)
        case ".tsv":
            return _DelimitedFile(path, delimiter="\t", quoted=_tsv_is_quoted(path))
        case ".jsonl" | ".ndjson":
            return _JsonLinesFile(path)
        case ".parquet":
            return _ParquetFile(path)
        case ending:
            raise FileUnreadable(
                f"ends in {ending!r}; files that can be read end in {', '.join(FILE_ENDINGS)}"
            )
