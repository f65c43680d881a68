"""`prompts` and `embeddings`: the user's tables, which other tools write and this one reads."""

import dagster as dg

from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping, columns_of
from imagepipeline_dagster.tables.values import Kind

# What a database would call them, which the UI has a sign for.
_TYPES = {
    Kind.TEXT: "text",
    Kind.WHOLE: "integer",
    Kind.NUMBER: "float",
    Kind.FLAG: "boolean",
    Kind.WORDS: "text",
    Kind.TIME: "timestamp",
}


def build_source_tables(dataset: ImageDataset) -> list[dg.AssetSpec]:
    """Return the two external assets, except where a team's own asset has the very key."""
    specs = [
        dg.AssetSpec(
            dataset.key("prompts"),
            description="The prompts table, a row a prompt. It is only read here: edit it in its "
            "database, and the prompts sensor asks for the runs.",
            deps=_made_by(dataset.prompts),
            partitions_def=dataset.partitions,
            kinds={"sql"},
            metadata={
                "dagster/table_name": dataset.prompts.table,
                "dagster/column_schema": _schema(PromptRow),
            },
        ),
        dg.AssetSpec(
            dataset.key("embeddings"),
            description="The embeddings table, a row an embedding: its trigger words, and where "
            "they belong. It is only read here.",
            deps=_made_by(dataset.embeddings),
            kinds={"sql"},
            metadata={
                "dagster/table_name": dataset.embeddings.table,
                "dagster/column_schema": _schema(EmbeddingRow),
            },
        ),
    ]
    theirs = {*_made_by(dataset.prompts), *_made_by(dataset.embeddings)}
    return [spec for spec in specs if spec.key not in theirs]


def _made_by(table: TableMapping) -> list[dg.AssetKey]:
    return [dg.AssetKey.from_user_string(table.asset_key)] if table.asset_key else []


def _schema(row_type: type[PromptRow | EmbeddingRow]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=_TYPES[column.kind],
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in columns_of(row_type).values()
        ]
    )
