"""The release as an asset: judged by today's rules, and handed on to whoever trains."""

from __future__ import annotations

import dagster as dg
import pytest

from imagepipeline_dagster import DatasetRelease
from imagepipeline_dagster.storage import folder as folder_module
from tests.defs.test_moderation import decide
from tests.pipeline import Pipeline, checks_of, figures


@pytest.mark.slow
def test_a_release_judges_with_todays_rules(pipeline: Pipeline) -> None:
    """A rejection nobody moderated by, and a row that left the table, are not released."""
    pipeline.add("boats", "raft")
    pipeline.add("boats", "ship")
    pipeline.add("boats", "gone")
    pipeline.sync()
    decide(pipeline, "reject", prompt_set="boats", prompt_id="raft")
    pipeline.sql("DELETE FROM prompts WHERE prompt_id = 'gone'")

    run = pipeline.release()
    release = run.output_for_node("image_dataset")
    assert release.as_arrow(["prompt_id"])["prompt_id"].to_pylist() == ["ship"]
    assert figures(run)["judged_anew"] == 1
    assert {name: check.passed for name, check in checks_of(run).items()} == {
        "nothing_unchecked": True,
        "only_kept_is_released": True,
        "every_set_is_released": False,
        "splits_do_not_leak": True,
    }
    check = checks_of(run)["every_set_is_released"]
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "gone" in str(check.metadata["left_out"].value)


@pytest.mark.slow
def test_what_did_not_change_is_not_read_again(pipeline: Pipeline) -> None:
    """With the same tables, decisions and rules no table is opened; with others each counts."""
    pipeline.add("boats", "raft")
    pipeline.add("boats", "ship")
    pipeline.sync()
    first = pipeline.release().output_for_node("image_dataset")
    table = pipeline.folder / "data" / "moderated_images" / "boats.parquet"
    stored = table.read_bytes()

    table.write_bytes(b"not read")
    run = pipeline.release()
    again = run.output_for_node("image_dataset")
    assert (again.version, again.counts) == (first.version, first.counts)
    assert all(check.passed for check in checks_of(run).values())
    assert len(checks_of(run)) == 4

    table.write_bytes(stored)
    decide(pipeline, "reject", prompt_set="boats", prompt_id="raft")
    second = pipeline.release().output_for_node("image_dataset")
    assert (second.version, second.counts.kept) == ("v0002", 1)


@pytest.mark.slow
def test_a_release_clears_what_killed_runs_left(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of pictures, thumbnails, tables and marks are deleted, once they are old."""
    pipeline.add("boats", "raft")
    pipeline.sync()
    data = pipeline.folder / "data"
    folders = (*data.glob("images/*"), *data.glob("thumbnails/*"), data / "prompt_sets", data)
    halves = [folder / ".tmp-half" for folder in (*folders, data / "ledgers")]
    for half in halves:
        half.write_bytes(b"half")
    pipeline.release()
    assert [half for half in halves if half.exists()] == halves

    monkeypatch.setattr(folder_module, "_SUSPENDED", 0)
    pipeline.add("boats", "ship")
    pipeline.sync()
    pipeline.release()
    assert [half for half in halves if half.exists()] == []


@pytest.mark.slow
def test_a_downstream_asset_trains_on_the_release(pipeline: Pipeline) -> None:
    """`def train(image_dataset: DatasetRelease)` gets the version that was just made."""
    pipeline.add("boats", "raft")
    pipeline.sync()
    trained: list[tuple[str, int]] = []

    @dg.asset
    def train(image_dataset: DatasetRelease) -> None:
        trained.append((image_dataset.version, image_dataset.as_arrow().num_rows))

    together = dg.Definitions.merge(pipeline.definitions, dg.Definitions(assets=[train]))
    job = dg.define_asset_job(
        "release_and_train", selection=dg.AssetSelection.assets("image_dataset", "train")
    )
    merged = dg.Definitions.merge(together, dg.Definitions(jobs=[job]))
    result = merged.resolve_job_def("release_and_train").execute_in_process(
        instance=pipeline.instance
    )
    assert result.success
    assert trained == [("v0001", 1)]
