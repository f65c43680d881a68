from __future__ import annotations

import datetime as dt
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.defs.image_dataset import ReleaseConfig
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.schema import prompt_sets
from imagepipeline_dagster.release.dataset_release import latest_release
from imagepipeline_dagster.release.policy import ReleasePolicy
from tests.pipeline import STAGES, Pipeline, failure_of, open_pipeline, partition_keys


def _asked(pipeline: Pipeline, *, ago: dt.timedelta) -> None:
    """Turn back the clock of what was asked for."""
    ledger = Ledger(pipeline.ledger_url)
    with ledger.engine.begin() as connection:
        connection.execute(prompt_sets.update().values(requested_at=dt.datetime.now(dt.UTC) - ago))
    ledger.close()


@pytest.fixture
def asked(pipeline: Pipeline) -> Pipeline:
    """A pipeline with two sets that were asked for, whose runs left no trace."""
    pipeline.add("spring", "one")
    pipeline.add("summer", "one")
    pipeline.tick()
    return pipeline


def test_runs_that_came_to_nothing_are_asked_for_again(asked: Pipeline) -> None:
    """Sets that are not built are asked for again after a pause, each under a new key."""
    assert asked.reconcile() == []
    _asked(asked, ago=dt.timedelta(minutes=31))

    again = asked.reconcile()

    assert partition_keys(again) == ["spring", "summer"]
    assert len({request.run_key for request in again}) == 2
    assert asked.reconcile() == []


def test_what_is_under_way_is_not_asked_for(asked: Pipeline) -> None:
    """A set whose run is queued or going is left to it; one whose run has ended is not."""
    _asked(asked, ago=dt.timedelta(days=2))
    job = asked.definitions.resolve_job_def("materialize_prompt_set")
    run = asked.instance.create_run_for_job(
        job, tags={"dagster/partition": "spring"}, status=dg.DagsterRunStatus.STARTED
    )
    asked.instance.create_run_for_job(
        job, tags={"dagster/partition": "summer"}, status=dg.DagsterRunStatus.FAILURE
    )

    assert partition_keys(asked.reconcile()) == ["summer"]
    asked.instance.report_run_failed(run)
    assert partition_keys(asked.reconcile()) == ["spring"]


def test_sets_that_are_gone_are_not_asked_for(asked: Pipeline) -> None:
    """A set without rows, or without a partition, is none of the schedule's business."""
    _asked(asked, ago=dt.timedelta(days=2))
    asked.sql("DELETE FROM prompts WHERE prompt_set = 'spring'")
    asked.instance.delete_dynamic_partition("prompt_set", "summer")

    assert asked.reconcile() == []


def test_a_failed_set_is_asked_for_until_it_is_built(asked: Pipeline) -> None:
    """A run that fails leaves its set to be asked for; one that ends well does not."""
    asked.sql("UPDATE prompts SET samples = 'many' WHERE prompt_set = 'spring'")
    asked.tick()
    asked.run("spring")
    _asked(asked, ago=dt.timedelta(days=2))

    assert partition_keys(asked.reconcile()) == ["summer"]


def test_a_run_without_checks_builds_its_set(pipeline: Pipeline) -> None:
    """A set whose run made no checks is built and moderated: only a decision asks for it again."""
    pipeline.add("spring", "one")
    pipeline.tick()
    stages = dg.AssetSelection.assets(*map(pipeline.dataset.key, STAGES))
    unchecked = dg.define_asset_job("unchecked", stages.without_checks())
    job = dg.Definitions.merge(
        pipeline.definitions, dg.Definitions(jobs=[unchecked])
    ).resolve_job_def("unchecked")
    result = job.execute_in_process(instance=pipeline.instance, partition_key="spring")
    _asked(pipeline, ago=dt.timedelta(hours=1))

    assert result.get_asset_check_evaluations() == []
    assert pipeline.reconcile() == []
    pipeline.sql(
        "INSERT INTO moderation_overrides (prompt_set, prompt_id, decision, reviewer, reason) "
        "VALUES ('spring', 'one', 'reject', 'ana', 'a ship, no boat')"
    )
    assert partition_keys(pipeline.tick("moderation_overrides_sensor")) == ["spring"]


