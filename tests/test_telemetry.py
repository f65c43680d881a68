"""What is counted for OpenTelemetry, read by the reader of its SDK."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from imagepipeline_dagster import ImageDataset
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from tests.pipeline import api_of, open_pipeline
from tests.processes import PROJECT, run


@pytest.fixture(scope="module")
def reader() -> Iterator[InMemoryMetricReader]:
    """What a process with a provider of metrics counts; a process has one, and keeps it."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics.set_meter_provider(provider)
    yield reader
    provider.shutdown()


def _counted(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name.removeprefix("imagepipeline."): [
            (
                dict(point.attributes or {}),
                getattr(point, "value", getattr(point, "count", 0)),
            )
            for point in metric.data.data_points
        ]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_a_purchase_is_counted(tmp_path: Path, reader: InMemoryMetricReader) -> None:
    """Outcomes, money, answers, refusals and open requests are those of the purchase."""
    dataset = ImageDataset(price_per_image=0.5, currency="EUR")
    with (
        EmulatorServer(EmulatorSettings(latency_seconds=0.02)) as emulator,
        open_pipeline(tmp_path, dataset=dataset, api=api_of(emulator)) as pipeline,
    ):
        emulator.set_faults(Fault(kind=FaultKind.RATE_LIMITED, times=1))
        pipeline.add("spring", "one", samples=2)
        pipeline.sync()
    counted = _counted(reader)

    assert counted["images"] == [
        ({"outcome": "generated", "dataset": "image_dataset", "emulated": False}, 2)
    ]
    assert counted["images.bought"] == [({"emulated": False}, 2)]
    assert counted["money"] == [({"emulated": False, "currency": "EUR"}, 1.0)]
    assert counted["api.refusals"] == [({"ruling": "busy"}, 1)]
    assert counted["requests.open"] == [({}, 0)]
    posts = {
        of["http.response.status_code"]: count
        for of, count in counted["api.duration"]
        if of["http.request.method"] == "POST"
    }
    assert posts.pop(429) == 1
    assert sum(posts.values()) == 2


def test_without_opentelemetry_nothing_is_counted(tmp_path: Path) -> None:
    """The package works where the extra is not installed."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from imagepipeline_dagster import telemetry\n"
        "telemetry.jobs_under_way(+1); telemetry.api_answered('GET', status=200, seconds=1.0)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = run(command, cwd=tmp_path, variables={"PYTHONPATH": str(PROJECT)})
    assert done.returncode == 0, done.stderr
