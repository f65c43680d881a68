"""`build_alerts`: its sensors on a real instance, and a hook that posts to a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from imagepipeline_dagster import (
    Alert,
    Approval,
    Budget,
    ImageDataset,
    Watching,
    build_alerts,
    slack_webhook,
)
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from tests.alerts.receivers import Receiver, receiving
from tests.pipeline import Pipeline, api_of, open_pipeline

_STANDING, _RUNS = "standing_alerts_sensor", "run_alerts_sensor"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    with receiving() as opened:
        yield opened


def watched(pipeline: Pipeline, url: str) -> Pipeline:
    """Return the pipeline with alerts beside it."""
    sensors = build_alerts(pipeline.dataset, slack_webhook(url), ui_url="http://ui/")
    merged = dg.Definitions.merge(pipeline.definitions, dg.Definitions(sensors=sensors))
    pipeline.definitions = merged
    pipeline.repository = merged.get_repository_def()
    return pipeline


def titles(receiver: Receiver) -> list[str]:
    """Return the titles of what was posted, and forget it."""
    told = [text.splitlines()[0].strip("*") for text in receiver.texts]
    receiver.texts.clear()
    return told


@pytest.mark.slow
def test_budget_lost_answers_and_approvals_are_told(tmp_path: Path, receiver: Receiver) -> None:
    """Each is told once until it changes: nearly reached, reached, unknown, waiting."""
    dataset = ImageDataset(
        budget=Budget(images=5, period="day"), approval=Approval(required="above", images=4)
    )
    with (
        EmulatorServer(EmulatorSettings(latency_seconds=0.02)) as emulator,
        open_pipeline(
            tmp_path,
            dataset=dataset,
            api=api_of(emulator),
        ) as opened,
    ):
        pipeline = watched(opened, receiver.url)
        pipeline.add("spring", "one", samples=3)
        pipeline.sync()
        pipeline.tick(_STANDING)
        assert titles(receiver) == []
        emulator.set_faults(Fault(kind=FaultKind.DROPPED_ANSWER, times=1))
        pipeline.add("summer", "one")
        pipeline.sync()
        pipeline.tick(_STANDING)
        assert titles(receiver) == [
            "image_dataset: the budget is nearly reached",
            "image_dataset: 1 requests are unknown",
        ]
        pipeline.add("autumn", "one", samples=5)
        pipeline.add("winter", "one")
        pipeline.sync()
        for _ in range(2):
            pipeline.tick(_STANDING)
        assert titles(receiver) == [
            "image_dataset: the budget is reached",
            "image_dataset: 1 plans wait for approval",
        ]


@pytest.mark.parametrize("small_table_rows", [10_000, 0])
def test_a_set_that_nobody_asked_for_waits_too(
    tmp_path: Path, receiver: Receiver, small_table_rows: int
) -> None:
    """Sets that are in the table alone are told of, however large the table is."""
    dataset = ImageDataset(
        approval=Approval(required="always"), watching=Watching(small_table_rows=small_table_rows)
    )
    with open_pipeline(tmp_path, dataset=dataset) as opened:
        pipeline = watched(opened, receiver.url)
        pipeline.add("spring", "one")
        pipeline.add("summer", "one")
        pipeline.tick(_STANDING)
        assert titles(receiver) == ["image_dataset: 2 plans wait for approval"]


@pytest.mark.slow
def test_failed_runs_and_checks_are_told(tmp_path: Path, receiver: Receiver) -> None:
    """A failed run says why and where; what others run is none of this dataset's business."""

    @dg.op
    def broken() -> None:
        raise ValueError("of another team")

    @dg.job
    def elsewhere() -> None:
        broken()

    with open_pipeline(tmp_path) as opened:
        pipeline = watched(opened, receiver.url)
        pipeline.add("spring", "one")
        pipeline.tick(_RUNS)
        pipeline.sync()
        elsewhere.execute_in_process(instance=pipeline.instance, raise_on_error=False)
        pipeline.tick(_RUNS)
        assert titles(receiver) == []

        pipeline.add("spring", "two", prompt="(a boat:1.3)")
        pipeline.sync()
        pipeline.sql("DROP TABLE prompts")
        for _ in range(2):
            run = pipeline.run("spring", ok=False)
        receiver.status = 500
        with pytest.raises(Exception, match="status 500") as refused:
            pipeline.tick(_RUNS)
        assert "s3cr3t" not in str(refused.value)
        receiver.status = 200
        pipeline.tick(_RUNS)

        checks, failed = receiver.texts
        assert "checks failed for spring" in checks
        assert "prompts_are_plain_text" in checks
        assert "a run of spring failed" in failed
        assert "prompts" in failed
        assert "http://ui/runs/" in failed
        assert run.run_id not in failed
        pipeline.tick(_RUNS)
        assert len(receiver.texts) == 2


def test_alerts_are_made_for_a_dataset() -> None:
    """Their names are behind the dataset's prefix, and any function is a hook."""
    told: list[Alert] = []
    sensors = build_alerts(ImageDataset(key_prefix=("foxes",)), told.append, start=False)
    assert [sensor.name for sensor in sensors] == [f"foxes_{_STANDING}", f"foxes_{_RUNS}"]
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.STOPPED}
