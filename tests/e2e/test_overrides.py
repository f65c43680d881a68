"""A person's decision on a running Dagster: written by SQL, applied by its daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Screenshot
from tests.e2e.serving import ServedPipeline
from tests.waiting import until

_SETS = ("harbour_at_night", "portraits", "spring_catalogue")
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


def _released(pipeline: ServedPipeline) -> list[dict[str, object]]:
    """Return the rows of the prompt that is decided about, in a release made now."""
    run_id = pipeline.launch("release_image_dataset")
    until(lambda: pipeline.status(run_id) in _ENDED, what="the release")
    assert pipeline.status(run_id) == "SUCCESS"
    newest = max(pipeline.releases.glob("v*"))
    columns = ["prompt_set", "prompt_id", "verdict", "moderation_reason"]
    columns += ["overridden_by", "override_reason"]
    rows = pq.read_table(newest / "parquet/data", columns=columns).to_pylist()
    return [row for row in rows if (row["prompt_set"], row["prompt_id"]) == ("portraits", "potter")]


def _wait_until_built(pipeline: ServedPipeline) -> None:
    def all_built() -> bool:
        runs = [pipeline.runs(prompt_set) for prompt_set in _SETS]
        return all(each and all(run.finished for run in each) for each in runs)

    until(all_built, what="the first runs")


@pytest.mark.slow
def test_a_release_shows(page: Page, pipeline: ServedPipeline, screenshot: Screenshot) -> None:
    """Once a release is made, the graph shows that every asset is."""
    _wait_until_built(pipeline)
    _released(pipeline)
    page.set_viewport_size({"width": 2400, "height": 1000})
    page.goto("/asset-groups")
    nodes = page.locator("svg foreignObject")
    expect(nodes).to_have_count(7)
    expect(nodes.get_by_text("Loading")).to_have_count(0)
    expect(nodes.get_by_text("Materialized")).to_have_count(2)  # the two without partitions
    boxes = [box for node in nodes.all() if (box := node.bounding_box()) is not None]
    left, top = (min(box[side] for box in boxes) for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes)
    bottom = max(box["y"] + box["height"] for box in boxes)
    screenshot(
        "lineage_of_a_release",
        picture="asset-graph.png",
        clip={"x": left, "y": top, "width": right - left, "height": bottom - top},
    )


@pytest.mark.slow
def test_a_decision_by_sql_is_applied_by_the_daemon(pipeline: ServedPipeline) -> None:
    """An override inserted while the daemon runs is in the next release, with who and why."""
    _wait_until_built(pipeline)
    before = pipeline.runs("portraits")
    assert _released(pipeline) == []
    with closing(sqlite3.connect(pipeline.tables, timeout=30)) as tables, tables:
        tables.execute(
            "INSERT INTO moderation_overrides (prompt_set, prompt_id, decision, reviewer, reason)"
            " VALUES ('portraits', 'potter', 'keep', 'ana', 'hands and clay')"
        )

    run = pipeline.wait_for_next_run("portraits", after=before)
    assert run.sensor == "moderation_overrides_sensor"
    figures = pipeline.figures("moderated_images", prompt_set="portraits", run_id=run.run_id)
    assert (figures["kept"], figures["quarantined"], figures["overridden"]) == (12, 0, 1)
    assert _released(pipeline) == [
        {
            "prompt_set": "portraits",
            "prompt_id": "potter",
            "verdict": "kept",
            "moderation_reason": "override:unchecked",
            "overridden_by": "ana",
            "override_reason": "hands and clay",
        }
    ]
