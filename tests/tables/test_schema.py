from __future__ import annotations

import datetime as dt
import json

import pytest

from imagepipeline_dagster.tables.schema import (
    EmbeddingRow,
    PromptRow,
    TableMapping,
    columns_of,
    content_json,
    row_reader,
    source_json,
)


def test_columns_are_those_of_the_design() -> None:
    """The tables have the columns that are documented, and require only what must be given."""
    prompts = columns_of(PromptRow)
    assert list(prompts) == [
        *("prompt_set", "prompt_id", "prompt", "negative_prompt", "task", "model_id"),
        *("embeddings", "samples", "seed", "num_inference_steps", "guidance_scale", "strength"),
        *("width", "height", "refiner", "scheduler", "safety_checker", "init_image"),
        *("mask_image", "original_seed", "updated_at"),
    ]
    embeddings = columns_of(EmbeddingRow)
    assert list(embeddings) == [
        *("embedding_id", "name", "base_model", "trigger_words", "placement", "version"),
        "updated_at",
    ]
    required = [
        column.name for column in (*prompts.values(), *embeddings.values()) if column.required
    ]
    assert required == ["prompt_set", "prompt_id", "prompt", "embedding_id"]


def test_mapping_splits_off_the_schema() -> None:
    """A table is named with its database schema or without; unmapped columns keep their names."""
    mapping = TableMapping("studio.prompt list", {"prompt": "text"})
    assert (mapping.database_schema, mapping.name) == ("studio", "prompt list")
    assert TableMapping("prompts").database_schema is None
    assert (mapping.column("prompt"), mapping.column("seed")) == ("text", "seed")


def test_row_reads_what_is_unambiguous_and_keeps_the_rest() -> None:
    """A row's values are read as their columns' types, or kept so that they can be reported."""
    names = ("prompt_set", "prompt_id", "prompt", "samples", "seed", "refiner", "model_id", "task")
    row = row_reader(PromptRow, names)(("s", 7, "  text ", "30", "abc", "yes", "", "Text2Image"))
    assert row == PromptRow(
        prompt_set="s",
        prompt_id="7",
        prompt="  text ",
        samples=30,
        seed="abc",
        refiner=True,
        model_id=None,
        task="text2image",
    )
    # A row without a prompt is still a row, which validation then reports.
    row = row_reader(PromptRow, ("prompt_set", "prompt_id", "prompt"))(("s", None, None))
    assert (row.prompt_id, row.prompt) == ("", "")
    read = row_reader(EmbeddingRow, ("embedding_id", "placement"))
    assert read(("e", " Negative")).placement == "negative"
    assert read(("e", "Sideways")).placement == "Sideways"


def test_what_cannot_be_seen_takes_the_default() -> None:
    """White space in an optional column is no model, embedding or link of that name: it is null."""
    optional = [column.name for column in columns_of(PromptRow).values() if not column.required]
    for blank in ("", "  ", "\n", "\u00a0", "\u200b"):
        for name in optional:
            read = row_reader(PromptRow, ("prompt_set", "prompt_id", "prompt", name))
            row = read(("s", "a", "a kite", blank))
            assert getattr(row, name) is None, (name, blank)


def test_source_json_holds_the_whole_row() -> None:
    """Lineage keeps every column as it was, times as ISO text, in one spelling."""
    time = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    row = PromptRow(prompt_set="s", prompt_id="1", prompt="été", updated_at=time, seed=1.5)
    found = json.loads(source_json(row))
    assert set(found) == set(columns_of(PromptRow))
    assert found["updated_at"] == "2026-05-01T12:00:00+00:00"
    assert (found["prompt"], found["seed"], found["width"]) == ("été", 1.5, None)


def test_content_json_leaves_out_times_and_nulls() -> None:
    """Content is what the row says, so touching it or adding an empty column is no change."""
    row = PromptRow(prompt_set="s", prompt_id="1", prompt="p", updated_at="now")
    assert json.loads(content_json(row)) == {"prompt_set": "s", "prompt_id": "1", "prompt": "p"}
    embedding = EmbeddingRow(embedding_id="e", trigger_words=("a", "b"))
    assert json.loads(content_json(embedding)) == {"embedding_id": "e", "trigger_words": ["a", "b"]}


@pytest.mark.parametrize("endless", [float("inf"), float("-inf")])
def test_an_infinite_number_is_content_like_any_other(endless: float) -> None:
    """A row that holds an infinity can be fingerprinted and shown; only its own row is refused."""
    row = PromptRow(prompt_set="s", prompt_id="p", prompt="x", strength=endless)
    plain = PromptRow(prompt_set="s", prompt_id="p", prompt="x")
    assert content_json(row) != content_json(plain)
    assert "inf" in source_json(row)
