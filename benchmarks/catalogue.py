"""A catalogue to watch: prompts tables of any size, made inside their database.

python -m benchmarks.catalogue URL [--rows 1000000] [--sets 10000]
"""

from __future__ import annotations

import click
import sqlalchemy as sa

from imagepipeline_dagster.databases import parsed_url
from imagepipeline_dagster.tables.creating import create_tables

_EMBEDDINGS = 50

_NUMBERS = {
    "sqlite": """WITH RECURSIVE numbers (n) AS
        (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows - 1)""",
    "postgresql": """WITH numbers (n) AS
        (SELECT generate_series(0, CAST(:rows AS integer) - 1))""",
}
_TIMES = {
    "sqlite": "datetime('2026-01-01', '+' || n || ' seconds')",
    "postgresql": "timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second'",
}
# Rows as people have them: a sentence or two, most columns null, a time of its own for each; the
# rows of a set are spread over the table.
_ROWS = """
SELECT
  'set_' || substr('00000' || (n % :sets), -6), 'prompt_' || n,
  'A photograph of object number ' || n || ' on a wooden table, soft morning light, shallow depth '
    || 'of field, catalogue style, view ' || (n % 17),
  CASE n % 3 WHEN 0 THEN 'blurry, low quality, text, watermark' END,
  CASE n % 10 WHEN 0 THEN 'look_' || (n % :embeddings) END,
  1 + n % 3, 30, 7.5, 1024, 1024, true, {time}
FROM numbers
"""
_INTO = """
INSERT INTO prompts
  (prompt_set, prompt_id, prompt, negative_prompt, embeddings, samples, num_inference_steps,
   guidance_scale, width, height, safety_checker, updated_at)
"""


def fill_catalogue(url: str, *, rows: int, sets: int) -> None:
    """Make both tables, and fill them; the sets are of equal size."""
    create_tables(url)
    engine = sa.create_engine(parsed_url(url))
    kind = engine.dialect.name
    # PostgreSQL's substr() counts from the left only.
    chosen = _ROWS.replace("substr('00000' || (n % :sets), -6)", _padded(kind))
    statement = f"{_INTO} {_NUMBERS[kind]} {chosen.format(time=_TIMES[kind])}"
    with engine.begin() as connection:
        values = {"rows": rows, "sets": sets, "embeddings": _EMBEDDINGS}
        connection.execute(sa.text(statement), values)
        connection.execute(
            sa.text("INSERT INTO embeddings (embedding_id, version) VALUES (:id, '1')"),
            [{"id": f"look_{number}"} for number in range(_EMBEDDINGS)],
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def _padded(kind: str) -> str:
    return "printf('%06d', n % :sets)" if kind == "sqlite" else "lpad((n % :sets)::text, 6, '0')"


@click.command()
@click.argument("url")
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--sets", default=10_000, show_default=True)
def main(url: str, rows: int, sets: int) -> None:
    """Fill an empty database with prompts and embeddings."""
    fill_catalogue(url, rows=rows, sets=sets)


if __name__ == "__main__":
    main()
