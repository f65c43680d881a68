from __future__ import annotations

import datetime as dt
import html
from pathlib import Path

import dagster as dg
import pytest
from dagster._serdes import serialize_value

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.tables.errors import ColumnMissing
from imagepipeline_dagster.tables.schema import TableMapping
from imagepipeline_dagster.watching import states
from imagepipeline_dagster.watching.options import Watching
from tests.pipeline import (
    STAGES,
    Pipeline,
    checks_of,
    data_versions,
    failure_of,
    figures,
    open_pipeline,
    partition_keys,
)


@pytest.mark.slow
def test_an_edited_prompt_buys_one_image(pipeline: Pipeline) -> None:
    """One edited prompt among several buys its image again, and every stage's version changes."""
    pipeline.add_embedding("look", version="1")
    for number in range(3):
        pipeline.add("boats", f"boat_{number}")
    pipeline.add("boats", "styled", embeddings="look")
    first = pipeline.sync()["boats"]
    released = pipeline.release()

    pipeline.sql("UPDATE prompts SET prompt = 'a raft' WHERE prompt_id = 'boat_1'")
    second = pipeline.sync()["boats"]
    pipeline.sql("UPDATE embeddings SET version = '2'")
    third = pipeline.sync()["boats"]
    released_again = pipeline.release()

    for run, reason in ((second, "prompt_changed"), (third, "embedding_changed")):
        told = figures(run)
        assert (told["bought"], told["api_calls"], told["reused"]) == (1, 1, 3)
        assert f"| {reason} | 1 |" in told["why"]
    for stage in STAGES:
        versions = {data_versions(run)[stage] for run in (first, second, third)}
        assert len(versions) == 3, stage
    assert figures(released)["version"] == "v0001"
    assert (figures(released_again)["version"], figures(released_again)["new_version"]) == (
        "v0002",
        True,
    )
    assert "data:image/webp" in figures(released_again)["before_and_after"]
    assert "before_and_after" not in figures(released)
    assert {row["attempt"] for row in pipeline.ledger_rows()} == {1}


@pytest.mark.slow
def test_a_row_that_goes_leaves_the_rest_alone(pipeline: Pipeline) -> None:
    """Removing a prompt buys nothing, and its rows leave the tables but not the storage."""
    pipeline.add("boats", "one")
    pipeline.add("boats", "two", samples=2)
    pipeline.sync()
    images = set((pipeline.folder / "data/images").rglob("*.png"))
    assert len(images) == 3

    pipeline.sql("DELETE FROM prompts WHERE prompt_id = 'two'")
    told = figures(pipeline.sync()["boats"])

    assert (told["requested"], told["reused"], told["api_calls"]) == (1, 1, 0)
    assert set((pipeline.folder / "data/images").rglob("*.png")) == images


_LOOSE = (
    "CREATE TABLE prompts (prompt_set, prompt_id, prompt, task, embeddings, samples, width, height,"
    " num_inference_steps)"
)


def test_a_set_of_refused_rows_is_accounted_for(pipeline: Pipeline) -> None:
    """Where every row is refused, all samples are rejected as invalid and no call is made."""
    pipeline.sql("DROP TABLE prompts")
    pipeline.sql(_LOOSE)
    pipeline.add("bad", "range", num_inference_steps=500, samples=3)
    pipeline.add("bad", "twice")
    pipeline.add("bad", "twice", "another text")
    pipeline.add("bad", "nothing", " ", task="inpainting")
    pipeline.add("bad", "lost", embeddings="no such thing")
    run = pipeline.sync()["bad"]

    told = figures(run)
    assert (told["requested"], told["rejected"], told["api_calls"]) == (7, 7, 0)
    check = checks_of(run)["every_row_is_valid"]
    assert (check.passed, check.metadata["refused"].value) == (False, 5)
    table = html.unescape(str(check.metadata["problems"].value))
    for words in ("500 is outside 1 to 100", "several rows", "init_image: is missing", "lost"):
        assert words in table
    assert checks_of(run)["every_sample_is_accounted_for"].passed
    assert pipeline.ledger_rows() == []
    message = failure_of(pipeline.release(ok=False))
    assert "None of 7 samples was kept (7 invalid)" in message


@pytest.mark.slow
def test_problems_of_many_rows_stay_small(pipeline: Pipeline) -> None:
    """A set of hundreds of refused rows with long, unkind texts keeps its events under 48 kB."""
    nasty = "| *x* [y](z) ` <b> " * 60
    for number in range(80):
        pipeline.add("bad", f"{number} {nasty[:150]}", "ok", scheduler="", task=nasty[:300])
    run = pipeline.sync()["bad"]

    for event in run.get_asset_materialization_events():
        assert len(serialize_value(event.materialization)) < 48_000
    for check in run.get_asset_check_evaluations():
        assert len(serialize_value(check)) < 48_000
    table = str(checks_of(run)["every_row_is_valid"].metadata["problems"].value)
    assert all(line.count("|") == 3 for line in table.splitlines())


