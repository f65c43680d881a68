"""A person's decision on a running Dagster: written by SQL, applied by its daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.e2e.serving import ServedPipeline


@pytest.mark.slow
def test_a_decision_by_sql_is_applied_by_the_daemon(pipeline: ServedPipeline) -> None:
    """An override inserted while the daemon runs leads to a run that moderates its set anew."""
    before = pipeline.wait_until_built("portraits")
    with closing(sqlite3.connect(pipeline.tables, timeout=30)) as tables, tables:
        tables.execute(
            "INSERT INTO moderation_overrides (prompt_set, prompt_id, decision, reviewer, reason)"
            " VALUES ('portraits', 'potter', 'keep', 'ana', 'hands and clay')"
        )
    run = pipeline.wait_for_next_run("portraits", after=before)
    assert run.sensor == "moderation_overrides_sensor"
    figures = pipeline.figures("moderated_images", prompt_set="portraits", run_id=run.run_id)
    assert (figures["kept"], figures["quarantined"], figures["overridden"]) == (12, 0, 1)
