"""The two tables created, and the rows of a file brought into them, all or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.database import writing
from imagepipeline_dagster.tables.incoming import ImportRefused, IncomingRows
from imagepipeline_dagster.tables.merging import ImportReport, Merge
from imagepipeline_dagster.tables.overrides import overrides_table
from imagepipeline_dagster.tables.progress import OnProgress
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    TableMapping,
    columns_of,
    key_columns,
)
from imagepipeline_dagster.tables.values import Kind

__all__ = [
    "ImportRefused",
    "ImportReport",
    "create_tables",
    "merge_of_file",
    "tables_metadata",
]

_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {
    Kind.TEXT: sa.Text(),
    Kind.WHOLE: sa.BigInteger(),
    Kind.NUMBER: sa.Double(),
    Kind.FLAG: sa.Boolean(),
    Kind.WORDS: sa.Text(),
    Kind.TIME: sa.DateTime(timezone=True),
}


def tables_metadata() -> sa.MetaData:
    """Return the definitions of `prompts`, `embeddings` and `moderation_overrides`."""
    metadata = sa.MetaData()
    prompts = sa.Table("prompts", metadata, *_columns(PromptRow))
    sa.Table("embeddings", metadata, *_columns(EmbeddingRow))
    # What changed since, set by set, is asked for far more often than anything else.
    sa.Index("prompts_by_set_and_time", prompts.c.prompt_set, prompts.c.updated_at)
    sa.Index("prompts_by_time", prompts.c.updated_at)
    overrides_table(metadata)
    return metadata


def _columns(row_type: type[PromptRow | EmbeddingRow]) -> list[sa.Column[Any]]:
    return [
        sa.Column(
            name,
            _TYPES[column.kind],
            primary_key=name in key_columns(row_type),
            nullable=not column.required,
            # People who insert rows by hand do not think of it, and the sensors look at it.
            server_default=sa.func.current_timestamp() if name == "updated_at" else None,
            comment=column.description,
        )
        for name, column in columns_of(row_type).items()
    ]


def create_tables(url: str) -> None:
    """Create those of the tables that are not there; a SQLite file is made if need be.

    Raises:
        TablesUnavailable: when the database cannot be used.
    """
    with writing(url, create_file=True) as connection:
        tables_metadata().create_all(connection)


def merge_of_file(
    url: str,
    mapping: TableMapping,
    file: Path,
    row_type: type[PromptRow | EmbeddingRow],
    *,
    column_map: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    replace_sets: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Merge:
    """Return a file's rows, read and checked, about to be brought into a table; close it when done.

    Prompts go by prompt set and prompt id, embeddings by embedding id. A file of prompts without
    ids gives each row one that follows from its content: the same row gets the same id in every
    import. Rows and columns which the file does not have stay as they are.

    Args:
        url: SQLAlchemy URL of the database.
        mapping: the table, and its columns where they have other names.
        file: CSV, TSV, JSON Lines or Parquet, by its ending.
        row_type: which of the two tables it is.
        column_map: from our column to the file's header; where it is silent, equal names match.
        defaults: from our column to the value of rows where the file has none.
        replace_sets: whether rows which the file lacks go, out of the sets that the file has.
        on_progress: told of the rows "read", then "compared" or "written".

    Raises:
        ImportRefused: with what to put right in the file.
    """
    incoming = IncomingRows(
        file,
        row_type,
        column_map=column_map or {},
        defaults=defaults or {},
        on_progress=on_progress,
    )
    return Merge(url, mapping, incoming, replace_sets=replace_sets, on_progress=on_progress)
