"""The rows of a file as rows of a table: its columns mapped, its values checked, ids given.

A file is refused after its last row, so that one reading shows a person all there is to put right.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from imagepipeline_dagster.api.contract import RANGES, Range
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.schema import (
    Column,
    EmbeddingRow,
    PromptRow,
    columns_of,
    content_json,
    key_columns,
)
from imagepipeline_dagster.tables.transfer.progress import OnProgress, RowProgress
from imagepipeline_dagster.tables.transfer.reading_files import (
    FileRow,
    FileUnreadable,
    RowUnreadable,
    open_file,
)
from imagepipeline_dagster.tables.transfer.staging import SeenRows, StagedRows
from imagepipeline_dagster.tables.values import Kind

__all__ = ["ImportRefused", "IncomingRows", "problem_of", "shown"]

_SHOWN_PROBLEMS = 20
_PROGRESS_ROWS = 2_000


class ImportRefused(TablesError):
    """A file was not imported and nothing was changed.

    `problems` holds the first 20, each naming its place, column and value, and what is expected;
    `count` is how many there are.
    """

    def __init__(self, file: Path, problems: tuple[str, ...], *, count: int | None = None) -> None:
        self.file = file
        self.problems = problems
        self.count = len(problems) if count is None else count
        more = self.count - len(problems)
        lines = [f"{file} was not imported, and nothing was changed:", *problems]
        super().__init__("\n  ".join(lines + ([f"… and {more:,} more"] if more else [])))


class IncomingRows:
    """A file's rows for one of the tables.

    `path` is the file; `columns` are ours that it or the defaults give; `ignored_columns` are
    headers of the file that nothing is read from; `duplicates` counts, after reading, rows that
    stood there before.

    Args:
        row_type: which table they are for.
        column_map: from our column to the file's header; where it is silent, equal names match.
        defaults: from our column to the value where the file has none.
        on_progress: told of the rows "read".

    Raises:
        ImportRefused: when the file or its headers will not do.
    """

    def __init__(
        self,
        file: Path,
        row_type: type[PromptRow | EmbeddingRow],
        *,
        column_map: Mapping[str, str],
        defaults: Mapping[str, str],
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self.path = file
        self.row_type = row_type
        self._defaults = defaults
        self._on_progress = on_progress
        self._columns = columns_of(row_type)
        try:
            self._file = open_file(file)
            headers = self._file.headers()
        except FileUnreadable as error:
            raise ImportRefused(file, (f"the file {error}",)) from error
        self._headers = self._resolved(headers, column_map)
        self.columns = tuple(
            name for name in self._columns if name in self._headers or name in self._defaults
        )
        self._derives_ids = row_type is PromptRow and "prompt_id" not in self.columns
        used = set(self._headers.values())
        self.ignored_columns = tuple(header for header in headers if header not in used)
        self.duplicates = 0

    def stage(self) -> StagedRows:
        """Return the rows, all of them checked; close them when done.

        Raises:
            ImportRefused: after the last row, when any of them had a problem.
        """
        self.duplicates = 0
        staged = StagedRows(self.row_type, (*self.columns, *key_columns(self.row_type)))
        try:
            self._read_into(staged)
        except BaseException:
            staged.close()
            raise
        return staged

    def _read_into(self, staged: StagedRows) -> None:
        problems: list[str] = []
        problem_count = rows = 0
        with closing(SeenRows()) as seen:
            for rows, row in enumerate(self._file.rows(), start=1):
                found = self._problems_of(row, staged, seen)
                problem_count += len(found)
                problems += found[: _SHOWN_PROBLEMS - len(problems)]
                if rows % _PROGRESS_ROWS == 0:
                    self._on_progress(RowProgress("read", rows))
        self._on_progress(RowProgress("read", rows, rows))
        if problems:
            raise ImportRefused(self.path, tuple(problems), count=problem_count)

    def _resolved(self, headers: tuple[str, ...], column_map: Mapping[str, str]) -> dict[str, str]:
        """Map our columns to the file's headers."""
        problems = [
            f"{name!r} is no column of ours; those are {_listed(self._columns)}"
            for name in (*column_map, *self._defaults)
            if name not in self._columns
        ]
        problems += [
            f"the file has no column {header!r}, which {name} is mapped to; it has "
            f"{_listed(headers) or 'none'}"
            for name, header in column_map.items()
            if header not in headers
        ]
        problems += [
            f"{name} for all rows: {problem}"
            for name, value in self._defaults.items()
            if (column := self._columns.get(name))
            and (problem := problem_of(column, value, column.read(value)))
        ]
        found = {name: column_map.get(name, name) for name in self._columns}
        found = {name: header for name, header in found.items() if header in headers}
        problems += [
            f"the file has the column {header!r} {headers.count(header)} times"
            for header in dict.fromkeys(found.values())
            if headers.count(header) > 1
        ]
        missing = [
            name
            for name, column in self._columns.items()
            if column.required
            and name != "prompt_id"
            and name not in {*found, *self._defaults, *column_map}
        ]
        if missing:
            problems.append(_without_columns(missing, headers))
        if problems:
            raise ImportRefused(self.path, tuple(problems))
        return found

    def _problems_of(
        self, row: FileRow | RowUnreadable, staged: StagedRows, seen: SeenRows
    ) -> list[str]:
        """Stage a row, unless it repeats one without an id; return what is wrong with it."""
        if isinstance(row, RowUnreadable):
            return [f"{row.place} {row.problem}"]
        values: dict[str, Any] = {}
        problems = []
        for name in self.columns:
            raw = row.values.get(self._headers[name]) if name in self._headers else None
            if raw is None or raw == "":
                raw = self._defaults.get(name)
            column = self._columns[name]
            values[name] = column.read(raw)
            problem = problem_of(column, raw, values[name])
            if problem:
                problems.append(f"{row.place}, {self._label(name)}: {problem}")
        if problems:
            return problems
        if self._derives_ids:
            prompt_id = self._derived_id(values, row, seen)
            if prompt_id is None:
                self.duplicates += 1
                return []
            values["prompt_id"] = prompt_id
        earlier = staged.add(values, place=row.place)
        if earlier:
            keys = key_columns(self.row_type)
            given = " and ".join(shown(values[name]) for name in keys)
            return [f"{row.place} repeats the {' and '.join(keys)} of {earlier}: {given}"]
        return []

    def _derived_id(self, values: dict[str, Any], row: FileRow, seen: SeenRows) -> str | None:
        """Return the id that follows from a row's content, or None for a repetition.

        Rows which differ only in columns that are ignored are different rows to whoever made the
        file: the second of them gets the id of the first with "-2" behind it.
        """
        content = content_json(PromptRow(prompt_id="", **values))
        ordinal = seen.ordinal(content, whole=_whole_row(row))
        if ordinal is None:
            return None
        digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        return f"{digest}-{ordinal}" if ordinal > 1 else digest

    def _label(self, name: str) -> str:
        header = self._headers.get(name, name)
        return f"column {header!r}" if header == name else f"column {header!r} ({name})"


