"""Both sensors under the real daemon: SQL from outside leads to runs and new pictures."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.serving import Run, ServedPipeline, serve
from tests.waiting import until

_EDITED = "spring_catalogue"


def _built(pipeline: ServedPipeline, prompt_set: str, *, runs: int) -> list[Run]:
    """Wait until a set has so many runs and all have succeeded; return them, newest first."""

    def ended() -> list[Run]:
        so_far = pipeline.runs(prompt_set)
        return so_far if len(so_far) >= runs and all(run.finished for run in so_far) else []

    found = until(ended, what=f"run {runs} of {prompt_set}")
    assert {run.status for run in found} == {"SUCCESS"}, found
    return found


def _execute(tables: Path, statement: str, *values: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(tables, timeout=30)) as connection, connection:
        return connection.execute(statement, values).fetchall()


@pytest.mark.slow
def test_edits_by_sql_lead_to_runs_and_pictures(tmp_path: Path) -> None:
    """An edited prompt and a retrained embedding each lead to one run, which buys what changed."""
    with serve(tmp_path) as pipeline:
        before = {name: _built(pipeline, name, runs=1) for name in (_EDITED, "portraits")}
        assert {len(runs) for runs in before.values()} == {1}
        (samples,) = _execute(
            pipeline.tables,
            "UPDATE prompts SET prompt = prompt || ', seen from above'"
            " WHERE prompt_set = ? AND prompt_id = 'sneakers' RETURNING samples",
            _EDITED,
        )
        edited, _ = _built(pipeline, _EDITED, runs=2)
        assert edited.sensor == "prompts_sensor"
        figures = pipeline.figures("generated_images", prompt_set=_EDITED, run_id=edited.run_id)
        assert (figures["bought"], figures["reused"]) == (
            samples[0],
            figures["requested"] - figures["bought"],
        )

        ((embedding, prompt_set, images),) = _execute(
            pipeline.tables,
            "SELECT embeddings, prompt_set, sum(coalesce(samples, 1)) FROM prompts"
            " WHERE embeddings IN (SELECT embedding_id FROM embeddings)"
            " GROUP BY embeddings, prompt_set ORDER BY embeddings LIMIT 1",
        )
        known = len(_built(pipeline, str(prompt_set), runs=1))
        _execute(
            pipeline.tables,
            "UPDATE embeddings SET version = version || '+' WHERE embedding_id = ?",
            str(embedding),
        )
        retrained, *_ = _built(pipeline, str(prompt_set), runs=known + 1)
        assert retrained.sensor == "embeddings_sensor"
        figures = pipeline.figures(
            "generated_images", prompt_set=str(prompt_set), run_id=retrained.run_id
        )
        assert figures["bought"] == images
        assert len(_built(pipeline, str(prompt_set), runs=known + 1)) == known + 1
