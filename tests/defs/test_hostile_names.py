from __future__ import annotations

from pathlib import Path

import pytest

from imagepipeline_dagster.tables.schema import PromptRow, columns_of
from imagepipeline_dagster.tables.values import Kind
from tests.pipeline import Pipeline, figures

NAMES = [
    "../../outside/a",
    "/etc/passwd",
    "...",
    "",
    "[x](http://x) | `y` <b>",
    "Ünïcode ☃ 100%25",
    "☃é" * 100,
]


@pytest.mark.slow
def test_hostile_names_stay_inside_the_storage(pipeline: Pipeline, tmp_path: Path) -> None:
    """Whatever sets and prompts are called, the chain works and writes inside its folder alone."""
    for number, name in enumerate(NAMES):
        pipeline.add(name, f"../{number}/..|`[x]" if number % 2 else "☃" * 100, "a boat")

    runs = pipeline.sync()
    released = pipeline.release()

    assert len(runs) == len(NAMES)
    assert all(figures(run)["kept"] == 1 for run in runs.values())
    assert (figures(released)["dagster/row_count"], figures(released)["version"]) == (7, "v0001")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "home"}
    data = tmp_path / "data"
    tables = list((data / "moderated_images").iterdir())
    assert len(tables) == len(NAMES)
    assert all(table.is_file() for table in tables)
    assert {path.name for path in data.iterdir() if path.is_dir()} == {
        *("prompt_sets", "generation_requests", "generated_images", "moderated_images"),
        *("images", "thumbnails", "ledgers", "releases"),
    }
    sets = {
        pipeline.table("moderated_images", key)["prompt_set"].tolist()[0]
        for key in pipeline.partitions
    }
    assert sets == set(NAMES)
    assert pipeline.tick() == []

    pipeline.sql("DELETE FROM prompts WHERE prompt_set = '...'")
    assert pipeline.tick() == []
    assert len(pipeline.partitions) == len(NAMES) - 1


@pytest.mark.slow
def test_hostile_values_stay_inside_the_storage(pipeline: Pipeline, tmp_path: Path) -> None:
    """A path in any text column of either table is text: it makes no file outside the folder."""
    path = "../../../outside"
    pipeline.add_embedding(path, name=path, base_model=path, trigger_words=path, version=path)
    columns = [name for name, column in columns_of(PromptRow).items() if column.kind is Kind.TEXT]
    for name in columns:
        values = {"prompt_set": path, "prompt_id": f"{path}/{name}", "prompt": "a boat"}
        pipeline.add(**{**values, name: path})

    (run,) = pipeline.sync().values()
    released = pipeline.release()

    assert len(pipeline.table("moderated_images", path)) == len(columns)
    assert 0 < figures(released)["dagster/row_count"] <= figures(run)["kept"]
    assert {found.name for found in tmp_path.iterdir()} == {"data", "home"}
    assert not [found for found in tmp_path.parent.rglob("outside*") if found.is_file()]