def _without_columns(missing: list[str], headers: tuple[str, ...]) -> str:
    maps = " ".join(f"--map {name}={_likely_header(name, headers)}" for name in missing)
    return (
        f"no column is called {' or '.join(map(repr, missing))}; the file has "
        f"{_listed(headers) or 'none'}. Say which column it is, for example: {maps}"
    )


def _likely_header(name: str, headers: tuple[str, ...]) -> str:
    """Return the header that differs in case and signs only, or else one that is not ours."""
    ours = {_letters(column): column for column in columns_of(PromptRow)}
    alike = [header for header in headers if ours.get(_letters(header)) == name]
    others = [header for header in headers if _letters(header) not in ours]
    header = (*alike, *others, "COLUMN")[0]
    return f"'{header}'" if " " in header else header


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _whole_row(row: FileRow) -> str:
    return json.dumps(dict(row.values), sort_keys=True, default=str)


_SHOWN_VALUE = 60  # characters


# A table's row may ask for more images than one call of the API gives.
_RANGES = {**RANGES, "samples": Range(1, 10_000)}


def problem_of(column: Column, raw: object, value: Any) -> str | None:  # noqa: ANN401 - by kind
    """Return what is wrong with a raw value, which the column read as `value`, or None.

    It shows the value as it was given, and says what is expected.
    """
    if column.required and not str(value).strip():
        return "is empty"
    if value is None:
        return None
    match column.kind:
        case Kind.TEXT:
            return _problem_of_text(column, raw, value)
        case Kind.WORDS:
            return next(filter(None, map(_problem_of_characters, value)), None)
        case Kind.WHOLE | Kind.NUMBER:
            return _problem_of_number(column, raw, value)
        case Kind.FLAG:
            return None if isinstance(value, bool) else f"{shown(raw)} is not true or false"
        case Kind.TIME:
            is_time = isinstance(value, dt.datetime)
            return None if is_time else f"{shown(raw)} is not a time like 2026-05-01T12:00:00Z"


def _problem_of_text(column: Column, raw: object, value: str) -> str | None:
    if isinstance(raw, list | dict):
        return f"{shown(raw)} is not text"
    if column.choices and value not in column.choices:
        return f"{shown(raw)} is not one of {', '.join(column.choices)}"
    return _problem_of_characters(value)


def _problem_of_characters(text: str) -> str | None:
    if "\x00" in text:
        return f"{shown(text)} has a NUL character, which databases do not take"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{shown(text)} has half of a surrogate pair, which is not Unicode text"
    return None


def _problem_of_number(column: Column, raw: object, value: float | str) -> str | None:
    permitted = _RANGES[column.name]
    number = int if column.kind is Kind.WHOLE else float
    if not isinstance(value, number):
        return f"{shown(raw)} is not {column.kind} from {permitted}"
    if not permitted.low <= value <= permitted.high:
        return f"{shown(raw)} is outside {permitted}"
    return None


def shown(value: object) -> str:
    """Return a value as a message shows it: quoted where it is text, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"
