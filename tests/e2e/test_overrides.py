"""A person's decision on a running Dagster: written by SQL, applied by its daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.e2e.serving import Run, ServedPipeline, until

_PATIENCE = 240.0  # seconds, for a busy machine that starts a process for each run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_decision_by_sql_is_applied_by_the_daemon(pipeline: ServedPipeline) -> None:
    """An override inserted while the daemon runs leads to a run that moderates its set anew."""

    def finished() -> list[Run]:
        runs = pipeline.runs("portraits")
        return runs if all(run.finished for run in runs) else []

    before = until(finished, what="the first run of portraits", seconds=_PATIENCE)
    with closing(sqlite3.connect(pipeline.tables, timeout=30)) as tables, tables:
        tables.execute(
            "INSERT INTO moderation_overrides (prompt_set, prompt_id, decision, reviewer, reason)"
            " VALUES ('portraits', 'potter', 'keep', 'ana', 'hands and clay')"
        )

    def finished_anew() -> list[Run]:
        runs = finished()
        return runs if len(runs) > len(before) else []

    after = until(finished_anew, what="the run that the decision leads to", seconds=_PATIENCE)
    run = next(run for run in after if run.sensor == "moderation_overrides_sensor")
    assert run.status == "SUCCESS"
    figures = pipeline.figures("moderated_images", prompt_set="portraits", run_id=run.run_id)
    assert (figures["kept"], figures["quarantined"], figures["overridden"]) == (12, 0, 1)
