"""Many prompt sets in one run: as if each had a run of its own."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.defs import batches
from imagepipeline_dagster.defs.batches import run_config_of
from imagepipeline_dagster.defs.under_way import partitions_in_use
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from imagepipeline_dagster.moderation import checks
from imagepipeline_dagster.purchase import purchase
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.rows import StoredTable
from imagepipeline_dagster.watching.options import Watching
from tests.api.servers import NEVER, PENDING, Reply, answering
from tests.pipeline import STAGES, Pipeline, open_pipeline
from tests.waiting import until

SETS = ("autumn", "spring", "summer")


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """Three small sets with partitions, in a dataset whose ticks make batches early."""
    dataset = ImageDataset(
        key_prefix=("fine",), watching=Watching(max_runs_per_tick=1, sets_per_run=10)
    )
    with open_pipeline(tmp_path, dataset=dataset) as opened:
        for name in SETS:
            opened.add(name, "one")
            opened.add(name, "two")
        yield opened


def run_batch(
    pipeline: Pipeline,
    prompt_sets: tuple[str, ...] = SETS,
    instance: dg.DagsterInstance | None = None,
) -> dg.ExecuteInProcessResult:
    """Execute the job of many sets, at the pipeline's own instance unless another is given."""
    job = pipeline.definitions.resolve_job_def(pipeline.dataset.named("materialize_batch"))
    config = run_config_of(pipeline.dataset, prompt_sets)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return job.execute_in_process(
        instance=instance or pipeline.instance,
        run_config={**config, **quiet},
        raise_on_error=False,
    )


def materialized(pipeline: Pipeline, stage: str) -> dict[str, str | None]:
    """Return the data version of each partition of a stage."""
    instance = pipeline.instance
    key = pipeline.dataset.key(stage)
    partitions = instance.get_materialized_partitions(key)
    records = {
        partition: instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1
        ).records[0]
        for partition in partitions
    }
    made = {name: record.asset_materialization for name, record in records.items()}
    return {name: (one.tags or {}).get("dagster/data_version") for name, one in made.items() if one}


def checks_of(result: dg.ExecuteInProcessResult) -> set[tuple[str, str, str | None, bool]]:
    """Return stage, check, partition and verdict of each evaluation."""
    return {
        (check.asset_key.path[-1], check.check_name, check.partition, check.passed)
        for check in result.get_asset_check_evaluations()
    }


@pytest.mark.slow
def test_a_batch_makes_what_runs_of_their_own_make(pipeline: Pipeline) -> None:
    """Tables, data versions and checks are the same, and a run afterwards buys nothing."""
    pipeline.tick("prompts_sensor")
    result = run_batch(pipeline)

    assert result.success
    together = {stage: materialized(pipeline, stage) for stage in STAGES}
    evaluations = checks_of(result)
    tables = {(stage, name): pipeline.table(stage, name) for stage in STAGES for name in SETS}
    alone = [pipeline.run(name) for name in SETS]
    assert {stage: materialized(pipeline, stage) for stage in STAGES} == together
    assert set(together["moderated_images"]) == set(SETS)
    assert evaluations == set().union(*map(checks_of, alone))
    assert len(evaluations) == 36
    assert len(pipeline.ledger_rows()) == 6
    for (stage, name), table in tables.items():
        again = pipeline.table(stage, name)
        columns = [column for column in table if column not in ("reason", "state", "run_id")]
        assert table[columns].equals(again[columns]), (stage, name)


@pytest.mark.slow
def test_a_batch_holds_its_connection_to_dagsters_database(
    pipeline: Pipeline, postgres_url: str
) -> None:
    """PostgreSQL is not connected to anew for every statement of the sets' events."""
    home = pipeline.folder / "production"
    home.mkdir()
    url = postgres_url.replace("postgresql://", "postgresql+psycopg2://")
    (home / "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: '{url}'}}}}\ntelemetry: {{enabled: false}}\n"
    )

    def connections_of(*prompt_sets: str) -> int:
        connections: list[object] = []

        def note(connection: object, _: object) -> None:
            if type(connection).__module__.startswith("psycopg2"):  # the ledger is on SQLite
                connections.append(connection)

        sa.event.listen(sa.Pool, "connect", note)
        try:
            assert run_batch(pipeline, prompt_sets, instance).success
        finally:
            sa.event.remove(sa.Pool, "connect", note)
        return len(connections)

    with dg.DagsterInstance.from_config(str(home)) as instance:
        connections_of("autumn")  # the first one makes tables
        assert connections_of("autumn", "spring", "summer") - connections_of("autumn") < 20


