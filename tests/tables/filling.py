"""Files imported in one go, as the command does it where there is nothing to ask."""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, TableMapping
from imagepipeline_dagster.tables.transfer.incoming import ImportOptions
from imagepipeline_dagster.tables.transfer.merge import ImportReport, Merge


def import_prompts(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of Merge, and of its ImportOptions
) -> ImportReport:
    """Bring a file's rows into the prompts table."""
    with closing(Merge(url, mapping, file, PromptRow, **_sorted(options))) as merge:
        return merge.carry_out()


def import_embeddings(
    url: str,
    mapping: TableMapping,
    file: Path,
    **options: Any,  # noqa: ANN401 - those of Merge, and of its ImportOptions
) -> ImportReport:
    """Bring a file's rows into the embeddings table."""
    with closing(Merge(url, mapping, file, EmbeddingRow, **_sorted(options))) as merge:
        return merge.carry_out()


_OF_THE_FILE = tuple(field.name for field in fields(ImportOptions))


def _sorted(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of Merge, those of its ImportOptions put together."""
    if "options" in options:
        return options
    of_file = {name: options.pop(name) for name in _OF_THE_FILE if name in options}
    return {**options, "options": ImportOptions(**of_file)}
