"""The sample tables created, and edits of them to watch: what one changed row buys again."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from imagepipeline_dagster.tables.creating import tables_metadata
from imagepipeline_dagster.tables.database import writing
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.found import find_table
from imagepipeline_dagster.tables.sample_rows import (
    EDITED_EMBEDDING,
    EDITED_PROMPT,
    EDITED_TEXT,
    SAMPLE_EMBEDDINGS,
    SAMPLE_PROMPTS,
)
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping, columns_of
from imagepipeline_dagster.tables.transfer.target import TargetTable

__all__ = [
    "SampleMissing",
    "create_sample_tables",
    "edit_sample_embedding",
    "edit_sample_prompt",
]

_MAPPINGS = {PromptRow: TableMapping("prompts"), EmbeddingRow: TableMapping("embeddings")}
_GLAZES = ("celadon", "cobalt", "saffron", "oxblood", "ivory", "moss green", "copper", "lavender")
_TAKE = re.compile(r", take (\d+)\Z")


class SampleMissing(TablesError):
    """The sample row that was to be edited is not in the tables any more."""


def create_sample_tables(url: str) -> bool:
    """Create both tables with sample rows; return False, having done nothing, if either is there.

    A SQLite file is made if need be. A crash halfway leaves no table behind.

    Raises:
        TablesUnavailable: when the database cannot be used.
    """
    metadata = tables_metadata()
    with writing(url, create_file=True) as connection:
        inspector = sa.inspect(connection)
        if any(inspector.has_table(name) for name in metadata.tables):
            return False
        metadata.create_all(connection)
        _fill(connection, PromptRow, SAMPLE_PROMPTS)
        _fill(connection, EmbeddingRow, SAMPLE_EMBEDDINGS)
    return True


def _fill(
    connection: sa.Connection,
    row_type: type[PromptRow | EmbeddingRow],
    rows: Sequence[PromptRow | EmbeddingRow],
) -> None:
    columns = tuple(columns_of(row_type))
    table = TargetTable(connection, _MAPPINGS[row_type], row_type, columns=columns)
    table.apply(table.compared([asdict(row) for row in rows]), now=dt.datetime.now(dt.UTC))


def edit_sample_prompt(url: str) -> str:
    """Give the teapot of the sample prompts another glaze and take number; return what changed.

    No two edits in a row leave the same text.

    Raises:
        SampleMissing: when the row is not there.
        TablesUnavailable, TableMissing: about the database.
    """
    prompt_set, prompt_id = EDITED_PROMPT
    with writing(url) as connection:
        find_table(connection, _MAPPINGS[PromptRow], PromptRow)
        prompts = tables_metadata().tables["prompts"]
        here = (prompts.c.prompt_set == prompt_set, prompts.c.prompt_id == prompt_id)
        text = connection.scalar(sa.select(prompts.c.prompt).where(*here))
        if text is None:
            raise SampleMissing(f"There is no prompt {prompt_id!r} in {prompt_set!r} to edit.")
        take = _TAKE.search(text)
        number = int(take[1]) + 1 if take else 2
        glaze = _GLAZES[(number - 1) % len(_GLAZES)]
        changed = f"{EDITED_TEXT.format(glaze=glaze)}, take {number}"
        connection.execute(
            sa.update(prompts)
            .where(*here)
            .values(prompt=changed, updated_at=dt.datetime.now(dt.UTC))
        )
    return f"The prompt {prompt_id!r} of {prompt_set!r} now asks for a {glaze} glaze: {changed!r}."


def edit_sample_embedding(url: str) -> str:
    """Raise the version of a sample embedding that three prompts use; return what changed.

    Raises:
        SampleMissing: when the row is not there.
        TablesUnavailable, TableMissing: about the database.
    """
    with writing(url) as connection:
        find_table(connection, _MAPPINGS[EmbeddingRow], EmbeddingRow)
        embeddings = tables_metadata().tables["embeddings"]
        here = embeddings.c.embedding_id == EDITED_EMBEDDING
        found = connection.execute(
            sa.select(embeddings.c.name, embeddings.c.version).where(here)
        ).one_or_none()
        if found is None:
            raise SampleMissing(f"There is no embedding {EDITED_EMBEDDING} to edit.")
        name, version = found
        last = re.search(r"\d+\Z", version or "")
        changed = f"{version[: last.start()]}{int(last[0]) + 1}" if last else f"{version or ''}2"
        connection.execute(
            sa.update(embeddings)
            .where(here)
            .values(version=changed, updated_at=dt.datetime.now(dt.UTC))
        )
    return f"The embedding {name!r} ({EDITED_EMBEDDING}) went from version {version} to {changed}."
