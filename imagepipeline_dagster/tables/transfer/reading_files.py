"""A file opened as what it is: by its content where that tells, else by its ending."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from imagepipeline_dagster.tables.transfer.binary_files import ExcelFile, ParquetFile
from imagepipeline_dagster.tables.transfer.delimited_files import (
    DelimitedFile,
    PromptLinesFile,
    begins_with_headers,
)
from imagepipeline_dagster.tables.transfer.file_rows import FileOptions, FileUnreadable, RowsFile
from imagepipeline_dagster.tables.transfer.json_files import JsonArrayFile, JsonLinesFile
from imagepipeline_dagster.tables.transfer.unpacking import UNPACKING_ERRORS, first_bytes

_BY_ENDING: Mapping[str, type[RowsFile]] = {
    ".csv": DelimitedFile,
    ".tsv": DelimitedFile,
    ".txt": PromptLinesFile,
    ".json": JsonLinesFile,
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".parquet": ParquetFile,
    ".xlsx": ExcelFile,
}
FILE_ENDINGS = tuple(_BY_ENDING)
"""The endings of the files that can be read."""

PACKED_ENDINGS = (".gz", ".zst")
"""What may stand behind them."""

_FOREIGN = {
    b"version https://git-lfs.github.com/": "is a Git LFS pointer and not the file: git lfs pull",
    b"\xd0\xcf\x11\xe0": "is an old Excel file (.xls); save it as .xlsx or CSV",
    b"SQLite format 3\x00": "is an SQLite database; IMAGEPIPELINE_TABLES_URL can name it",
    b"%PDF": "is a PDF document",
    b"<!doctype html": "is a web page; the download may need a login",
    b"<html": "is a web page; the download may need a login",
    b"\x89PNG": "is a picture",
}


_JSON = re.compile(rb'\[\s*\{|\{\s*"')
"""What no other file begins with."""


def own_ending(path: Path) -> str:
    """Return the file's ending without the one of its compression."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings and endings[-1] in PACKED_ENDINGS:
        endings.pop()
    return endings[-1] if endings else ""


def open_file(path: Path, options: FileOptions = FileOptions()) -> RowsFile:  # noqa: B008 - frozen
    """Return the file.

    Raises:
        FileUnreadable: where there is no such file, or it is none that can be read.
    """
    if not path.is_file():
        raise FileUnreadable("is not there" if not path.exists() else "is not a file")
    try:
        start = first_bytes(path, 4096)
    except UNPACKING_ERRORS as error:
        raise FileUnreadable(f"cannot be unpacked: {error}") from error
    return _kind_of(start, own_ending(path))(path, options)


def _kind_of(start: bytes, ending: str) -> type[RowsFile]:
    for mark, what in _FOREIGN.items():
        if start.lower().startswith(mark.lower()):
            raise FileUnreadable(f"{what}; nothing can be read from it")
    if start.startswith(b"PAR1"):
        return ParquetFile
    if start.startswith(b"PK\x03\x04"):
        if b"xl/" in start or b"[Content_Types].xml" in start or ending == ".xlsx":
            return ExcelFile
        raise FileUnreadable("is a zip archive; unpack it first")
    return _kind_of_text(start, ending)


def _kind_of_text(start: bytes, ending: str) -> type[RowsFile]:
    kind = _BY_ENDING.get(ending)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if (kind is JsonLinesFile and text.startswith((b"[", b"{"))) or _JSON.match(text):
        return JsonArrayFile if text.startswith(b"[") and _is_array(text, ending) else JsonLinesFile
    if kind is not DelimitedFile and begins_with_headers(text):
        return DelimitedFile
    if kind is None:
        raise FileUnreadable(
            f"ends in {ending!r}; files that can be read end in {', '.join(FILE_ENDINGS)}, and "
            f"{' or '.join(PACKED_ENDINGS)} may stand behind"
        )
    if kind is ParquetFile:
        raise FileUnreadable("is not a Parquet file: it does not begin as one")
    if kind is ExcelFile:
        raise FileUnreadable("is not an Excel workbook: it does not begin as one")
    return kind


def _is_array(text: bytes, ending: str) -> bool:
    """Tell whether `[` opens the array of all rows, and not a line that is no object."""
    return ending == ".json" or text[1:].lstrip().startswith((b"{", b"]"))
