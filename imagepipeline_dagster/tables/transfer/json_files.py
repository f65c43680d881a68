"""JSON Lines, and JSON files with an array of objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from typing_extensions import override

from imagepipeline_dagster.tables.transfer.file_rows import (
    FileRow,
    FileUnreadable,
    RowsFile,
    RowUnreadable,
)
from imagepipeline_dagster.tables.transfer.text_lines import text_lines

_LIKE_THIS = '{"prompt": "…"}'
_READ_AT_ONCE = 1 << 16  # characters
_SIGN = re.compile(r"\S")


class _Repeating(dict[str, object]):
    """An object in which a key stands several times: all but one of its values would be lost."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        [(self.key, self.times)] = Counter(name for name, _ in pairs).most_common(1)


def _object_of(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    whole = dict(pairs)
    return whole if len(whole) == len(pairs) else _Repeating(pairs)


# Decimals keep the digits of a number as they are written.
_DECODER = json.JSONDecoder(parse_float=Decimal, object_pairs_hook=_object_of)


class _JsonFile(RowsFile):
    @override
    def headers(self) -> tuple[str, ...]:
        names: dict[str, None] = {}
        first: FileRow | RowUnreadable | None = None
        for row in self.rows():
            first = first or row
            if isinstance(row, FileRow):
                names.update(dict.fromkeys(row.values))
        if first is None:
            raise FileUnreadable(f"is empty; it holds JSON objects, like {_LIKE_THIS}")
        if isinstance(first, RowUnreadable) and not names:
            raise FileUnreadable(f"cannot be read: {first.place} {first.problem}")
        return tuple(names)


class JsonLinesFile(_JsonFile):
    """A file with a JSON object a line; a key that some rows lack is null in them."""

    @override
    def _rows(self) -> Iterator[FileRow | RowUnreadable]:
        for number, line in enumerate(text_lines(self.path, self.options.encoding), start=1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                value: object = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                yield RowUnreadable(place, _no_json(error))
                continue
            yield _row(place, value)


class JsonArrayFile(_JsonFile):
    """A file with an array of JSON objects, however its lines are broken."""

    @override
    def _rows(self) -> Iterator[FileRow | RowUnreadable]:
        text = _Window(text_lines(self.path, self.options.encoding))
        text.take("[")
        while text.following() not in ("]", ""):
            place = f"line {text.line}"
            try:
                value = text.decode()
            except (ValueError, RecursionError) as error:
                yield RowUnreadable(place, _no_json(error))
                return
            yield _row(place, value)
            if not text.take(",") and text.following() != "]":
                yield RowUnreadable(f"line {text.line}", "is not JSON: a ',' or the ']' is missing")
                return


class _Window:
    """What is read of a text and not yet decoded; it grows only as far as one value needs."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._text = ""
        self._start = 0
        self.line = 1

    def following(self) -> str:
        """Return the next character that is not blank, or the empty text at the end."""
        while not (sign := _SIGN.search(self._text, self._start)):
            self._pass(len(self._text))
            if not self._more(1):
                return ""
        self._pass(sign.start())
        return sign[0]

    def take(self, sign: str) -> bool:
        """Pass over the next character if it is this one, and tell whether it was."""
        is_next = self.following() == sign
        self._start += is_next
        return is_next

    def decode(self) -> object:
        """Return the next value; the text grows twofold until it is whole.

        Raises:
            ValueError, RecursionError: when it is no JSON.
        """
        size = _READ_AT_ONCE
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._start)
            except json.JSONDecodeError:
                if not self._more(size):
                    raise
                size *= 2
            else:
                self._pass(end)
                return value

    def _pass(self, end: int) -> None:
        self.line += self._text.count("\n", self._start, end)
        self._start = end

    def _more(self, size: int) -> bool:
        parts = [self._text[self._start :]]
        length = 0
        while length < size and (line := next(self._lines, "")):
            parts.append(line)
            length += len(line)
        self._text, self._start = "".join(parts), 0
        return length > 0


def _row(place: str, value: object) -> FileRow | RowUnreadable:
    if isinstance(value, _Repeating):
        return RowUnreadable(place, f"has the key {value.key!r} {value.times} times")
    if isinstance(value, dict):
        return FileRow(place, value)
    return RowUnreadable(place, f"is not a JSON object, like {_LIKE_THIS}")


def _no_json(error: Exception) -> str:
    if "digits" in str(error):
        return "holds a whole number of more than 4,300 digits"
    return f"is not JSON: {error}; a file has an object a line, or one array of objects"
