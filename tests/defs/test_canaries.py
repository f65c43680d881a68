"""Canaries in the pipeline: a job buys, a check compares, the card and an alert tell."""

from __future__ import annotations

import datetime as dt
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from imagepipeline_dagster import (
    Alert,
    DatasetRelease,
    ImageDataset,
    build_alerts,
    build_definitions,
)
from imagepipeline_dagster.ledger.lineage import lineage_of
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.purchase.canaries import Canaries, buy_canaries
from imagepipeline_dagster.purchase.replay import bought_sample, replays_of
from tests.buying import Buyer
from tests.conftest import StartEmulator
from tests.pipeline import Pipeline, checks_of, open_pipeline


def _pinned(pipeline: Pipeline, image: str, told: list[Alert]) -> Pipeline:
    """Return the same pipeline after its code location was loaded with a canary and alerts."""
    dataset = pipeline.dataset.changed(canaries=Canaries(images=(image[:8],)))
    definitions = build_definitions(dataset, pipeline.resources, start=True)
    return Pipeline(
        instance=pipeline.instance,
        definitions=dg.Definitions.merge(
            definitions, dg.Definitions(sensors=build_alerts(dataset, told.append))
        ),
        dataset=dataset,
        resources=pipeline.resources,
        folder=pipeline.folder,
    )


def _bought(pipeline: Pipeline) -> dg.AssetCheckEvaluation:
    """Buy the canaries by their job; return the check."""
    job = pipeline.definitions.resolve_job_def("shop_buy_canaries")
    result = job.execute_in_process(instance=pipeline.instance)
    return checks_of(result)["model_has_not_drifted"]


def test_a_canarys_day_is_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines whose clocks differ around midnight buy a canary once in each day of the ledger."""
    with open_pipeline(tmp_path, dataset=ImageDataset(key_prefix=("shop",))) as opened:
        opened.add("boats", "raft")
        opened.sync()
        image = str(opened.table("moderated_images", "boats")["image_sha256"][0])
        pipeline = _pinned(opened, image, [])
        for day in (1, 1, 2):
            monkeypatch.setattr(Ledger, "today", lambda _, day=day: dt.date(2020, 1, day))
            _bought(pipeline)
        with closing(Ledger(pipeline.ledger_url)) as ledger:
            original = bought_sample(lineage_of(ledger, image))
            assert len(replays_of(original, ledger)) == 2


def test_a_drifted_model_is_told(tmp_path: Path, start_emulator: StartEmulator) -> None:
    """A canary that gives another picture fails the check, and the next release says since when."""
    told: list[Alert] = []
    with open_pipeline(tmp_path, dataset=ImageDataset(key_prefix=("shop",))) as opened:
        opened.add("boats", "raft")
        opened.sync()
        image = str(opened.table("moderated_images", "boats")["image_sha256"][0])
        pipeline = _pinned(opened, image, told)
        assert pipeline.repository.has_schedule_def("shop_canaries_schedule")
        assert not opened.repository.has_schedule_def("shop_canaries_schedule")
        pipeline.tick("run_alerts_sensor")
        assert _bought(pipeline).passed
        with closing(Ledger(pipeline.ledger_url)) as ledger:
            other = Buyer(
                ledger_url=pipeline.ledger_url,
                folder=pipeline.folder / "data",
                base_url=start_emulator(image_bytes=20_000).url,
            )
            buy_canaries(
                [image],
                other.means(ledger, run_id="another day"),
                approval=pipeline.dataset.approval,
                today=dt.date(2020, 1, 1),
            )
        check = _bought(pipeline)
        today = f"{dt.datetime.now(dt.UTC):%Y-%m}"
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert f"since {today}" in str(check.description)

        release: DatasetRelease = pipeline.release().output_for_node("shop__image_dataset")
        drift = release.manifest.drift
        assert drift is not None
        assert (drift.canaries, drift.drifted) == (1, 1)
        card = release.storage.read(f"{release.manifest.path}/README.md").decode()
        assert "**The hosted model drifted** between" in card
        pipeline.tick("run_alerts_sensor")
        assert [alert.title for alert in told] == [
            "shop_buy_canaries: 1 checks failed for shop/image_dataset"
        ]
