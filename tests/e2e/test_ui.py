"""The pipeline as a person meets it: a browser on the UI of a real Dagster with its daemon."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Screenshot
from tests.e2e.serving import ServedPipeline
from tests.waiting import until

ASSETS = [
    "prompts",
    "embeddings",
    "prompt_sets",
    "generation_requests",
    "generated_images",
    "moderated_images",
    "image_dataset",
]
SAMPLE_SETS = ["harbour_at_night", "portraits", "spring_catalogue"]
# The set that the sensors have made first, as a rule: less to wait for.
CLICKED = "harbour_at_night"


def test_lineage_shows_the_seven_assets(page: Page, screenshot: Screenshot) -> None:
    """The lineage graph draws all seven assets, and nothing else."""
    # Wide enough for Dagster to write out what is in a node.
    page.set_viewport_size({"width": 2400, "height": 1000})
    page.goto("/asset-groups")
    nodes = page.locator("svg foreignObject")
    for asset in ASSETS:
        expect(nodes.filter(has=page.get_by_text(asset, exact=True))).to_have_count(1)
    expect(nodes).to_have_count(len(ASSETS))
    expect(nodes.get_by_text("Loading")).to_have_count(0)
    screenshot("lineage")


def test_sensors_add_the_prompt_sets(
    page: Page, pipeline: ServedPipeline, screenshot: Screenshot
) -> None:
    """Both sensors run from the start, and every prompt set of the table becomes a partition."""
    until(lambda: pipeline.prompt_sets() == SAMPLE_SETS, what="the prompt sets' partitions")
    page.goto("/automation")
    for sensor in ("prompts_sensor", "embeddings_sensor"):
        expect(page.get_by_text(sensor, exact=True)).to_be_visible()
    screenshot("automation")
    page.goto("/assets/prompts?view=partitions")
    for prompt_set in SAMPLE_SETS:
        expect(page.get_by_text(prompt_set, exact=True).first).to_be_visible()
    screenshot("prompt_sets")


def test_a_prompt_set_is_materialized_by_clicking(
    page: Page, pipeline: ServedPipeline, screenshot: Screenshot
) -> None:
    """A person materializes one set from the job's page, and nothing is bought twice."""
    before = pipeline.wait_until_built(CLICKED)
    page.goto("/jobs")
    page.get_by_role("link").filter(has_text="materialize_prompt_set").click()
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_role("menuitem").filter(has_text=CLICKED).click()
    screenshot("launch_dialog")
    page.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    run = pipeline.wait_for_next_run(CLICKED, after=before)
    assert run.sensor is None
    page.goto(f"/runs/{run.run_id}")
    expect(page.get_by_text("RUN_SUCCESS", exact=True).first).to_be_visible()
    screenshot("run")
    figures = pipeline.figures("generated_images", prompt_set=CLICKED, run_id=run.run_id)
    # One row of this set is refused before anything is paid.
    assert (figures["bought"], figures["reused"]) == (0, figures["requested"] - 1)


@pytest.mark.parametrize("asset", ["generated_images", "moderated_images"])
def test_a_contact_sheet_shows(
    asset: str, page: Page, pipeline: ServedPipeline, screenshot: Screenshot
) -> None:
    """A click on a prompt set, and one on its contact sheet, show the pictures in the UI."""
    pipeline.wait_until_built(CLICKED)
    page.goto(f"/assets/{asset}?view=partitions")
    page.get_by_text(CLICKED, exact=True).first.click()
    page.get_by_role("row").filter(has_text="contact_sheet").get_by_text("Show Markdown").click()
    sheet = page.locator('img[src^="data:image/webp;base64,"][alt$=" samples"]')
    expect(sheet).to_be_visible()
    sheet.evaluate("picture => picture.decode()")
    assert sheet.evaluate("picture => picture.naturalWidth") > 500
    screenshot(f"contact_sheet_of_{asset}")


def test_an_edited_row_leads_to_a_run_that_buys_its_images(pipeline: ServedPipeline) -> None:
    """A row edited by SQL leads to a run by itself that buys its two images and no others."""
    before = pipeline.wait_until_built("spring_catalogue")
    with closing(sqlite3.connect(pipeline.tables, timeout=30)) as tables, tables:
        edited = tables.execute(
            "UPDATE prompts SET prompt = prompt || ', seen from above'"
            " WHERE prompt_set = 'spring_catalogue' AND prompt_id = 'sneakers' RETURNING samples"
        ).fetchall()
    assert edited == [(2,)]
    run = pipeline.wait_for_next_run("spring_catalogue", after=before)
    assert run.sensor == "prompts_sensor"
    figures = pipeline.figures("generated_images", prompt_set="spring_catalogue", run_id=run.run_id)
    assert (figures["bought"], figures["api_calls"]) == (2, 2)
    assert figures["reused"] == figures["requested"] - 2
