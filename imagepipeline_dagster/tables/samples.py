"""The sample tables created, and edits of them to watch: what one changed row buys again."""

from __future__ import annotations

import datetime as dt
import re
from contextlib import closing
from importlib.resources import as_file, files

import sqlalchemy as sa

from imagepipeline_dagster.tables.creating import tables_metadata
from imagepipeline_dagster.tables.database import writing
from imagepipeline_dagster.tables.errors import TablesError
from imagepipeline_dagster.tables.mapped import find_table
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, RowType, TableMapping
from imagepipeline_dagster.tables.transfer.incoming import IncomingRows
from imagepipeline_dagster.tables.transfer.target import TargetTable

_MAPPINGS = {PromptRow: TableMapping("prompts"), EmbeddingRow: TableMapping("embeddings")}
_FILES = {PromptRow: "sample_prompts.csv", EmbeddingRow: "sample_embeddings.csv"}
"""The sample rows: three prompt sets in which each outcome comes up, 40 images in all.

`spring_catalogue/colour_bars` is filtered by the API's safety checker.
`harbour_at_night/everything` is refused before anything is paid. `portraits/potter` is made
unchecked and so held back from datasets. Links are under .example, which the emulator draws itself.
"""

_EDITED_PROMPT = ("spring_catalogue", "teapot")
_EDITED_TEXT = (
    "stoneware teapot in {glaze} glaze on a linen tablecloth, soft window light, product photograph"
)
_EDITED_EMBEDDING = "15f002de-bf0c-4b99-857b-a7a4bd7030dc"
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
        _fill(connection, PromptRow)
        _fill(connection, EmbeddingRow)
    return True


def _fill(connection: sa.Connection, row_type: RowType) -> None:
    with as_file(files("imagepipeline_dagster.tables") / _FILES[row_type]) as file:
        incoming = IncomingRows(file, row_type)
        with closing(incoming.stage()) as staged:
            table = TargetTable(connection, _MAPPINGS[row_type], incoming)
            for rows in staged.chunks(len(staged)):
                table.apply(table.compared(rows), now=dt.datetime.now(dt.UTC))


def edit_sample_prompt(url: str) -> str:
    """Give the teapot of the sample prompts another glaze and take number; return what changed.

    No two edits in a row leave the same text.

    Raises:
        SampleMissing: when the row is not there.
        TablesUnavailable, TableMissing: about the database.
    """
    prompt_set, prompt_id = _EDITED_PROMPT
    with writing(url) as connection:
        find_table(connection, _MAPPINGS[PromptRow], PromptRow)
        prompts = tables_metadata().tables["prompts"]
        is_edited = (prompts.c.prompt_set == prompt_set, prompts.c.prompt_id == prompt_id)
        text = connection.scalar(sa.select(prompts.c.prompt).where(*is_edited))
        if text is None:
            raise SampleMissing(f"There is no prompt {prompt_id!r} in {prompt_set!r} to edit.")
        take = _TAKE.search(text)
        number = int(take[1]) + 1 if take else 2
        glaze = _GLAZES[(number - 1) % len(_GLAZES)]
        changed = f"{_EDITED_TEXT.format(glaze=glaze)}, take {number}"
        connection.execute(
            sa.update(prompts)
            .where(*is_edited)
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
        is_edited = embeddings.c.embedding_id == _EDITED_EMBEDDING
        row = connection.execute(
            sa.select(embeddings.c.name, embeddings.c.version).where(is_edited)
        ).one_or_none()
        if row is None:
            raise SampleMissing(f"There is no embedding {_EDITED_EMBEDDING} to edit.")
        name, version = row
        last = re.search(r"\d+\Z", version or "")
        changed = f"{version[: last.start()]}{int(last[0]) + 1}" if last else f"{version or ''}2"
        connection.execute(
            sa.update(embeddings)
            .where(is_edited)
            .values(version=changed, updated_at=dt.datetime.now(dt.UTC))
        )
    return f"The embedding {name!r} ({_EDITED_EMBEDDING}) went from version {version} to {changed}."
