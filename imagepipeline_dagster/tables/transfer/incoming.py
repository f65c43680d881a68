"""The rows of a file as rows of a table: its columns mapped, its values checked, ids given.

A file is refused after its last row, so that one reading shows a person all there is to put right.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from imagepipeline_dagster.api.contract import RANGES, Range
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.prompt_syntax import foreign_syntax
from imagepipeline_dagster.tables.schema import (
    MAX_SAMPLES,
    Column,
    PromptRow,
    RowType,
    columns_of,
    content_json,
    key_columns,
)
from imagepipeline_dagster.tables.spelling import is_blank
from imagepipeline_dagster.tables.transfer.file_rows import (
    FileOptions,
    FileRow,
    FileUnreadable,
    RowUnreadable,
)
from imagepipeline_dagster.tables.transfer.header_names import HeadersRefused, resolved_headers
from imagepipeline_dagster.tables.transfer.progress import OnProgress, RowProgress
from imagepipeline_dagster.tables.transfer.reading_files import open_file
from imagepipeline_dagster.tables.transfer.staging import SeenRows, StagedRows
from imagepipeline_dagster.tables.transfer.tidying import Tidy, tidy_of
from imagepipeline_dagster.tables.values import Kind, is_no_value, is_unread_list, shown

_SHOWN_PROBLEMS = 20
_SHOWN_ALIKE = 5  # problems of one column
_SHOWN_SYNTAX = 20
_PROMPTS = frozenset({"prompt", "negative_prompt"})
_PROGRESS_ROWS = 2_000


class ImportRefused(TablesError):
    """A file was not imported and nothing was changed.

    `problems` holds the first ones, each naming its place, column and value, and what is expected;
    `count` is how many there are.
    """

    def __init__(
        self,
        file: Path,
        problems: tuple[str, ...],
        *,
        further: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Refuse a file; `further` counts the problems that are not named, by what has them."""
        self.file = file
        self.problems = problems
        self.count = len(problems) + sum(further.values())
        lines = [f"{file} was not imported, and nothing was changed:", *problems]
        lines += [
            f"… and {count:,} more" + (f" in {what}" if what else "")
            for what, count in further.items()
        ]
        super().__init__("\n  ".join(lines))


class _Problem(NamedTuple):
    """A trouble with a row: in which column, if in one, and in words."""

    about: str
    text: str


OnRefused = Callable[[Sequence[str], FileRow | RowUnreadable, list[str]], object]
"""Called with the file's headers, a row that is refused, and its problems."""

_MARKED = re.compile("'+[=+@\\t\\r-]")
"""A text that an export marked, so that no spreadsheet runs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """A person's instructions on how to read a file.

    - column_map: from our column to the file's header; where it is silent, equal names match.
    - defaults: from our column to the value where the file has none.
    - ignored: headers that nothing is read from, whatever they look like.
    - guess: whether headers that look like a column of ours are taken for it.
    - decimal: the sign before the decimals of a number.
    - seed_modulo: what seeds are divided by to make them smaller; the original is kept.
    """

    column_map: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    ignored: Collection[str] = ()
    guess: bool = False
    decimal: str = "."
    seed_modulo: int | None = None
    file: FileOptions = field(default_factory=FileOptions)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a column's values come from, and what is done with each."""

    column: Column
    header: str | None
    default: str | None
    tidy: Tidy | None

    @property
    def label(self) -> str:
        name = self.column.name
        if self.header in (None, name):
            return f"column {name!r}"
        return f"column {self.header!r} ({name})"


