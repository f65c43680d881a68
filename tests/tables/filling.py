"""Files imported in one go, as the command does it where there is nothing to ask."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
from imagepipeline_dagster.tables.transfer.merge import ImportReport, merge_of_file


def import_prompts(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of merge_of_file
) -> ImportReport:
    """Bring a file's rows into the prompts table."""
    with closing(merge_of_file(url, mapping, file, PromptRow, **options)) as merge:
        return merge.carry_out()


def import_embeddings(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of merge_of_file
) -> ImportReport:
    """Bring a file's rows into the embeddings table."""
    with closing(merge_of_file(url, mapping, file, EmbeddingRow, **options)) as merge:
        return merge.carry_out()
