"""Register, plan, approve, pay: each of them apart."""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imagepipeline_dagster import ImageDataset, ImagePipelineResource
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from imagepipeline_dagster.ledger.approvals import approvals_since
from imagepipeline_dagster.ledger.budget import Budget
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.planning.approval import Approval
from tests.pipeline import (
    Pipeline,
    api_of,
    checks_of,
    failure_of,
    figures,
    metadata_of,
    open_pipeline,
    partition_keys,
)

SENSOR = "approvals_sensor"


@pytest.fixture
def careful(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline of priced pictures whose purchases all wait for a person, with one set."""
    dataset = ImageDataset(
        approval=Approval(required="always"), price_per_image=0.25, currency="EUR"
    )
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        pipeline.add("spring", "one")
        pipeline.add("spring", "two", guidance_scale=99)
        pipeline.tick()
        yield pipeline


def do(pipeline: Pipeline, job: str, *, ok: bool = True, **config: object) -> Any:  # noqa: ANN401
    """Run one of the jobs that are about several sets; return what its only step says."""
    ops = {"plan_prompt_sets": "plan_sets", "approve_plan": "approve_sets"}
    result = pipeline.definitions.resolve_job_def(job).execute_in_process(
        instance=pipeline.instance,
        run_config={"ops": {ops[job]: {"config": config}}} if config else None,
        raise_on_error=False,
    )
    assert result.success is ok, failure_of(result)
    if not ok:
        return failure_of(result)
    (event,) = (event for event in result.all_events if event.is_successful_output)
    return {name: of.value for name, of in event.step_output_data.metadata.items()}


def posts(pipeline: Pipeline) -> int:
    """Return how many requests were ever claimed."""
    return len(pipeline.ledger_rows())


def test_a_purchase_that_waits_ends_in_good_order(careful: Pipeline) -> None:
    """Nothing is sent, the samples are pending, and a check says what waits and its price."""
    run = careful.run("spring")

    assert posts(careful) == 0
    assert str(figures(run)["stopped"]).startswith("pending: not approved: 1 image, for 0.25 EUR")
    check = checks_of(run)["no_purchase_waits"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["price"].value == "0.25 EUR"
    assert "imagepipeline-dagster approve spring" in str(check.metadata["to_approve"].value)
    frame = careful.table("moderated_images", "spring").set_index("prompt_id")
    assert frame["outcome"].to_dict() == {"one": "pending", "two": "invalid"}
    assert careful.tick(SENSOR) == []


def test_a_picture_of_two_rows_waits_once(careful: Pipeline) -> None:
    """Rows that ask for the very same picture are told with what would be paid for it."""
    for prompt_id in ("one", "twin"):
        careful.add("pair", prompt_id, "a boat", seed=7)
    careful.tick()
    run = careful.run("pair")

    assert "1 image, for 0.25 EUR" in str(figures(run)["stopped"])
    check = checks_of(run)["no_purchase_waits"]
    assert (check.metadata["images"].value, check.metadata["price"].value) == (1, "0.25 EUR")


def test_an_approved_plan_is_asked_for_and_bought(careful: Pipeline) -> None:
    """The job's run approves; the sensor asks for the purchase once, which then goes through."""
    sets = ["spring", "spring"]  # named twice it is one
    told = do(careful, "approve_plan", sets=sets, up_to=0.25, who="ana", why="the catalogue")
    assert (told["approved"], told["price"]) == (1, "0.25 EUR")

    asked = careful.tick(SENSOR)
    run = careful.run("spring")

    assert partition_keys(asked) == ["spring"]
    assert careful.tick(SENSOR) == []
    assert posts(careful) == 1
    assert checks_of(run)["no_purchase_waits"].passed


def test_a_new_ledger_s_approvals_are_asked_for(careful: Pipeline) -> None:
    """In a ledger that was made anew approvals are numbered anew: none is taken for an old one."""
    do(careful, "approve_plan", who="ana", why="the catalogue")
    assert partition_keys(careful.tick(SENSOR)) == ["spring"]
    for file in (careful.folder / "data").glob("ledger.db*"):
        file.unlink()
    assert careful.tick(SENSOR) == []
    do(careful, "approve_plan", who="ana", why="the catalogue, again")

    assert partition_keys(careful.tick(SENSOR)) == ["spring"]
    assert careful.tick(SENSOR) == []


def test_an_edited_plan_needs_another_approval(careful: Pipeline) -> None:
    """What a person saw is what may be bought: an edit between approval and purchase stops it."""
    do(careful, "approve_plan", who="ana", why="the catalogue")
    careful.sql("UPDATE prompts SET prompt = 'a ship' WHERE prompt_id = 'one'")

    careful.run("spring")
    assert posts(careful) == 0
    do(careful, "approve_plan", who="ana", why="the catalogue, with a ship")
    careful.run("spring")
    assert posts(careful) == 1


REFUSED: list[tuple[dict[str, object], str]] = [
    ({}, "neither may be blank"),
    ({"who": "ana", "why": " "}, "neither may be blank"),
    ({"who": "ana", "why": "tests", "up_to": 0.1}, "more than 0.1: nothing is approved"),
    ({"who": "ana", "why": "tests", "sets": ["summer"]}, "no prompt set 'summer'"),
]


def test_an_approval_that_cannot_be_meant_is_refused(careful: Pipeline) -> None:
    """Nobody, no reason, a price above what was allowed, and an unknown set approve nothing."""
    for config, words in REFUSED:
        assert words in do(careful, "approve_plan", ok=False, **config)
    careful.run("spring")
    assert posts(careful) == 0


def test_a_row_of_sql_approves(careful: Pipeline) -> None:
    """The fingerprint that the plan shows, put into the ledger's table by hand, is an approval."""
    fingerprint = figures(careful.run("spring"))["fingerprint"]
    careful.ledger_sql(
        "INSERT INTO ledger_approvals (dataset, prompt_set, fingerprint, who, why, approved_at,"
        " expires_at) VALUES ('image_dataset', 'spring', :fingerprint, 'ana', 'by hand',"
        " '2026-05-01 12:00:00', '2999-01-01 00:00:00')",
        fingerprint=fingerprint,
    )

    assert partition_keys(careful.tick(SENSOR)) == ["spring"]
    careful.run("spring")
    assert posts(careful) == 1


def test_an_approval_stays_within_the_budget(tmp_path: Path) -> None:
    """What a person approves is bought as far as the budget goes, and no further."""
    dataset = ImageDataset(approval=Approval(required="always"), budget=Budget(images=1))
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        for prompt_id in ("one", "two", "three"):
            pipeline.add("spring", prompt_id)
        pipeline.tick()
        do(pipeline, "approve_plan", who="ana", why="tests")
        run = pipeline.run("spring")

        assert figures(run)["bought"] == 1
        assert "budget" in str(figures(run)["stopped"])


def test_a_job_that_fails_is_bought_anew_with_another_approval(tmp_path: Path) -> None:
    """No run buys more than was approved: what failed waits for a person again."""
    dataset = ImageDataset(approval=Approval(required="always"), price_per_image=0.25)
    with (
        EmulatorServer(EmulatorSettings(latency_seconds=0.02)) as emulator,
        open_pipeline(
            tmp_path,
            dataset=dataset,
            api=api_of(emulator),
        ) as pipeline,
    ):
        pipeline.add("spring", "one")
        pipeline.add("spring", "two")
        pipeline.tick()
        emulator.set_faults(Fault(kind=FaultKind.JOB_FAILURE, times=1))
        do(pipeline, "approve_plan", up_to=0.5, who="ana", why="tests")
        runs = [pipeline.run("spring") for _ in range(2)]
        stops = [str(figures(run)["stopped"]) for run in runs]
        assert stops[0].startswith("pending: not approved: the approval of 2 images in all is")
        assert "not approved: 1 image, for 0.25" in stops[1]
        checks = [checks_of(run)["no_purchase_waits"] for run in runs]
        assert [check.metadata["images"].value for check in checks] == [1, 1]
        assert emulator.stats.posts_accepted == 2

        do(pipeline, "approve_plan", up_to=0.25, who="ana", why="tests")
        pipeline.run("spring")
        assert emulator.stats.posts_accepted == 3
        frame = pipeline.table("generated_images", "spring")
        assert set(frame["outcome"]) == {"generated"}


def test_all_that_an_approval_does_not_reach_for_waits(tmp_path: Path) -> None:
    """Where it is reached within a run, what was not even tried waits for a person, too."""
    dataset = ImageDataset(approval=Approval(required="always"))
    api = ImagePipelineResource(poll_min_seconds=0.02, max_in_flight=1)
    with open_pipeline(tmp_path, dataset=dataset, api=api) as pipeline:
        for prompt_id in ("one", "two", "three"):
            pipeline.add("spring", prompt_id)
        pipeline.tick()
        do(pipeline, "approve_plan", who="ana", why="tests")
        with closing(Ledger(pipeline.ledger_url)) as ledger:
            (approved,) = approvals_since(ledger, None, dataset=dataset.name, at_most=1)
            limit = approved.allowance(None)
            assert limit is not None
            with ledger.engine.begin() as connection:
                assert limit.reserve(connection, images=2, today=ledger.today()) is None

        run = pipeline.run("spring")

        assert figures(run)["bought"] == 1
        check = checks_of(run)["no_purchase_waits"]
        assert (check.passed, check.metadata["images"].value) == (False, 2)
        assert "imagepipeline-dagster approve spring" in str(check.metadata["to_approve"].value)


@pytest.mark.slow
def test_few_images_need_nobody(tmp_path: Path) -> None:
    """Below the dataset's limit a purchase goes through; above it, it waits."""
    dataset = ImageDataset(approval=Approval(required="above", images=1))
    with open_pipeline(tmp_path, dataset=dataset) as pipeline:
        pipeline.add("spring", "one")
        pipeline.add("summer", "one")
        pipeline.add("summer", "two", samples=2)
        pipeline.sync()

        assert [row["samples"] for row in pipeline.ledger_rows()] == [1]


def test_the_plan_s_page_says_what_is_asked_for(careful: Pipeline) -> None:
    """Each request to buy has its prompt, parameters, reason and price; refused rows say why."""
    page = metadata_of(careful.run("spring"), "generation_requests")

    told = html.unescape(str(page["requests_to_buy"].value))
    assert all(word in told for word in ("a boat called one", "width=64", "new", "0.25 EUR"))
    assert "guidance" in str(page["refused_rows"].value)
    assert (page["refused"].value, page["price"].value) == (1, "0.25 EUR")
    assert "nothing is paid" in str(page["budget_left"].value)


def test_after_the_purchase_the_plan_says_that_nothing_is_left(pipeline: Pipeline) -> None:
    """The newest that the plan's page shows is what the ledger says after the purchase."""
    pipeline.add("spring", "one")
    pipeline.tick()
    pipeline.run("spring")

    (record,) = pipeline.instance.fetch_observations(
        dg.AssetRecordsFilter(
            asset_key=pipeline.dataset.key("generation_requests"), asset_partitions=["spring"]
        ),
        limit=1,
    ).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["images_to_buy"].value == 0
    assert record.asset_observation.metadata["images_reused"].value == 1


def test_all_sets_are_planned_in_one_table(careful: Pipeline) -> None:
    """The free job's default config plans every set, and sums them up."""
    careful.add("summer", "one", samples=2)

    told = do(careful, "plan_prompt_sets")

    assert (told["images_to_buy"], told["price"]) == (3, "0.75 EUR")
    assert all(name in told["plans"] for name in ("spring", "summer", "total"))
    assert "| spring | two | guidance" in told["refused_rows"]
    assert posts(careful) == 0


def test_sets_are_registered_without_a_sensor(pipeline: Pipeline) -> None:
    """The free job brings the partitions in step with the table, and asks for no run."""
    pipeline.add("spring", "one")
    job = pipeline.definitions.resolve_job_def("register_prompt_sets")
    job.execute_in_process(instance=pipeline.instance)
    assert pipeline.partitions == ["spring"]

    pipeline.sql("UPDATE prompts SET prompt_set = 'summer'")
    job.execute_in_process(instance=pipeline.instance)
    assert pipeline.partitions == ["summer"]
    assert posts(pipeline) == 0
    # The sensor still asks for what is registered, and was never built.
    assert partition_keys(pipeline.tick("prompts_sensor")) == ["summer"]


def test_approvals_are_watched_where_purchases_wait(careful: Pipeline) -> None:
    """The sensor runs from the start where an approval is the consent, even on a real key."""
    sensor = careful.repository.get_sensor_def(SENSOR)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_an_approval_expires(careful: Pipeline) -> None:
    """An approval that nobody used in time lets nothing be bought, and is not asked for."""
    do(careful, "approve_plan", who="ana", why="tests")
    past = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(seconds=1)
    careful.ledger_sql("UPDATE ledger_approvals SET expires_at = :past", past=str(past))

    assert careful.tick(SENSOR) == []
    careful.run("spring")
    assert posts(careful) == 0
