"""The rows of a table exported to a file which imports again as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from imagepipeline_dagster.tables.database import reading
from imagepipeline_dagster.tables.mapped import MappedTable, find_table, rows_in
from imagepipeline_dagster.tables.schema import RowT, TableMapping, key_columns
from imagepipeline_dagster.tables.transfer.progress import OnProgress, RowProgress
from imagepipeline_dagster.tables.transfer.writing_files import writing_file

_CHUNK = 10_000  # rows written at a time; a row group in Parquet


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many rows were exported, and how many left out: without set and id none imports again."""

    rows: int
    left_out: int


def export_table(
    url: str,
    mapping: TableMapping,
    row_type: type[RowT],
    file: Path,
    *,
    prompt_sets: Collection[str] = (),
    marks_formulas: bool = True,
    on_progress: OnProgress = lambda _: None,
) -> ExportReport:
    """Write a table's rows to a file, in the order of their keys; nothing of the table is changed.

    The file has those of our columns that the table has, under our names. Its rows are as the table
    holds them: those that an import refuses are among them.

    The file is CSV, TSV, JSON, JSON Lines, Parquet or Excel, by its ending, and replaces another of
    its name. No `prompt_sets` are all. `marks_formulas` marks texts in CSV that a spreadsheet would
    run. `on_progress` hears of the rows "exported".

    Raises:
        ExportRefused: when the file cannot be written, or not in this format.
        TablesUnavailable, TableMissing, ColumnMissing: about the database.
    """
    keys = key_columns(row_type)
    number = left_out = 0
    with reading(url) as connection:
        table = find_table(connection, mapping, row_type)
        rows = _rows(connection, table, row_type, prompt_sets)
        names = tuple(table.types)
        with writing_file(file, row_type, names, marks_formulas=marks_formulas) as write:
            while chunk := list(islice(rows, _CHUNK)):
                whole = [row for row in chunk if all(getattr(row, key) for key in keys)]
                write(whole)
                number += len(whole)
                left_out += len(chunk) - len(whole)
                on_progress(RowProgress("exported", number))
    return ExportReport(rows=number, left_out=left_out)


def _rows(
    connection: sa.Connection,
    table: MappedTable,
    row_type: type[RowT],
    prompt_sets: Collection[str],
) -> Iterator[RowT]:
    wanted = []
    of = table.types.get("prompt_set")
    if prompt_sets and isinstance(of, sa.String) and not isinstance(of, sa.Enum):
        wanted.append(table.column("prompt_set").in_(prompt_sets))
    for row in rows_in(connection, table, row_type, *wanted, order_by=key_columns(row_type)):
        # Compared here too: collations differ, and a number is no text to the database.
        if not prompt_sets or getattr(row, "prompt_set", None) in prompt_sets:
            yield row
