"""The tables created."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.tables.database import writing
from imagepipeline_dagster.tables.overrides import overrides_table
from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    RowType,
    columns_of,
    key_columns,
)
from imagepipeline_dagster.tables.values import Kind

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
    # Sensors ask far more often for the changes of a set than for anything else.
    sa.Index("prompts_by_set_and_time", prompts.c.prompt_set, prompts.c.updated_at)
    sa.Index("prompts_by_time", prompts.c.updated_at)
    overrides_table(metadata)
    return metadata


def _columns(row_type: RowType) -> list[sa.Column[Any]]:
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
