"""Rows written to a file that imports again as they are.

The file appears when it is whole; what stood under its name stays until then.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.schema import PromptRow, RowT, RowType, columns_of, key_columns
from imagepipeline_dagster.tables.transfer.reading_files import PACKED_ENDINGS, own_ending
from imagepipeline_dagster.tables.values import Kind, read_text, shown, words_text

Write = Callable[[Sequence[Any]], None]
"""Adds rows to the file."""


class ExportRefused(TablesError):
    """A file was not written; the message says why. The older file of its name is still there."""


@contextmanager
def writing_file(
    path: Path, row_type: type[RowT], names: Sequence[str], *, marks_formulas: bool = True
) -> Iterator[Callable[[Sequence[RowT]], None]]:
    """Give a function that adds rows to the file, which takes its name when the block ends well.

    The file has these columns of the rows. It is packed where its name ends in .gz or .zst. In CSV
    a text that a spreadsheet would run gets a quote before it, which an import takes away again.

    Raises:
        ExportRefused: when the file cannot be written, or a value not in this format.
    """
    written_as = _FORMATS.get(own_ending(path))
    if written_as is None:
        ending = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise ExportRefused(
            f"{path} {ending}; files that can be written end in "
            f"{', '.join(_FORMATS)}, and {' or '.join(PACKED_ENDINGS)} may stand behind."
        )
    marking = {"marks_formulas": marks_formulas} if written_as in _MARKING else {}
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with (
            _packed(temporary.open("xb"), path.suffix) as file,
            written_as(file, row_type, names, **marking) as write,
        ):
            yield write
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ExportRefused(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _packed(file: IO[bytes], ending: str) -> IO[bytes]:
    stream: Any = file
    codec: Any = {".gz": "gzip", ".zst": "zstd"}.get(ending.lower())
    return cast("IO[bytes]", pa.CompressedOutputStream(stream, codec)) if codec else file


# A text that a spreadsheet would run, and one that looks as if it were marked already.
_RUN = re.compile("'*[=+@\t\r-]")


@contextmanager
def _delimited(
    file: IO[bytes],
    row_type: RowType,
    names: Sequence[str],
    *,
    delimiter: str = ",",
    marks_formulas: bool = True,
) -> Iterator[Write]:
    writer = csv.writer(codecs.getwriter("utf-8")(file), delimiter=delimiter)
    writer.writerow(names)
    texts = {name for name in names if columns_of(row_type)[name].kind in (Kind.TEXT, Kind.WORDS)}

    def field_of(row: Any, name: str) -> object:  # noqa: ANN401 - a row of either table
        value = _field(getattr(row, name))
        if marks_formulas and name in texts and isinstance(value, str) and _RUN.match(value):
            return f"'{value}"
        return value

    yield lambda rows: writer.writerows([field_of(row, name) for name in names] for row in rows)


def _field(value: object) -> object:
    match value:
        case tuple():
            return words_text(value)
        case bool() | dt.datetime():
            return read_text(value)
        case _:
            return value


@contextmanager
def _json(
    file: IO[bytes], _: RowType, names: Sequence[str], *, is_array: bool = False
) -> Iterator[Write]:
    before, between, after = ("[\n", ",\n", "") if is_array else ("", "", "\n")

    def write(rows: Sequence[Any]) -> None:
        nonlocal before
        for row in rows:
            values = {name: getattr(row, name) for name in names}
            text = json.dumps(values, ensure_ascii=False, default=read_text)
            file.write(f"{before}{text}{after}".encode())
            before = between

    yield write
    if is_array:
        file.write(b"\n]\n" if before == between else b"[]\n")


_LONGEST_CELL = 32_767  # characters
_EXACT_IN_EXCEL = 2**53
# Excel writes what XML cannot hold in this way, so that such a text would be read as another.
_NO_CELL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|_x[0-9a-fA-F]{4}_|x005F_")


@contextmanager
def _excel(file: IO[bytes], row_type: RowType, names: Sequence[str]) -> Iterator[Write]:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ImportError:
        raise ExportRefused(
            "Excel files need: pip install 'imagepipeline-dagster[excel]'. Or export to CSV."
        ) from None
    book = Workbook(write_only=True)
    sheet = book.create_sheet("prompts" if row_type is PromptRow else "embeddings")
    sheet.append(list(names))

    def cell(row: Any, name: str) -> object:  # noqa: ANN401 - a row of either table
        value = getattr(row, name)
        is_number = isinstance(value, int | float) and abs(value) < _EXACT_IN_EXCEL
        if value is None or isinstance(value, bool) or is_number:
            return value
        text = str(_field(value))
        if len(text) > _LONGEST_CELL or _NO_CELL.search(text):
            raise ExportRefused(
                f"{name} of {_place_of(row, row_type)} is {shown(text)}: no Excel cell can hold it "
                "as it is. Export to another format."
            )
        written: Any = WriteOnlyCell(sheet, text.replace("\r", "_x000D_"))
        written.data_type = "s"  # a text, whatever it looks like
        return written

    def write(rows: Sequence[Any]) -> None:
        for row in rows:
            sheet.append([cell(row, name) for name in names])

    try:
        yield write
    except BaseException:
        sheet.close()
        raise
    book.save(file)


def _place_of(row: object, row_type: RowType) -> str:
    where = " and ".join(f"{key} {getattr(row, key)!r}" for key in key_columns(row_type))
    return f"the row with {where}"


_ARROW_TYPES: Mapping[Kind, pa.DataType] = {
    Kind.TEXT: pa.string(),
    Kind.WHOLE: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.FLAG: pa.bool_(),
    Kind.WORDS: pa.list_(pa.string()),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
}


@contextmanager
def _parquet(file: IO[bytes], row_type: RowType, names: Sequence[str]) -> Iterator[Write]:
    types = {name: _ARROW_TYPES[columns_of(row_type)[name].kind] for name in names}
    schema = pa.schema(list(types.items()))

    def write(rows: Sequence[Any]) -> None:
        try:
            columns = [
                pa.array([getattr(row, name) for row in rows], types[name]) for name in names
            ]
        except (pa.ArrowException, OverflowError) as error:
            raise ExportRefused(_unfit(rows, row_type, types)) from error
        writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    with pq.ParquetWriter(file, schema) as writer:
        yield write


def _unfit(rows: Sequence[Any], row_type: RowType, types: Mapping[str, pa.DataType]) -> str:
    """Return which value a Parquet column cannot hold."""
    for row, (name, of) in product(rows, types.items()):
        value = getattr(row, name)
        try:
            pa.scalar(value, of)
        except (pa.ArrowException, OverflowError):
            kind = columns_of(row_type)[name].kind
            return (
                f"{name} of {_place_of(row, row_type)} is {value!r}, not {kind}: a Parquet file "
                "cannot hold it. Mend the row, or export to another format."
            )
    return "A Parquet file cannot hold these rows. Export to another format."


_FORMATS: Mapping[str, Callable[..., AbstractContextManager[Write]]] = {
    ".csv": _delimited,
    ".tsv": partial(_delimited, delimiter="\t"),
    ".json": partial(_json, is_array=True),
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": _parquet,
    ".xlsx": _excel,
}
_MARKING = (_FORMATS[".csv"], _FORMATS[".tsv"])
