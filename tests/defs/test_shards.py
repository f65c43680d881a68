"""A large set in shards: each a step, one table, one materialization."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.planning.approval import Approval
from imagepipeline_dagster.planning.shards import Shard, shards_of
from tests.pipeline import Pipeline, data_versions, figures, open_pipeline

PROMPTS = 8
POLICY = ModerationPolicy(
    checked="classify", unchecked="classify", classifier="tests.moderation.classifiers:Given"
)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A set of eight prompts, one of which is refused, with shards of three."""
    dataset = ImageDataset(shard_rows=3, moderation=POLICY)
    folder = tmp_path_factory.mktemp("sharded")
    with open_pipeline(folder, dataset=dataset, executor=dg.multiprocess_executor) as pipeline:
        yield _filled(pipeline)


def _filled(pipeline: Pipeline) -> Pipeline:
    for number in range(PROMPTS):
        pipeline.add("boats", f"boat_{number}", seed=number, samples=0 if number == 4 else 1)
    pipeline.instance.add_dynamic_partitions("prompt_set", ["boats"])
    return pipeline


def _steps(run: dg.ExecuteInProcessResult, op: str) -> list[str]:
    return sorted(
        str(event.step_key)
        for event in run.all_events
        if event.event_type is dg.DagsterEventType.STEP_SUCCESS and f".{op}[" in str(event.step_key)
    )


def test_a_large_set_is_made_in_shards(sharded: Pipeline, tmp_path: Path) -> None:
    """Each shard is a step; all else is that of a set in one process, where a stage is a step."""
    run = sharded.run("boats")

    assert [key.partition("[")[2] for key in _steps(run, "buy_shard")] == ["0_2]", "2_5]", "5_8]"]
    assert len(_steps(run, "look_at_shard")) == 3
    assert len(run.get_asset_materialization_events()) == 4
    with open_pipeline(tmp_path, dataset=ImageDataset(moderation=POLICY)) as whole:
        alone = _filled(whole).run("boats")
        assert {event.step_key for event in alone.all_events if event.is_step_success} == {
            *("prompt_sets", "check_prompt_sets", "generation_requests"),
            *("generated_images.buy_set", "check_generated_images"),
            *("moderated_images.give_verdicts", "check_moderated_images"),
        }
        assert data_versions(alone) == data_versions(run)
        names = ("requested", "bought", "reused", "api_calls", "kept", "rejected", "classified")
        assert [figures(run)[name] for name in names] == [figures(alone)[name] for name in names]
        for stage in ("generated_images", "moderated_images"):
            ids = sharded.table(stage, "boats")["prompt_id"].tolist()
            assert ids == whole.table(stage, "boats")["prompt_id"].tolist()
    assert figures(run)["api_calls"] == PROMPTS - 1
    assert figures(run)["classified_now"] == 0  # the shards looked at all of them

    again = sharded.run("boats")
    assert not _steps(again, "buy_shard")
    assert (figures(again)["bought"], figures(again)["api_calls"]) == (0, 0)


@pytest.mark.parametrize(
    ("approval", "count"),
    [(Approval(), 1), (Approval(required="always"), 0)],
    ids=["bought", "waits"],
)
def test_a_picture_of_two_shards_is_told_once(
    tmp_path: Path, approval: Approval, count: int
) -> None:
    """Rows of two shards that share a request come to one call, or to none while it waits."""
    dataset = ImageDataset(shard_rows=1, price_per_image=0.25, approval=approval)
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        for prompt_id in ("one", "twin"):
            pipeline.add("pair", prompt_id, "a boat", seed=7)
        pipeline.tick()
        told = figures(pipeline.run("pair"))

    assert (told["bought"], told["reused"], told["api_calls"]) == (count, count, count)


@pytest.mark.parametrize(
    ("rows", "sizes"), [(0, [0]), (3, [3]), (4, [2, 2]), (8, [2, 3, 3]), (9, [3, 3, 3])]
)
def test_shards_are_of_about_one_size(rows: int, sizes: list[int]) -> None:
    """No shard is larger than it may be, and all rows are in one of them."""
    shards = shards_of(rows, shard_rows=3)
    assert [shard.stop - shard.start for shard in shards] == sizes
    assert [Shard.of_key(shard.key) for shard in shards] == shards
    assert (shards[0].start, shards[-1].stop) == (0, rows)
