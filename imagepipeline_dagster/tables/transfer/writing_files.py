"""Rows written to a CSV, TSV, JSON Lines or Parquet file that imports again as they are.

The file appears when it is whole; what stood under its name stays until then.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    RowT,
    columns_of,
    key_columns,
)
from imagepipeline_dagster.tables.transfer.reading_files import FILE_ENDINGS
from imagepipeline_dagster.tables.values import Kind, read_text, words_text

__all__ = ["ExportRefused", "writing_file"]

Write = Callable[[Sequence[Any]], None]
"""Adds rows to the file."""


class ExportRefused(TablesError):
    """A file was not written; the message says why. What stood under its name is still there."""


@contextmanager
def writing_file(
    path: Path, row_type: type[RowT], names: Sequence[str]
) -> Iterator[Callable[[Sequence[RowT]], None]]:
    """Give a function that adds rows to the file, which takes its name when the block ends well.

    The file has these columns of the rows. Texts are written as they are: one that begins with `=`
    stays such a text, whatever a spreadsheet makes of it.

    Raises:
        ExportRefused: when the file cannot be written, or a value not in this format.
    """
    written_as = _FORMATS.get(path.suffix.lower())
    if written_as is None:
        raise ExportRefused(
            f"{path} ends in {path.suffix!r}; files that can be written end in "
            f"{', '.join(FILE_ENDINGS)}."
        )
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with _refusing_os_errors(path), temporary.open("xb") as file:
            with written_as(file, row_type, names) as write:
                yield write
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _refusing_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportRefused(f"{path} cannot be written: {error.strerror or error}") from error


RowType = type[PromptRow | EmbeddingRow]


@contextmanager
def _delimited(
    file: IO[bytes],
    _: RowType,
    names: Sequence[str],
    *,
    delimiter: str,
    header_quoting: Literal[0, 1],
) -> Iterator[Write]:
    encoded = codecs.getwriter("utf-8")(file)
    csv.writer(encoded, delimiter=delimiter, quoting=header_quoting).writerow(names)
    writer = csv.writer(encoded, delimiter=delimiter)
    yield lambda rows: writer.writerows([_field(getattr(row, n)) for n in names] for row in rows)


def _field(value: object) -> object:
    match value:
        case tuple():
            return words_text(value)
        case bool() | dt.datetime():
            return read_text(value)
        case _:
            return value


@contextmanager
def _json_lines(file: IO[bytes], _: RowType, names: Sequence[str]) -> Iterator[Write]:
    def write(rows: Sequence[Any]) -> None:
        for row in rows:
            values = {name: getattr(row, name) for name in names}
            line = json.dumps(values, ensure_ascii=False, default=read_text)
            file.write(f"{line}\n".encode())

    yield write


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
            where = " and ".join(f"{key} {getattr(row, key)!r}" for key in key_columns(row_type))
            kind = columns_of(row_type)[name].kind
            return (
                f"{name} of the row with {where} is {value!r}, not {kind}: a Parquet file cannot "
                "hold it. Mend the row, or export to another format."
            )
    return "A Parquet file cannot hold these rows. Export to another format."


_FORMATS: Mapping[
    str, Callable[[IO[bytes], RowType, Sequence[str]], AbstractContextManager[Write]]
] = {
    ".csv": partial(_delimited, delimiter=",", header_quoting=csv.QUOTE_MINIMAL),
    # Quotes around the header tell a reader that they are syntax in the rest, too.
    ".tsv": partial(_delimited, delimiter="\t", header_quoting=csv.QUOTE_ALL),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
