from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from imagepipeline_dagster import Approval, ImageDataset
from imagepipeline_dagster.tables.schema import PromptRow, columns_of
from imagepipeline_dagster.tables.values import Kind
from tests.pipeline import Pipeline, figures, open_pipeline

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


MARKUP = "a|b](http://x) <img src=x> <!--\n`evil` **d** ~~e~~\n# f"


@pytest.mark.slow
def test_no_text_of_the_tables_is_markup_in_the_ui(tmp_path: Path) -> None:
    """What the UI reads as Markdown shows a text of the tables, and does nothing that it says."""
    dataset = ImageDataset(approval=Approval(required="above", images=1))
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        pipeline.add_embedding(MARKUP, name=MARKUP, base_model=MARKUP, trigger_words=MARKUP)
        pipeline.add(MARKUP, f"{MARKUP} 1", f"(({MARKUP}:1.2))", model_id=MARKUP)
        pipeline.add(MARKUP, f"{MARKUP} 2", MARKUP, negative_prompt=MARKUP, scheduler=MARKUP)
        pipeline.add(MARKUP, f"{MARKUP} 3", MARKUP, embeddings=MARKUP, init_image=MARKUP)
        pipeline.add(f"{MARKUP} bought", MARKUP, MARKUP)
        pipeline.sync()
        pipeline.release()
        planning = pipeline.definitions.resolve_job_def("plan_prompt_sets")
        assert planning.execute_in_process(instance=pipeline.instance).success
        told = list(_markdown_of(pipeline.instance))

    assert any("a&#124;b" in text for text in told)
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for text in told:
        tokens = (t for block in reader.parse(text) for t in (block, *(block.children or ())))
        read = {token.type for token in tokens if not _is_ours(token)}
        assert read <= {"inline", "text", "text_special", "softbreak"}, text


def _is_ours(token: Token) -> bool:
    """Tell whether a table, a picture or the name of a column is what this package writes."""
    if token.type == "image":
        return str(token.attrs["src"]).startswith("data:image/")
    if token.type == "code_inline":
        return "evil" not in token.content
    return token.tag in {"p", "table", "thead", "tbody", "tr", "th", "td"}


def _markdown_of(instance: dg.DagsterInstance) -> Iterator[str]:
    """Yield what Dagster's UI shows as Markdown of the events of all runs."""
    for run in instance.get_runs():
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            data = event.event_specific_data if event else None
            evaluated = data if isinstance(data, dg.AssetCheckEvaluation) else None
            if evaluated and evaluated.description:
                yield evaluated.description
            holder = getattr(data, "materialization", getattr(data, "asset_observation", data))
            metadata = getattr(holder, "metadata", None) or {}
            for value in metadata.values():
                if isinstance(value, dg.MarkdownMetadataValue):
                    yield str(value.value)
