"""Parquet files and Excel workbooks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from imagepipeline_dagster.tables.transfer.file_rows import (
    FileRow,
    FileUnreadable,
    RowsFile,
    RowUnreadable,
)
from imagepipeline_dagster.tables.transfer.header_names import known_names, plain_name
from imagepipeline_dagster.tables.transfer.unpacking import UNPACKING_ERRORS, seekable

_BATCH = 2_000  # rows
_BROKEN = (BadZipFile, LookupError, ValueError, TypeError, ParseError, *UNPACKING_ERRORS)
"""The errors of reading a damaged workbook."""

_ROWS_LOOKED_AT = 50  # of a sheet, for its headers
_RETURN = re.compile("_x000D_", re.IGNORECASE)
"""A carriage return as Excel writes it into a cell."""


class ParquetFile(RowsFile):
    """A Parquet file. Its texts come as bytes, because writers need not see to it that they are."""

    @override
    def headers(self) -> tuple[str, ...]:
        with self._opened() as file:
            return tuple(file.schema_arrow.names)

    @override
    def _rows(self) -> Iterator[FileRow | RowUnreadable]:
        numbers = count(1)
        with self._opened() as file:
            try:
                for batch in file.iter_batches(_BATCH):
                    columns = [_plain(column).to_pylist() for column in batch.columns]
                    for values in zip(*columns, strict=True):
                        row = dict(zip(batch.schema.names, values, strict=True))
                        yield FileRow(f"row {next(numbers)}", row)
            except UNPACKING_ERRORS as error:
                yield RowUnreadable(f"row {next(numbers)}", f"cannot be read: {error}")

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with seekable(self.path) as file:
            try:
                parquet = pq.ParquetFile(file)
            except UNPACKING_ERRORS as error:
                raise FileUnreadable(f"is not a Parquet file: {error}") from error
            yield parquet


def _plain(column: pa.Array[Any]) -> pa.Array[Any]:
    """Return a column whose values can be read whatever they are."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_binary())
    return column


class ExcelFile(RowsFile):
    """The first sheet of an Excel workbook with headers; a title may stand above them."""

    @override
    def headers(self) -> tuple[str, ...]:
        first = next(self._records(), None)
        if first is None:
            raise FileUnreadable("is a workbook without rows; the first must name the columns")
        return tuple("" if name is None else str(name).strip() for name in first[1])

    @override
    def _rows(self) -> Iterator[FileRow | RowUnreadable]:
        headers = self.headers()
        records = self._records()
        number, _ = next(records)
        try:
            for number, cells in records:
                if any(cell is not None for cell in cells[len(headers) :]):
                    yield RowUnreadable(f"row {number}", "has a cell beside the named columns")
                    continue
                named = zip(headers, cells, strict=False)
                yield FileRow(f"row {number}", {name: cell for name, cell in named if name})
        except FileUnreadable as error:
            yield RowUnreadable(f"row {number + 1}", str(error))

    def _records(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the rows that are not blank, with their number in the sheet."""
        try:
            from openpyxl import load_workbook
        except ImportError:
            raise FileUnreadable(
                "is an Excel workbook; save it as CSV, or: "
                "pip install 'imagepipeline-dagster[excel]'"
            ) from None
        with seekable(self.path) as file:
            try:
                yield from _rows_of(load_workbook(file, read_only=True, data_only=True))
            except _BROKEN as error:
                raise FileUnreadable(f"is not a whole Excel workbook: {error}") from error


def _rows_of(book: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:  # noqa: ANN401 - openpyxl's
    headed = _sheet_with_headers(book.worksheets)
    if headed is None:
        return
    sheet, first = headed
    for number, cells in enumerate(sheet.iter_rows(min_row=first, values_only=True), start=first):
        if _has_cells(cells):
            texts = (_RETURN.sub("\r", cell) if isinstance(cell, str) else cell for cell in cells)
            yield number, tuple(texts)


def _sheet_with_headers(sheets: Sequence[Any]) -> tuple[Any, int] | None:
    """Return the first sheet that has headers of ours, and their row; else the first with rows."""
    first = None
    for sheet in sheets:
        rows = sheet.iter_rows(max_row=_ROWS_LOOKED_AT, values_only=True)
        for number, cells in enumerate(rows, start=1):
            if _has_cells(cells):
                first = first or (sheet, number)
            known = [cell for cell in cells if plain_name(str(cell)) in known_names()]
            if len(known) > 1:
                return sheet, number
    return first


def _has_cells(cells: Sequence[Any]) -> bool:
    return any(cell not in (None, "") for cell in cells)
