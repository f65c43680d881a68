"""Files imported in one go, as the command does it where there is nothing to ask."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, RowType, TableMapping
from imagepipeline_dagster.tables.transfer.incoming import ImportOptions, IncomingRows
from imagepipeline_dagster.tables.transfer.merge import ImportReport, Merge
from imagepipeline_dagster.tables.transfer.progress import OnProgress


def import_prompts(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of Merge, IncomingRows and ImportOptions
) -> ImportReport:
    """Bring a file's rows into the prompts table."""
    return _imported(url, mapping, file, PromptRow, **options)


def import_embeddings(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of Merge, IncomingRows and ImportOptions
) -> ImportReport:
    """Bring a file's rows into the embeddings table."""
    return _imported(url, mapping, file, EmbeddingRow, **options)


def _imported(
    url: str,
    mapping: TableMapping,
    file: Path,
    row_type: RowType,
    *,
    replace_sets: bool = False,
    on_progress: OnProgress = lambda _: None,
    **options: Any,  # noqa: ANN401 - those of ImportOptions
) -> ImportReport:
    incoming = IncomingRows(
        file, row_type, options=ImportOptions(**options), on_progress=on_progress
    )
    with closing(Merge(url, mapping, incoming, replace_sets=replace_sets)) as merge:
        return merge.carry_out()
