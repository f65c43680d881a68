"""Moderation in the pipeline: policies, people, checks and what the events show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._serdes import serialize_value

from imagepipeline_dagster import ImageDataset, build_definitions
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from imagepipeline_dagster.moderation import classifier
from imagepipeline_dagster.moderation.classifier import ClassifierMissing
from imagepipeline_dagster.moderation.policy import ModerationPolicy
from imagepipeline_dagster.moderation.states import VerdictStates
from imagepipeline_dagster.resources import ImagePipelineResource
from tests.pipeline import (
    Pipeline,
    checks_of,
    data_versions,
    failure_of,
    figures,
    metadata_of,
    open_pipeline,
    partition_keys,
)

SENSOR = "moderation_overrides_sensor"
DOUBTING = "tests.moderation.classifiers:suspicious"


def with_policy(pipeline: Pipeline, **policy: Any) -> Pipeline:  # noqa: ANN401
    """Return the same pipeline after its code location was loaded with another policy."""
    dataset = pipeline.dataset.changed(moderation=ModerationPolicy(**policy))
    changed = Pipeline(
        instance=pipeline.instance,
        definitions=build_definitions(dataset, pipeline.resources, start=True),
        dataset=dataset,
        resources=pipeline.resources,
        folder=pipeline.folder,
    )
    changed.cursors = pipeline.cursors
    return changed


def again(pipeline: Pipeline, key: str, *, ok: bool = True) -> Any:  # noqa: ANN401
    """Moderate a set anew, as the sensor asks for it."""
    job = pipeline.definitions.resolve_job_def("moderate_prompt_set")
    result = job.execute_in_process(
        instance=pipeline.instance, partition_key=key, raise_on_error=False
    )
    assert result.success is ok, failure_of(result)
    return result


def verdicts(pipeline: Pipeline, key: str) -> dict[str, tuple[str, str]]:
    """Return verdict and reason by prompt id."""
    frame = pipeline.table("moderated_images", key)
    rows = zip(frame["prompt_id"], frame["verdict"], frame["moderation_reason"], strict=True)
    return {prompt_id: (verdict, reason) for prompt_id, verdict, reason in rows}


def decide(pipeline: Pipeline, decision: str, **about: str) -> None:
    """Insert a decision by SQL, as a person would."""
    names = ", ".join(about)
    places = ", ".join(f":{name}" for name in about)
    pipeline.sql(
        f"INSERT INTO moderation_overrides ({names}, decision, reviewer, reason) "  # noqa: S608
        f"VALUES ({places}, :decision, 'ana', 'a statue, not a person')",
        decision=decision,
        **about,
    )


def test_a_decision_with_a_slip_is_told(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log of a tick names a row of SQL that is about nothing, until it is cleared."""
    pipeline.add("spring", "fox")
    pipeline.sync()
    picture = pipeline.table("generated_images", "spring")["image_sha256"][0]
    decide(pipeline, "reject", prompt_set="Spring ", prompt_id="fox")
    decide(pipeline, "reject", prompt_set="spring", prompt_id="fxo")
    decide(pipeline, "keep", image_sha256=picture, prompt_set="sprin")
    decide(pipeline, "reject", image_sha256=f"{picture[:-1]}{'1' if picture[-1] == '0' else '0'}")
    decide(pipeline, "keep", image_sha256=picture)
    capfd.readouterr()

    assert partition_keys(pipeline.tick(SENSOR)) == ["spring"]
    log = capfd.readouterr().err
    nothing = "of moderation_overrides is about nothing: this ledger knows no"
    for words in (
        f"reject of row 1 {nothing} pictures of a prompt set 'Spring '. Did you mean 'spring'?",
        f"row 2 {nothing} pictures of a prompt 'fxo' in set 'spring'. Did you mean 'fox'?",
        f"knows no picture {picture} in set 'sprin'. Did you mean 'spring'?",
        f"Did you mean {picture}?",
    ):
        assert words in log
    assert "row 5" not in log

    for about in (
        {"prompt_set": "Spring ", "prompt_id": "fox"},
        {"prompt_set": "spring", "prompt_id": "fxo"},
        {"image_sha256": picture, "prompt_set": "sprin"},
    ):
        decide(pipeline, "clear", **about)
    pipeline.tick(SENSOR)
    assert capfd.readouterr().err.count("is about nothing") == 1


