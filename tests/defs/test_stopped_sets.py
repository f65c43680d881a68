"""A team's own checks beside ours, and what a release makes of them."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import RepoBackedJob
from dagster._core.execution.api import execute_run

from imagepipeline_dagster import ImageDataset, ReleasePolicy
from tests.pipeline import Pipeline, open_pipeline

DATASET = ImageDataset(release=ReleasePolicy(max_lost_share=1))


def said(folder: Path, name: str) -> dg.AssetCheckResult:
    """Return what a check is to say: it fails where there is a file of its name."""
    file = folder / name
    words = file.read_text() if file.exists() else ""
    if words == "raise":
        raise ValueError(words)
    severity = dg.AssetCheckSeverity.WARN if words == "warn" else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(passed=not words, severity=severity, description=words)


def checks(folder: Path) -> list[dg.AssetChecksDefinition]:
    """Return checks as teams write them."""

    @dg.asset_check(asset="moderated_images", blocking=True, partitions_def=DATASET.partitions)
    def by_set() -> dg.AssetCheckResult:
        return said(folder, "by_set")

    @dg.asset_check(asset="generated_images", blocking=True)
    def of_a_run() -> dg.AssetCheckResult:
        return said(folder, "of_a_run")

    @dg.asset_check(asset="prompt_sets")
    def not_blocking() -> dg.AssetCheckResult:
        return said(folder, "not_blocking")

    @dg.asset_check(asset="prompts", blocking=True)
    def upstream() -> dg.AssetCheckResult:
        return said(folder, "upstream")

    return [by_set, of_a_run, not_blocking, upstream]


def look(pipeline: Pipeline, check: dg.AssetCheckKey, partition: str | None) -> None:
    """Execute one check, for one set or for all at once."""
    job = pipeline.definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection={check}
    )
    job.execute_in_process(
        instance=pipeline.instance, partition_key=partition, raise_on_error=False
    )


def left_out(pipeline: Pipeline) -> str:
    """Make a release as a code location does; return what it says to be left out."""
    job = RepoBackedJob("release_image_dataset", pipeline.definitions.get_repository_def())
    run = pipeline.instance.create_run_for_job(job.get_definition())
    result = execute_run(job, run, pipeline.instance, raise_on_error=False)
    if not result.success:
        (failure,) = (event for event in result.all_events if event.is_step_failure)
        return str(failure.step_failure_data.error)
    (made,) = result.asset_materializations_for_node("image_dataset")
    return unescape(str(made.metadata["left_out"].value)) if "left_out" in made.metadata else ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Specifying a partitions_def")
def test_a_teams_blocking_check_keeps_a_set_out(tmp_path: Path) -> None:
    """What each blocking check last said of a set counts, until it says otherwise."""
    with open_pipeline(tmp_path, dataset=DATASET) as pipeline:
        pipeline.add("boats", "raft")
        pipeline.add("kites", "red")
        pipeline.sync()
        pipeline.definitions = dg.Definitions.merge(
            pipeline.definitions, dg.Definitions(asset_checks=checks(tmp_path))
        )
        for asset, name, partition, words, told in (
            ("moderated_images", "by_set", "boats", "too dark", ": too dark"),
            ("generated_images", "of_a_run", "boats", "no boat", ": no boat"),
            ("generated_images", "of_a_run", "boats", "raise", "raised an error"),
            ("generated_images", "of_a_run", "boats", "warn", None),
            ("prompt_sets", "not_blocking", "boats", "odd", None),
            ("prompts", "upstream", None, "stale", "of prompts failed"),
        ):
            check = dg.AssetCheckKey(dg.AssetKey(asset), name)
            (tmp_path / name).write_text(words)
            look(pipeline, check, partition)
            sentence = left_out(pipeline)
            if told is None:
                assert sentence == ""
            elif partition is None:
                assert "there is nothing to release" in sentence
                assert told in sentence
            else:
                assert f"'boats': the check {name!r} of {asset} " in sentence
                assert told in sentence
                assert "kites" not in sentence
            (tmp_path / name).unlink()
            look(pipeline, check, partition)
        assert left_out(pipeline) == ""