def test_a_batch_holds_no_set_that_it_has_told(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many sets a run has the tables of those in memory that it is making."""
    held: list[int] = []
    tell = batches._tell

    def tables_in_memory() -> int:
        gc.collect()
        return sum(isinstance(one, StoredTable) for one in gc.get_objects())

    def note(*told: Any) -> None:  # noqa: ANN401 - as they come
        held.append(tables_in_memory())
        tell(*told)

    run_batch(pipeline, SETS[:1])  # Dagster itself holds the first one for ever
    before = tables_in_memory()
    monkeypatch.setattr(batches, "_tell", note)

    assert run_batch(pipeline).success
    assert held[-1] - before == len(STAGES)


def test_a_bad_set_keeps_no_other_back(pipeline: Pipeline) -> None:
    """The run fails at its end and names the set, whose partition has failed; the rest is made."""
    pipeline.tick("prompts_sensor")
    pipeline.sql("DELETE FROM prompts WHERE prompt_set = 'spring'")

    result = run_batch(pipeline)

    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "1 of 3 prompt sets failed: spring" in str(failure.step_failure_data.error)
    assert set(materialized(pipeline, "moderated_images")) == {"autumn", "summer"}
    status = pipeline.instance.get_status_by_partition(
        pipeline.dataset.key("prompt_sets"), list(SETS), pipeline.dataset.partitions
    )
    assert status is not None
    assert {name: str(state.value) for name, state in status.items() if state} == {
        "autumn": "MATERIALIZED",
        "spring": "FAILED",
        "summer": "MATERIALIZED",
    }


def test_a_set_that_a_check_stops_is_materialized(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails, and the set's verdicts show as stored, as after a run of its own."""
    monkeypatch.setattr(checks, "_FEW", 1)
    pipeline.tick("prompts_sensor")
    for prompt_id in ("one", "two"):
        pipeline.sql(
            "INSERT INTO moderation_overrides (prompt_set, prompt_id, decision, reviewer, reason) "
            "VALUES ('spring', :prompt_id, 'reject', 'ana', 'a test')",
            prompt_id=prompt_id,
        )

    result = run_batch(pipeline, ("spring",))

    assert not result.success
    assert set(materialized(pipeline, "moderated_images")) == {"spring"}
    status = pipeline.instance.get_status_by_partition(
        pipeline.dataset.key("moderated_images"), ["spring"], pipeline.dataset.partitions
    )
    assert status is not None
    assert status["spring"] is AssetPartitionStatus.MATERIALIZED


def test_the_sensor_asks_for_a_batch_where_many_wait(pipeline: Pipeline) -> None:
    """The request names the sets; they are in use while it goes on, and built by it."""
    for number in range(3):
        pipeline.add(f"more-{number}", "one")
    [request] = pipeline.tick("prompts_sensor")
    assert request.job_name == "fine_materialize_batch"
    job = pipeline.definitions.resolve_job_def(request.job_name)
    run = pipeline.instance.create_run_for_job(
        job, run_config=request.run_config, status=dg.DagsterRunStatus.STARTED
    )
    assert partitions_in_use(pipeline.instance, set(pipeline.partitions)) == set(
        pipeline.partitions
    )
    pipeline.instance.delete_run(run.run_id)

    result = job.execute_in_process(instance=pipeline.instance, run_config=request.run_config)

    assert result.success
    assert pipeline.tick("prompts_sensor") == []
    assert pipeline.reconcile() == []


def test_a_batch_keeps_to_the_limits_of_a_run(tmp_path: Path) -> None:
    """Its sets together have no more jobs in flight, nor requests a second, than one run may."""
    with EmulatorServer(EmulatorSettings(api_key="key", latency_seconds=0.1)) as vendor:
        api = ImagePipelineResource(
            api_key="key", base_url=vendor.url, max_in_flight=2, requests_per_second=20
        )
        with open_pipeline(tmp_path, api=api) as pipeline:
            for name in ("one", "two", "three", "four"):
                pipeline.add(name, "one")
                pipeline.add(name, "two")
            pipeline.tick("prompts_sensor")
            started = time.monotonic()
            assert run_batch(pipeline, ("one", "two", "three", "four")).success
            seconds = time.monotonic() - started

    stats = vendor.stats
    assert stats.posts_accepted == 8
    assert stats.peak_in_flight == 2
    assert (stats.posts_received + stats.status_requests) / seconds <= 20


def test_a_run_that_is_ended_ends_soon_and_loses_nothing(tmp_path: Path) -> None:
    """What is under way keeps its job ids, what waits is not begun; the next run buys the rest."""
    with EmulatorServer(EmulatorSettings(api_key="key", latency_seconds=1)) as vendor:
        api = ImagePipelineResource(api_key="key", base_url=vendor.url, poll_min_seconds=0.05)
        with open_pipeline(tmp_path, api=api) as pipeline:
            names = [f"set-{number}" for number in range(8)]
            for name in names:
                pipeline.add(name, "one")
            interrupted = os.getpid()

            def interrupt() -> None:
                until(lambda: vendor.stats.posts_accepted >= 4, what="four sets under way")
                vendor.set_faults(Fault(kind=FaultKind.STUCK))
                os.kill(interrupted, signal.SIGINT)

            pipeline.tick("prompts_sensor")
            threading.Thread(target=interrupt).start()
            ended = run_batch(pipeline, tuple(names))
            posts = vendor.stats.posts_accepted
            vendor.set_faults()
            result = run_batch(pipeline, tuple(names))

            assert not ended.success
            assert posts < 8
            assert result.success
            assert vendor.stats.posts_accepted == 8
            assert vendor.stats.bought_twice == ()


def test_sets_of_a_run_that_is_ended_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No set waits for another's last answers, nor sends anything meanwhile."""
    monkeypatch.setattr(purchase, "_GRACE_SECONDS", 4.0)
    interrupt_one = purchase.Purchase.interrupt
    steps: list[str] = []

    def noted(interrupted: purchase.Purchase) -> None:
        steps.append("interrupted")
        interrupt_one(interrupted)
        steps.append("given up")

    monkeypatch.setattr(purchase.Purchase, "interrupt", noted)
    with answering(lambda _: Reply(value=PENDING, pause=NEVER)) as vendor:
        api = ImagePipelineResource(api_key="key", base_url=vendor.url, max_in_flight=4)
        with open_pipeline(tmp_path, api=api) as pipeline:
            for name in ("one", "two", "three", "four"):
                pipeline.add(name, "one")
            pipeline.tick("prompts_sensor")

            def interrupt() -> None:
                until(lambda: vendor.posts >= 4, what="four sets under way")
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=interrupt).start()
            assert not run_batch(pipeline, ("one", "two", "three", "four")).success

    assert steps[:8] == 4 * ["interrupted"] + 4 * ["given up"]
    assert vendor.posts == 4
