from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from imagepipeline_dagster.emulator.faults import Operation
from imagepipeline_dagster.resources import ImagePipelineResource
from tests.pipeline import Pipeline, checks_of, failure_of, figures, metadata_of, open_pipeline

KEY = "a-key-that-is-right"


@pytest.fixture
def server() -> Iterator[EmulatorServer]:
    """An emulator outside of the resource, for a key of its own."""
    with EmulatorServer(EmulatorSettings(api_key=KEY, latency_seconds=0)) as started:
        yield started


def _api(server: EmulatorServer, **options: object) -> ImagePipelineResource:
    settings = {"api_key": KEY, "poll_min_seconds": 0.02, "poll_max_seconds": 0.1, **options}
    return ImagePipelineResource(base_url=server.url, **settings)  # type: ignore[arg-type]


@pytest.fixture
def outside(server: EmulatorServer, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline that buys at that emulator."""
    with open_pipeline(tmp_path, api=_api(server, link_lifetime_hours=0)) as opened:
        yield opened


def test_a_refused_key_stops_the_run_and_says_what_to_do(
    server: EmulatorServer, tmp_path: Path
) -> None:
    """A wrong API key fails the run once, without a retry, and the right one buys the rest."""
    with open_pipeline(tmp_path, api=_api(server, api_key="a-key-that-is-wrong")) as pipeline:
        for number in range(5):
            pipeline.add("boats", f"boat_{number}")
        (request,) = pipeline.tick()
        run = pipeline.run(str(request.partition_key), ok=False)

        message = failure_of(run)
        assert "the purchase stopped" in message
        assert "IMAGEPIPELINE_API_KEY" in message or "API key" in message
        assert "a-key-that-is-wrong" not in message
        failures = [event for event in run.all_events if event.is_step_failure]
        assert [event.step_key for event in failures] == ["generated_images.buy_set"]
        data = failures[0].step_failure_data
        assert data.user_failure_data is not None
        assert data.user_failure_data.metadata["requested"].value == 5
        assert server.stats.posts_accepted == 0
        assert not run.asset_materializations_for_node("generated_images")

        _use(pipeline, _api(server))
        told = figures(pipeline.run("boats"))
        assert (told["bought"], told["api_calls"], told["kept"]) == (5, 5, 5)
        assert {row["attempt"] for row in pipeline.ledger_rows()} == {1}


def _use(pipeline: Pipeline, api: ImagePipelineResource) -> None:
    from imagepipeline_dagster import build_definitions

    pipeline.resources["imagepipeline"] = api
    pipeline.definitions = build_definitions(pipeline.dataset, pipeline.resources, start=True)


@pytest.mark.slow
def test_each_fault_ends_in_its_outcome(server: EmulatorServer, outside: Pipeline) -> None:
    """What goes wrong at the API shows in outcome, verdict and the check that is about it."""
    faults = {
        "breaks": Fault(kind=FaultKind.JOB_FAILURE),
        "censored": Fault(kind=FaultKind.JOB_FAILURE, message="NSFW content was detected"),
        "few": Fault(kind=FaultKind.FEWER_LINKS),
        "black": Fault(kind=FaultKind.BLACK_IMAGE),
        "corrupt": Fault(kind=FaultKind.HTML_PAGE, operation=Operation.DOWNLOAD),
        "dropped": Fault(kind=FaultKind.DROPPED_ANSWER),
        "busy": Fault(kind=FaultKind.RATE_LIMITED, retry_after_seconds=0, times=2),
        "flaky": Fault(kind=FaultKind.JOB_FAILURE, times=1),
    }
    server.set_faults(
        *(fault.model_copy(update={"prompt_contains": name}) for name, fault in faults.items())
    )
    for name in (*faults, "fine"):
        outside.add("boats", name, f"a boat, {name}")

    run = outside.sync()["boats"]

    frame = outside.table("moderated_images", "boats")
    outcomes = {
        row["prompt_id"]: (row["outcome"], row["verdict"], row["moderation_reason"])
        for _, row in frame.iterrows()
    }
    assert outcomes == {
        "breaks": ("failed", "rejected", "failed"),
        "censored": ("vendor_filtered", "rejected", "vendor_filtered"),
        "few": ("vendor_filtered", "rejected", "vendor_filtered"),
        "black": ("generated", "rejected", "blank"),
        "corrupt": ("undecodable", "rejected", "undecodable"),
        "dropped": ("unknown", "quarantined", "unknown"),
        "busy": ("generated", "kept", "ok"),
        "flaky": ("generated", "kept", "ok"),
        "fine": ("generated", "kept", "ok"),
    }
    checks = checks_of(run)
    assert {name: check.passed for name, check in checks.items()} == {
        "every_row_is_valid": True,
        "images_are_complete": False,
        "images_decode": False,
        "no_answer_was_lost": False,
        "every_sample_is_accounted_for": True,
        "only_kept_passes_on": True,
        "few_are_rejected": True,
        "classifier_agrees_with_the_api": True,
        "few_are_duplicates": True,
        "prompts_are_plain_text": True,
        "no_purchase_waits": True,
        "sizes_are_as_asked": True,
    }
    table = str(checks["images_are_complete"].metadata["which"].value)
    assert "| breaks | 0 | failed |" in table
    lost = str(checks["no_answer_was_lost"].metadata["which"].value)
    assert "| dropped | 0 | unknown |" in lost
    assert "ran out of memory" in table
    assert "| corrupt | 0 | undecodable |" in str(checks["images_decode"].metadata["which"].value)

    server.set_faults()
    accepted = server.stats.posts_accepted
    again = outside.run("boats")
    assert server.stats.posts_accepted == accepted, "nothing unknown or failed is bought unasked"
    assert figures(again)["api_calls"] == 0


def test_what_was_bought_counts_as_bought(server: EmulatorServer, outside: Pipeline) -> None:
    """Only samples that the API took count as bought: neither lost answers nor refusals do."""
    server.set_faults(
        Fault(kind=FaultKind.DROPPED_ANSWER, prompt_contains="dropped"),
        Fault(kind=FaultKind.SERVER_ERROR, status=500, prompt_contains="refused"),
    )
    for name in ("dropped", "fine"):
        outside.add("boats", name, f"a boat, {name}")

    told = figures(outside.sync()["boats"])

    assert (told["requested"], told["bought"], told["reused"]) == (2, 1, 0)
    again = metadata_of(outside.run("boats"), "generated_images")
    assert (again["bought"].value, again["api_calls"].value) == (0, 0)


@pytest.mark.slow
def test_a_job_that_is_still_pending_is_resumed(server: EmulatorServer, tmp_path: Path) -> None:
    """A job past its deadline is shown as pending, and the next run fetches it without a POST."""
    api = _api(server, job_timeout_seconds=0.3)
    server.set_faults(Fault(kind=FaultKind.UNKNOWN_STATUS, prompt_contains="slow"))
    with open_pipeline(tmp_path, api=api) as pipeline:
        pipeline.add("boats", "slow", "a slow boat")
        first = pipeline.sync()["boats"]
        server.set_faults()
        second = pipeline.run("boats")

    assert not checks_of(first)["images_are_complete"].passed
    assert (figures(first)["quarantined"], figures(first)["api_calls"]) == (1, 1)
    told = figures(second)
    assert (told["kept"], told["api_calls"], told["resumed_jobs"]) == (1, 0, 1)
    assert checks_of(second)["images_are_complete"].passed
    assert server.stats.bought_twice == ()


def test_stages_are_not_retried(outside: Pipeline) -> None:
    """No set's own step is repeated: what can be is repeated inside the purchase."""
    graph = outside.repository.asset_graph
    for stage in ("generated_images", "moderated_images"):
        ops = graph.get(dg.AssetKey(stage)).assets_def.node_def.iterate_op_defs()
        assert not any(op.retry_policy for op in ops)
