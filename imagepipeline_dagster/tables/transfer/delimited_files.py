"""CSV and TSV files, as spreadsheets, image tools and people write them; and a prompt a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice

from typing_extensions import override

from imagepipeline_dagster.tables.transfer.file_rows import (
    FileRow,
    FileUnreadable,
    RowsFile,
    RowUnreadable,
)
from imagepipeline_dagster.tables.transfer.header_names import known_names, plain_name
from imagepipeline_dagster.tables.transfer.text_lines import text_lines

_DELIMITERS = ",;\t|"
_LONGEST_FIELD = 2**31 - 1  # a C long; one prompt may be longer than csv's 128 KiB
_NO_RETURN = "\udc0d"
"""Stands for a carriage return inside a field, which csv would take for the end of its line.

It is half of a character, so that no text has it."""


class DelimitedFile(RowsFile):
    """A CSV or TSV file: its first line that is not blank has the headers."""

    marks_formulas = True

    @override
    def headers(self) -> tuple[str, ...]:
        first = next(self._records(), None)
        if isinstance(first, RowUnreadable):
            raise FileUnreadable(f"cannot be read: {first.place} {first.problem}")
        if first is None:
            raise FileUnreadable("is empty; its first line must name the columns")
        return tuple(header.strip() for header in first[1])

    @override
    def _rows(self) -> Iterator[FileRow | RowUnreadable]:
        headers = self.headers()
        width = len(headers)
        records = self._records()
        next(records)
        for record in records:
            if isinstance(record, RowUnreadable):
                yield record
                continue
            place, fields = record
            # Nothing but separators is no row, and nor is the line under a header of Markdown.
            if not any(field.strip("-: ") for field in fields):
                continue
            if len(fields) == width:
                yield FileRow(place, dict(zip(headers, fields, strict=True)))
            else:
                problem = f"has {len(fields)} fields where the header has {width}"
                yield RowUnreadable(place, problem, tuple(fields))

    def _records(self) -> Iterator[tuple[str, list[str]] | RowUnreadable]:
        """Yield the fields of each record that is not blank, the header first."""
        lines = _Lines(text_lines(self.path, self.options.encoding))
        try:
            delimiter = self._delimiter(lines)
            if self.options.quotes:
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
            else:
                reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            yield from _records(reader, lines, delimiter)
        except RowUnreadable as error:
            yield error

    def _delimiter(self, lines: _Lines) -> str:
        """Return what separates the fields: said, written in a `sep=` line, or as headers need."""
        start = lines.skip_to_text()
        if start.lower().startswith("sep=") and len(start.rstrip("\r\n")) <= len("sep=") + 1:
            next(lines)
            written = start.rstrip("\r\n")[len("sep=") :]
            lines.skip_to_text()
            return self.options.delimiter or written or "\t"
        if self.options.delimiter:
            return self.options.delimiter
        first = "\t" if ".tsv" in self.path.suffixes else ","
        candidates = sorted(_DELIMITERS, key=lambda sign: sign != first)
        return max(candidates, key=lambda sign: _fitness(lines.first_lines(), sign))


class _Lines:
    """Lines that can be looked at before they are read, and that know how many were read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: list[str] = []
        self._end: RowUnreadable | None = None
        self.number = 0
        self.of_record: list[str] = []
        self.has_returns = False
        self.has_spaced_quotes = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._end and not self._ahead:
            raise self._end
        line = self._ahead.pop(0) if self._ahead else next(self._lines)
        self.number += 1
        if "\r" in line[:-2]:
            body = line.rstrip("\r\n")
            line = body.replace("\r", _NO_RETURN) + line[len(body) :]
            self.has_returns = True
        self.has_spaced_quotes = self.has_spaced_quotes or ' "' in line
        self.of_record.append(line)
        return line

    def skip_to_text(self) -> str:
        """Pass over blank lines; return the line that is next, or the empty text at the end."""
        while True:
            start = next(iter(self.first_lines(1)), "")
            if not start or start.strip():
                return start
            next(self)

    def first_lines(self, count: int = 20) -> list[str]:
        """Return the lines that are next, without reading them."""
        try:
            self._ahead += islice(self._lines, max(0, count - len(self._ahead)))
        except RowUnreadable as error:  # told once it is that line's turn
            self._end = error
        return self._ahead[:count]


_TELLING = frozenset({"prompt", "prompts", "embeddingid"})


def begins_with_headers(start: bytes) -> bool:
    """Tell whether a text begins with several headers that this package knows."""
    lines = start.decode("utf-8", "replace").splitlines()[:1]
    return any(
        len(names & known_names()) > 1 and names & _TELLING
        for sign in _DELIMITERS
        for fields in csv.reader(lines, delimiter=sign)
        if (names := {plain_name(field) for field in fields})
    )


def _fitness(lines: list[str], delimiter: str) -> tuple[int, bool, int]:
    """Return how well a delimiter suits: it gives known headers, and records as long as they."""
    try:
        records = list(islice(csv.reader(lines, delimiter=delimiter), 2))
    except csv.Error:
        return 0, False, 0
    headers = records[0] if records else []
    known = sum(plain_name(header) in known_names() for header in headers)
    return known, len(headers) > 1 and len(headers) == len(records[-1]), len(headers)


def _records(
    reader: Iterator[list[str]], lines: _Lines, delimiter: str
) -> Iterator[tuple[str, list[str]] | RowUnreadable]:
    while True:
        place = f"line {lines.number + 1}"
        lines.of_record.clear()
        # The limit is the process's: it is lifted for the length of one call.
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            fields = next(reader)
            if lines.has_spaced_quotes:
                lines.has_spaced_quotes = False
                if any(field[:1] == " " and field.lstrip(" ")[:1] == '"' for field in fields):
                    fields = _without_spaces(lines, delimiter)
        except StopIteration:
            return
        except csv.Error as error:
            yield RowUnreadable(place, _malformed(str(error)))
            continue
        finally:
            csv.field_size_limit(limit)
        if lines.has_returns:
            fields = [field.replace(_NO_RETURN, "\r") for field in fields]
            lines.has_returns = False
        if fields:
            yield place, fields


def _without_spaces(lines: _Lines, delimiter: str) -> list[str]:
    """Return the record that was read last, spaces before its quotes left out."""
    again = chain(list(lines.of_record), lines)
    return next(csv.reader(again, delimiter=delimiter, strict=True, skipinitialspace=True))


def _malformed(error: str) -> str:
    hint = ""
    if "expected after" in error:
        hint = "; a quote within quotes is doubled, or --no-quotes says that quotes are text"
    elif "end of data" in error:
        hint = "; a quote in it is never closed, or --no-quotes says that quotes are text"
    return f"is not well-formed: {error}{hint}"


class PromptLinesFile(RowsFile):
    """A text file with a prompt a line; blank lines are none, and nor is a header."""

    @override
    def headers(self) -> tuple[str, ...]:
        return ("prompt",)

    @override
    def _rows(self) -> Iterator[FileRow]:
        for number, line in enumerate(text_lines(self.path, self.options.encoding), start=1):
            prompt = line.strip()
            if prompt and not (number == 1 and plain_name(prompt) in _TELLING):
                yield FileRow(f"line {number}", {"prompt": prompt})
