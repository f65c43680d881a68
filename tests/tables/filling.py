"""Tables filled by somebody else's SQL, and by files imported without a question."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.tables.reading import SourceTables
from imagepipeline_dagster.tables.schema import EmbeddingRow, PromptRow, RowType, TableMapping
from imagepipeline_dagster.tables.transfer.incoming import ImportOptions, IncomingRows
from imagepipeline_dagster.tables.transfer.merge import ImportReport, Merge

PROMPTS = TableMapping("prompts")
EMBEDDINGS = TableMapping("embeddings")
HEADERS = ("prompt_set", "prompt_id", "prompt")
FULL_PROMPT: dict[str, Any] = {
    "prompt_set": "s",
    "prompt_id": "full",
    "prompt": "p",
    "negative_prompt": "n",
    "task": "inpainting",
    "model_id": "sdxl",
    "embeddings": "e",
    "samples": 12,
    "seed": 2**63 - 1,
    "num_inference_steps": 30,
    "guidance_scale": 7.5,
    "strength": 0.1,
    "width": 768,
    "height": 1024,
    "refiner": True,
    "scheduler": "ddim",
    "safety_checker": False,
    "init_image": "https://a.example/x.png",
    "mask_image": "https://a.example/m.png",
    "original_seed": "18446744073709551615",
    "updated_at": dt.datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=dt.UTC),
}
"""A value for each column of the prompts table."""


def run_sql(url: str, *statements: str, **values: object) -> list[sa.Row[Any]]:
    """Run statements as somebody would who does not know this package; return the last's rows."""
    engine = sa.create_engine(parsed_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement), values or None)
        return list(result) if result.returns_rows else []


def insert(url: str, table: str, *rows: Mapping[str, object]) -> None:
    """Insert rows in the same way."""
    engine = sa.create_engine(parsed_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for row in rows:
            columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in row]
            connection.execute(sa.insert(sa.table(table, *columns)).values(dict(row)))


def rows_in(url: str) -> list[PromptRow]:
    """Return all prompts, in the order of their keys."""
    with SourceTables(url) as tables:
        return sorted(tables.iter_prompts(), key=lambda row: (row.prompt_set, row.prompt_id))


def csv_file(
    folder: Path, rows: Sequence[Sequence[object]], headers: Sequence[str] = HEADERS
) -> Path:
    """Return a CSV file with these rows."""
    file = folder / "prompts.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([headers, *rows])
    return file


def import_prompts(
    url: str,
    file: Path,
    mapping: TableMapping = PROMPTS,
    row_type: RowType = PromptRow,
    *,
    replace_sets: bool = False,
    **options: Any,  # noqa: ANN401 - those of ImportOptions
) -> ImportReport:
    """Bring a file's rows into the prompts table, or into another."""
    incoming = IncomingRows(file, row_type, options=ImportOptions(**options))
    with closing(Merge(url, mapping, incoming, replace_sets=replace_sets)) as merge:
        return merge.carry_out()


def import_embeddings(url: str, file: Path, **options: Any) -> ImportReport:  # noqa: ANN401 - the same
    """Bring a file's rows into the embeddings table."""
    return import_prompts(url, file, EMBEDDINGS, EmbeddingRow, **options)