@pytest.mark.slow
def test_another_policy_makes_other_verdicts_and_buys_nothing(pipeline: Pipeline) -> None:
    """A changed policy is noticed by the sensor, changes verdicts and data version, and is free."""
    pipeline.add("risky", "off", safety_checker=False)
    pipeline.add("risky", "on")
    pipeline.add("calm", "on")
    first = pipeline.sync()["risky"]
    before = pipeline.ledger_rows()
    assert verdicts(pipeline, "risky") == {
        "off": ("quarantined", "unchecked"),
        "on": ("kept", "ok"),
    }
    assert pipeline.tick(SENSOR) == []

    keeping = with_policy(pipeline, for_sets={"ris*": {"unchecked": "keep"}})
    assert partition_keys(keeping.tick(SENSOR)) == ["risky"]
    assert keeping.tick(SENSOR) == []
    second = again(keeping, "risky")
    assert keeping.tick(SENSOR) == []
    assert verdicts(keeping, "risky")["off"] == ("kept", "unchecked")
    assert data_versions(second)["moderated_images"] != data_versions(first)["moderated_images"]
    assert figures(keeping.release())["dagster/row_count"] == 3

    doubting = with_policy(keeping, unchecked="classify", checked="classify", classifier=DOUBTING)
    assert partition_keys(doubting.tick(SENSOR)) == ["calm", "risky"]
    third = again(doubting, "risky")
    assert set(verdicts(doubting, "risky").values()) == {("quarantined", "nsfw")}
    assert (figures(third)["classified"], figures(third)["classified_now"]) == (2, 2)
    disagreement = checks_of(third)["classifier_agrees_with_the_api"]
    assert not disagreement.passed
    assert "| on | 0 | 0.6 |" in str(disagreement.metadata["disagreements"].value)
    assert "data:image/webp" in str(disagreement.metadata["pictures"].value)

    looser = with_policy(doubting, unchecked="classify", quarantine_score=0.7, classifier=DOUBTING)
    assert figures(again(looser, "risky"))["classified_now"] == 0
    assert verdicts(looser, "risky") == {"off": ("kept", "ok"), "on": ("kept", "ok")}
    assert pipeline.ledger_rows() == before


@pytest.mark.slow
def test_a_decision_by_sql_reaches_the_verdict_and_the_release(pipeline: Pipeline) -> None:
    """The sensor moderates just the set concerned; the next release names who decided and why."""
    pipeline.add("statues", "david", safety_checker=False)
    pipeline.add("statues", "venus", safety_checker=False)
    pipeline.add("boats", "raft")
    pipeline.sync()
    pipeline.release()
    assert pipeline.tick(SENSOR) == []
    frame = pipeline.table("moderated_images", "statues").set_index("prompt_id")

    decide(pipeline, "keep", image_sha256=str(frame["image_sha256"]["david"]))
    assert partition_keys(pipeline.tick(SENSOR)) == ["statues"]
    again(pipeline, "statues")
    assert pipeline.tick(SENSOR) == []
    assert verdicts(pipeline, "statues") == {
        "david": ("kept", "override:unchecked"),
        "venus": ("quarantined", "unchecked"),
    }
    released = pipeline.release()
    assert (figures(released)["version"], checks_of(released)["only_kept_is_released"].passed) == (
        "v0002",
        True,
    )
    folder = Path(urlsplit(str(figures(released)["dagster/uri"])).path)
    rows = {row["prompt_id"]: row for row in pq.read_table(folder / "parquet/data").to_pylist()}
    assert set(rows) == {"david", "raft"}
    assert rows["david"]["overridden_by"] == "ana"
    assert rows["david"]["override_reason"] == "a statue, not a person"
    assert rows["david"]["overridden_at"] is not None
    assert rows["raft"]["overridden_by"] is None

    decide(pipeline, "reject", prompt_set="statues", prompt_id="david")
    assert partition_keys(pipeline.tick(SENSOR)) == ["statues"]
    again(pipeline, "statues")
    assert verdicts(pipeline, "statues")["david"] == ("rejected", "override:unchecked")
    assert figures(pipeline.release())["version"] == "v0003"


def test_a_run_under_way_hides_no_decision(pipeline: Pipeline) -> None:
    """A run that began before a decision may end after the tick that saw it: a later tick looks."""
    pipeline.add("boats", "raft")
    pipeline.sync()
    job = pipeline.definitions.resolve_job_def("moderate_prompt_set")
    slow = pipeline.instance.create_run_for_job(
        job, tags={"dagster/partition": "boats"}, status=dg.DagsterRunStatus.STARTED
    )
    with pipeline.resources["ledger"].open() as ledger:
        states = VerdictStates(ledger, dataset="image_dataset")
        (before,) = states.all().values()
        decide(pipeline, "reject", prompt_set="boats", prompt_id="raft")
        assert partition_keys(pipeline.tick(SENSOR)) == ["boats"]
        again(pipeline, "boats")
        assert pipeline.tick(SENSOR) == []
        states.record_built("boats", before.built_basis)
    pipeline.instance.delete_run(slow.run_id)

    assert partition_keys(pipeline.tick(SENSOR)) == ["boats"]