class IncomingRows:
    """A file's rows for one of the tables.

    `path` is the file; `columns` are ours that it or the defaults give; `ignored_columns` are
    headers of the file that nothing is read from; `guessed` says which headers were taken for which
    column. After reading, `duplicates` counts rows that stood there before, and `notes` says what
    was read otherwise than it was written.

    `on_progress` is told of the rows "read", `on_refused` of each row that is refused.

    Raises:
        ImportRefused: when the file or its headers will not do.
    """

    def __init__(
        self,
        file: Path,
        row_type: RowType,
        *,
        options: ImportOptions = ImportOptions(),
        on_progress: OnProgress = lambda _: None,
        on_refused: OnRefused = lambda *_: None,
    ) -> None:
        self.path = file
        self.row_type = row_type
        self.on_progress = on_progress
        self._on_refused = on_refused
        columns = columns_of(row_type)
        try:
            self._file = open_file(file, options.file)
            self._headers = headers = self._file.headers()
            chosen, self.guessed = resolved_headers(
                headers,
                row_type,
                column_map=options.column_map,
                given=tuple(options.defaults),
                ignored=options.ignored,
                guess=options.guess,
            )
        except FileUnreadable as error:
            raise ImportRefused(file, (f"the file {error}",)) from error
        except HeadersRefused as error:
            raise ImportRefused(file, error.problems) from error
        self._sources = tuple(
            _Source(
                column,
                chosen.get(name),
                options.defaults.get(name),
                tidy_of(column, decimal=options.decimal, seed_modulo=options.seed_modulo),
            )
            for name, column in columns.items()
            if name in chosen or name in options.defaults
        )
        self._check_defaults()
        filled = {source.column.name for source in self._sources}
        if options.seed_modulo is not None and "seed" in filled:
            filled.add("original_seed")
        self.columns = tuple(name for name in columns if name in filled)
        self._derives_ids = row_type is PromptRow and "prompt_id" not in self.columns
        used = set(chosen.values())
        self.ignored_columns = tuple(header for header in headers if header and header not in used)
        self.duplicates = 0
        self._notes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._note_counts: Counter[tuple[str, str]] = Counter()
        self._former: dict[str, tuple[object, Any]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Values that were read otherwise than written: the first of each kind, and how many.

        Also which prompts have the syntax of other tools.
        """
        notes: list[str] = []
        for kind, texts in self._notes.items():
            notes += texts
            if more := self._note_counts[kind] - len(texts):
                notes[-1] += f" (and {more:,} more)"
        return tuple(notes)

    def refused(self, problem: str) -> ImportRefused:
        """Return the error that refuses the file for what it would do to the table."""
        return ImportRefused(self.path, (problem,))

    def stage(self) -> StagedRows:
        """Return the rows, all of them checked; close them when done.

        Raises:
            ImportRefused: after the last row, when any of them had a problem.
        """
        staged = StagedRows(self.row_type, self.columns)
        try:
            self._read_into(staged)
        except BaseException:
            staged.close()
            raise
        return staged

    def _check_defaults(self) -> None:
        problems = []
        for source in self._sources:
            column, default = source.column, source.default
            if default is not None and (
                problem := problem_of(column, default, column.read(default))
            ):
                problems.append(f"{column.name} for all rows: {problem}")
        if problems:
            raise ImportRefused(self.path, tuple(problems))

    def _read_into(self, staged: StagedRows) -> None:
        shown_problems: list[str] = []
        further: Counter[str] = Counter()
        alike: Counter[str] = Counter()
        rows = 0
        with closing(SeenRows()) as seen:
            for rows, row in enumerate(self._file.rows(), start=1):
                problems = self._problems_of(row, staged, seen)
                if problems:
                    self._on_refused(self._headers, row, [problem.text for problem in problems])
                for problem in problems:
                    alike[problem.about] += 1
                    if (
                        alike[problem.about] > _SHOWN_ALIKE
                        or len(shown_problems) == _SHOWN_PROBLEMS
                    ):
                        further[problem.about] += 1
                    else:
                        shown_problems.append(problem.text)
                if rows % _PROGRESS_ROWS == 0:
                    self.on_progress(RowProgress("read", rows))
        self.on_progress(RowProgress("read", rows, rows))
        if shown_problems:
            raise ImportRefused(self.path, tuple(shown_problems), further=further)

    def _problems_of(
        self, row: FileRow | RowUnreadable, staged: StagedRows, seen: SeenRows
    ) -> list[_Problem]:
        """Stage a row, unless it repeats one without an id; return what is wrong with it."""
        if isinstance(row, RowUnreadable):
            return [_Problem("", f"{row.place} {row.problem}")]
        values: dict[str, Any] = dict.fromkeys(self.columns)
        problems = []
        for source in self._sources:
            problem = self._read_value(row, source, values)
            if problem:
                text = f"{row.place}, {source.label}: {problem}"
                problems.append(_Problem(source.label, text))
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
            key = " and ".join(shown(values[name]) for name in keys)
            text = f"{row.place} repeats the {' and '.join(keys)} of {earlier}: {key}"
            return [_Problem("", text)]
        return []

    def _read_value(self, row: FileRow, source: _Source, values: dict[str, Any]) -> str | None:
        """Read a column's value of a row into `values`; return what is wrong with it."""
        column = source.column
        written = row.values.get(source.header) if source.header is not None else None
        # Many columns of a file hold the same text row after row.
        former = self._former.get(column.name)
        if former is not None and written == former[0] and type(written) is str:
            values[column.name] = former[1]
            return None
        is_plain = True
        try:
            raw = self._as_text(written)
        except UnicodeDecodeError:
            return f"{shown(written)} is not UTF-8 text"
        if type(raw) is str and is_no_value(raw):
            if column.required:
                return f"{shown(raw)} is what programs write where there is no value"
            self._note(row, source, "no value", f"{shown(raw)} is read as no value")
            raw, is_plain = None, False
        if raw is None or raw == "":
            raw = source.default
        if source.tidy is not None and raw is not None:
            tidied = source.tidy(raw)
            raw = tidied.value
            if tidied.note:
                self._note(row, source, tidied.about, tidied.note)
                values.update(tidied.extra)
                is_plain = False
        values[column.name] = value = column.read(raw)
        problem = problem_of(column, raw, value)
        if column.name in _PROMPTS and problem is None and (parts := foreign_syntax(value)):
            text = f"{', '.join(map(shown, parts))} would be sent as words"
            self._note(row, source, "syntax", text, at_most=_SHOWN_SYNTAX)
            is_plain = False
        if is_plain and problem is None:
            self._former[column.name] = written, value
        return problem

    def _as_text(self, raw: object) -> object:
        """Return a text without its bytes and without the mark that an export gave it."""
        if type(raw) is bytes:
            return raw.decode()
        if type(raw) is str and raw[:1] == "'" and self._file.marks_formulas and _MARKED.match(raw):
            return raw[1:]
        return raw

    def _note(
        self, row: FileRow, source: _Source, about: str, text: str, *, at_most: int = 1
    ) -> None:
        kind = source.column.name, about
        self._note_counts[kind] += 1
        if len(self._notes[kind]) < at_most:
            self._notes[kind].append(f"{row.place}, {source.label}: {text}")

    def _derived_id(self, values: dict[str, Any], row: FileRow, seen: SeenRows) -> str | None:
        """Return the id that follows from a row's content, or None for a repetition.

        Rows which differ only in columns that are ignored are different rows to whoever made the
        file: the second of them gets the id of the first with "-2" behind it.
        """
        content = content_json(PromptRow(prompt_id="", **values))
        whole = json.dumps(dict(row.values), sort_keys=True, default=str)
        ordinal = seen.ordinal(content, whole=whole)
        if ordinal is None:
            return None
        digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        return f"{digest}-{ordinal}" if ordinal > 1 else digest


# A table's row may ask for more images than one call of the API gives.
_RANGES = {**RANGES, "samples": Range(1, MAX_SAMPLES)}


def problem_of(column: Column, raw: object, value: Any) -> str | None:  # noqa: ANN401 - by kind
    """Return what is wrong with a raw value, which the column read as `value`, or None.

    It shows the value as it was given, and says what is expected.
    """
    if column.required and is_blank(str(value)):
        return "is empty"
    if value is None:
        return None
    match column.kind:
        case Kind.TEXT:
            return _problem_of_text(column, raw, value)
        case Kind.WORDS:
            if is_unread_list(raw):
                return f"{shown(raw)} is no list that can be read; put commas between the words"
            return next(filter(None, map(_problem_of_characters, value)), None)
        case Kind.WHOLE | Kind.NUMBER:
            return _problem_of_number(column, raw, value)
        case Kind.FLAG:
            return None if isinstance(value, bool) else f"{shown(raw)} is not true or false"
        case Kind.TIME:
            is_time = isinstance(value, dt.datetime)
            return None if is_time else f"{shown(raw)} is not a time like 2026-05-01T12:00:00Z"


def _problem_of_text(column: Column, raw: object, value: str) -> str | None:
    if raw is not value and isinstance(raw, list | dict):
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
    if isinstance(raw, str) and isinstance(value, str):
        return f"{shown(raw)} is not {column.kind} from {permitted}{_number_hint(column, raw)}"
    number = int if column.kind is Kind.WHOLE else float
    if not isinstance(value, number):
        return f"{shown(raw)} is not {column.kind} from {permitted}"
    if not permitted.low <= value <= permitted.high:
        hint = ""
        if column.name == "seed" and value > permitted.high:
            hint = "; --seed-modulo 4294967296 makes it one of 32 bits and keeps both"
        return f"{shown(raw)} is outside {permitted}{hint}"
    return None


def _number_hint(column: Column, raw: str) -> str:
    if column.kind is Kind.WHOLE and re.fullmatch(r"[+-]?[0-9.,]+[eE][+-]?[0-9]+", raw.strip()):
        return ": a spreadsheet shortened it, and digits are lost; format the column as text there"
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", raw.strip()):
        return "; --decimal , takes a comma before the decimals"
    return ""