def test_rows_that_were_not_stored_are_not_built(asked: Pipeline) -> None:
    """A set whose verdicts could not be stored is asked for again, whatever its run made."""
    (asked.folder / "data").mkdir(exist_ok=True)
    (asked.folder / "data" / "moderated_images").write_text("no folder")
    asked.run("spring", ok=False)
    _asked(asked, ago=dt.timedelta(hours=1))

    assert "spring" in partition_keys(asked.reconcile())


def test_the_release_is_asked_for_daily(pipeline: Pipeline) -> None:
    """The release schedule asks for the release job, once a day, without a partition."""
    schedule = pipeline.repository.get_schedule_def("image_dataset_schedule")
    with dg.build_schedule_context(
        instance=pipeline.instance,
        repository_def=pipeline.repository,
        scheduled_execution_time=dt.datetime(2025, 6, 1, 6, tzinfo=dt.UTC),
    ) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()

    assert (schedule.cron_schedule, schedule.job_name) == ("0 6 * * *", "release_image_dataset")
    assert request.partition_key is None


def test_a_burst_of_sets_makes_one_release(tmp_path: Path) -> None:
    """Two changed sets ask for one release; a set that a check stops for none until it passes."""
    policy = ReleasePolicy(on_change=True, quiet_minutes=0)
    dataset = ImageDataset(key_prefix=("shop",), release=policy)
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        for number in range(2):
            pipeline.add(f"set_{number}", "one")
        runs = pipeline.tick()
        assert pipeline.tick("image_dataset_sensor") == []
        for run in runs:
            pipeline.run(str(run.partition_key))

        (request,) = pipeline.tick("image_dataset_sensor")
        assert request.partition_key is None
        assert pipeline.tick("image_dataset_sensor") == []

        pipeline.run("set_0")
        (again,) = pipeline.tick("image_dataset_sensor")
        assert again.run_key != request.run_key
        pipeline.run("set_0")
        check = dg.AssetCheckKey(dataset.key("moderated_images"), "few_are_rejected")
        pipeline.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=False,
                blocking=True,
                partition="set_0",
            )
        )
        assert pipeline.tick("image_dataset_sensor") == []
        every_job = pipeline.definitions.resolve_implicit_global_asset_job_def()
        checks = every_job.get_subset(asset_selection=set(), asset_check_selection={check})
        checks.execute_in_process(instance=pipeline.instance, partition_key="set_0")
        assert len(pipeline.tick("image_dataset_sensor")) == 1


def test_a_removed_set_makes_one_release(tmp_path: Path) -> None:
    """A set that left the table is asked to leave the release, once; so is one too many to lose."""
    release = ReleasePolicy(on_change=True, quiet_minutes=0)
    dataset = ImageDataset(release=release)
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        for name in ("a", "b", "c", "d", "e", "f"):
            pipeline.add(name, "one")
        pipeline.sync()
        assert len(pipeline.tick("image_dataset_sensor")) == 1
        pipeline.release()
        assert pipeline.tick("image_dataset_sensor") == []

        pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'a'")
        assert pipeline.tick("prompts_sensor") == []
        assert len(pipeline.tick("image_dataset_sensor")) == 1
        pipeline.release()
        home = pipeline.resources["storage"].open()
        assert latest_release(home).manifest.changes == {"removed: set_removed": 1}
        assert pipeline.tick("image_dataset_sensor") == []

        for name in ("b", "c"):
            pipeline.instance.delete_dynamic_partition("prompt_set", name)
        assert len(pipeline.tick("image_dataset_sensor")) == 1
        refused = pipeline.release(ok=False)
        assert "set_removed" in failure_of(refused)
        assert "max_lost_share: 1" in failure_of(refused)
        with pytest.raises(ValidationError, match="less than or equal to 1"):
            ReleaseConfig(max_lost_share=20)
        assert pipeline.tick("image_dataset_sensor") == []