@pytest.mark.slow
def test_a_decision_about_what_nobody_has_asks_for_nothing(pipeline: Pipeline) -> None:
    """Decisions about unknown pictures and sets are no errors, and moderate nothing."""
    pipeline.add("boats", "raft")
    pipeline.sync()
    decide(pipeline, "reject", image_sha256="0" * 64)
    decide(pipeline, "reject", prompt_set="gone", prompt_id="one")
    assert pipeline.tick(SENSOR) == []
    assert verdicts(pipeline, "boats") == {"raft": ("kept", "ok")}


def test_classify_without_the_extra_fails_where_definitions_load(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code location whose policy cannot be carried out does not load; it says what to install."""
    monkeypatch.setattr(classifier, "find_spec", lambda _: None)
    with pytest.raises(
        ClassifierMissing, match=r"pip install 'imagepipeline-dagster\[moderation\]"
    ):
        with_policy(pipeline, unchecked="classify")
    with_policy(pipeline, unchecked="keep")


@pytest.fixture
def filtering(tmp_path: Path) -> Iterator[tuple[Pipeline, EmulatorServer]]:
    """A pipeline of four samples a call, and the API that it buys from."""
    with EmulatorServer(EmulatorSettings(latency_seconds=0.02)) as emulator:
        api = ImagePipelineResource(
            api_key="emulator",
            base_url=emulator.url,
            poll_min_seconds=0.02,
            poll_max_seconds=0.2,
        )
        # Most of its pictures are blank on purpose: no reason to stop buying.
        patient = ImageDataset(samples_per_call=4, max_failure_ratio=1)
        with open_pipeline(tmp_path, dataset=patient, api=api) as pipeline:
            yield pipeline, emulator


def test_signals_of_the_api_become_verdicts(
    filtering: tuple[Pipeline, EmulatorServer],
) -> None:
    """One link less of four costs one sample, and black pictures are rejected as blank."""
    pipeline, emulator = filtering
    emulator.set_faults(
        Fault(kind=FaultKind.FEWER_LINKS, prompt_contains="short"),
        Fault(kind=FaultKind.BLACK_IMAGE, prompt_contains="dark"),
    )
    pipeline.add("boats", "fewer", "a short boat", samples=4)
    pipeline.add("boats", "black", "a dark boat", samples=16)
    run = pipeline.run(pipeline.tick()[0].partition_key or "", ok=False)
    frame = pipeline.table("moderated_images", "boats")
    fewer, black = (frame[frame["prompt_id"] == name] for name in ("fewer", "black"))
    assert sorted(fewer["verdict"]) == ["kept", "kept", "kept", "rejected"]
    assert fewer["sample_index"].isna().all()
    assert set(black["moderation_reason"]) == {"blank"}

    share = checks_of(run)["few_are_rejected"]
    assert not share.passed
    assert "17 of 20 judged samples are rejected; the policy allows 50%" in str(share.description)


@pytest.mark.slow
def test_duplicates_are_reported_and_kept_once(pipeline: Pipeline) -> None:
    """Two rows that ask for the same picture are marked, and one of them is kept by policy."""
    for name in ("one", "two"):
        pipeline.add("boats", name, "the same boat", seed=7)
    pipeline.add("boats", "other", "a castle", seed=8)
    check = checks_of(pipeline.sync()["boats"])["few_are_duplicates"]
    assert not check.passed
    assert check.description == "1 of 3 pictures repeat another"
    once = with_policy(pipeline, duplicates="keep_once", near_duplicate_distance=2)
    again(once, "boats")
    assert verdicts(once, "boats") == {
        "one": ("kept", "ok"),
        "two": ("rejected", "duplicate"),
        "other": ("kept", "ok"),
    }


@pytest.mark.slow
def test_events_of_a_large_set_stay_small(pipeline: Pipeline) -> None:
    """Over a hundred samples, with scores and long names: each event is below 48 kB."""
    for number in range(130):
        name = f"{number:04d} {'| *x* [y](z) <b>' * 8}"
        pipeline.add("boats", name, f"boat number {number}", safety_checker=number % 2 == 0)
    pipeline.sync()
    doubting = with_policy(
        pipeline,
        unchecked="classify",
        checked="classify",
        classifier=DOUBTING,
        near_duplicate_distance=30,
        duplicates="keep_once",
        for_sets={"nothing": {}},
    )
    runs = [again(doubting, "boats")]
    kept = with_policy(pipeline, unchecked="quarantine", near_duplicate_distance=8)
    runs.append(again(kept, "boats"))
    for run in runs:
        for event in run.get_asset_materialization_events():
            assert len(serialize_value(event.materialization)) < 48_000
        for check in run.get_asset_check_evaluations():
            assert len(serialize_value(check)) < 48_000
    metadata = metadata_of(runs[0], "moderated_images")
    for picture in ("contact_sheet", "quarantined_pictures"):
        assert "data:image/webp;base64," in str(metadata[picture].value)
    assert {"contact_sheet", "quarantined_pictures"} <= set(
        metadata_of(runs[1], "moderated_images")
    )