def test_a_release_without_anything_kept_says_why(pipeline: Pipeline) -> None:
    """Unchecked images are held back: with nothing else there is no release, and a reason."""
    pipeline.add("risky", "one", safety_checker=False, samples=2)
    told = figures(pipeline.sync()["risky"])
    assert (told["kept"], told["quarantined"]) == (0, 2)

    message = failure_of(pipeline.release(ok=False))

    assert "None of 2 samples was kept (2 unchecked)" in message
    assert not (pipeline.folder / "data/releases").exists()


def test_a_partition_without_rows_says_so(pipeline: Pipeline) -> None:
    """A run of a set that has no rows fails at once, and says who cleans up."""
    pipeline.instance.add_dynamic_partitions("prompt_set", ["gone"])

    message = failure_of(pipeline.run("gone", ok=False))

    assert "has no row of prompt set 'gone'; the prompts sensor removes its partition" in message


def test_a_batch_of_samples_is_one_call(tmp_path: Path) -> None:
    """With four samples a call, six samples are two calls, and each sample has its index."""
    with open_pipeline(tmp_path, dataset=ImageDataset(samples_per_call=4)) as pipeline:
        pipeline.add("boats", "fleet", samples=6)
        told = figures(pipeline.sync()["boats"])
        frame = pipeline.table("generated_images", "boats")

    assert (told["api_calls"], told["bought"]) == (2, 6)
    indices = zip(frame["call_index"], frame["sample_index"], strict=True)
    assert sorted(indices) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def test_options_that_cannot_be_meant_are_refused() -> None:
    """A dataset names the option that is wrong and what it takes."""
    with pytest.raises(ValueError, match=r"on_removed\n  Input should be 'remove' or 'keep'"):
        Watching.model_validate({"on_removed": "delete"})
    with pytest.raises(ValueError, match=r"audit_seconds: -1(\.0)? is below"):
        Watching(audit_seconds=-1)
    with pytest.raises(ValueError, match="samples_per_call: 5 is outside 1 to 4"):
        ImageDataset(samples_per_call=5)


@pytest.mark.parametrize(
    ("mappings", "message"),
    [
        (
            {"prompts": TableMapping("p", {"promptset": "x"})},
            "prompts table names 'promptset'.*Did you mean 'prompt_set'",
        ),
        ({"embeddings": TableMapping("e", {"prompt": "x"})}, "embeddings table names 'prompt'"),
    ],
)
def test_a_mapping_of_no_column_of_ours_is_refused_at_once(
    mappings: dict[str, TableMapping], message: str
) -> None:
    """A mapping that names an unknown column is refused when the dataset is built, not read."""
    with pytest.raises(ColumnMissing, match=message):
        ImageDataset(**mappings)


@pytest.mark.slow
def test_two_datasets_in_one_code_location(tmp_path: Path) -> None:
    """Datasets with prefixes of their own mix neither runs, nor tables, nor releases."""
    from imagepipeline_dagster import build_definitions

    shoes = ImageDataset(key_prefix=("shoes",), prompts=TableMapping("shoes"))
    with open_pipeline(tmp_path) as alone:
        alone.sql("CREATE TABLE shoes AS SELECT * FROM prompts")
        both = dg.Definitions.merge(
            alone.definitions, build_definitions(shoes, alone.resources, start=False)
        )
        alone.add("spring", "hat", "a hat")
        alone.sql(
            "INSERT INTO shoes (prompt_set, prompt_id, prompt, width, height) "
            "VALUES ('spring', 'shoe', 'a shoe', 64, 64)"
        )
        dg.Definitions.validate_loadable(both)
        hats = Pipeline(
            instance=alone.instance,
            definitions=both,
            dataset=ImageDataset(),
            resources=alone.resources,
            folder=tmp_path,
        )
        other = Pipeline(
            instance=alone.instance,
            definitions=both,
            dataset=shoes,
            resources=alone.resources,
            folder=tmp_path,
        )
        assert partition_keys(hats.tick()) == ["spring"]
        assert (hats.partitions, other.partitions) == (["spring"], [])
        hats.run("spring")
        other.sync()
        hats.release()
        released = other.release()

        assert hats.table("moderated_images", "spring")["prompt_id"].tolist() == ["hat"]
        assert other.table("moderated_images", "spring")["prompt_id"].tolist() == ["shoe"]
    assert str(figures(released)["dagster/uri"]).endswith("data/shoes/releases/v0001")
    assert (tmp_path / "data/releases/v0001/manifest.json").exists()
    assert both.get_repository_def().get_sensor_def("shoes_prompts_sensor").default_status is (
        dg.DefaultSensorStatus.STOPPED
    )


@pytest.mark.slow
def test_a_table_that_could_not_be_stored_is_made_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set whose last table failed to be written is not built: it is asked for again."""
    pipeline.add("boats", "one")
    (request,) = pipeline.tick()
    write = LocalFolder.write

    def full_disk(folder: LocalFolder, path: str, data: bytes) -> str:
        if path.startswith("moderated_images/"):
            raise OSError(28, "No space left on device")
        return write(folder, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalFolder, "write", full_disk)
        pipeline.run(str(request.partition_key), ok=False)
    monkeypatch.setattr(states, "_FIRST_RETRY", dt.timedelta(0))

    assert partition_keys(pipeline.reconcile()) == ["boats"]
    told = figures(pipeline.run("boats"))
    assert (told["kept"], told["api_calls"]) == (1, 0)
    assert pipeline.reconcile() == []
