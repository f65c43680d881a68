"""A dataset with a budget: what it may not buy stays planned."""

from __future__ import annotations

from pathlib import Path

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.ledger.budget import Budget
from tests.pipeline import checks_of, metadata_of, open_pipeline


def test_a_reached_budget_ends_the_run_with_the_rest_planned(tmp_path: Path) -> None:
    """What the budget allows is bought and no more; the run succeeds, and a check tells of it."""
    dataset = ImageDataset(price_per_image=0.5, budget=Budget(money=1.5, period="total"))
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        for number in range(5):
            pipeline.add("boats", f"boat_{number}")
        run = pipeline.sync()["boats"]
        again = pipeline.run("boats")
        table = pipeline.table("generated_images", "boats")

    bought = metadata_of(run, "generated_images")
    assert [bought[name].value for name in ("bought", "api_calls", "cost")] == [3, 3, 1.5]
    assert "1.50 in all is reached" in str(bought["stopped"].value)
    assert metadata_of(run, "generation_requests")["cost"].value == 2.5
    assert sorted(table["outcome"]) == ["generated"] * 3 + ["pending"] * 2
    assert not checks_of(run)["images_are_complete"].passed
    assert metadata_of(again, "generated_images")["api_calls"].value == 0
