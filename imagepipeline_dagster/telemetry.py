"""Figures for OpenTelemetry, counted where its API is installed (the extra `[otel]`).

Without the API, or without a provider of metrics in the process, nothing is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def _instrument(kind: str, name: str, unit: str) -> Any:  # noqa: ANN401 - each kind has its own
    try:
        from opentelemetry import metrics
    except ImportError:
        return None
    meter = metrics.get_meter("imagepipeline_dagster")
    return getattr(meter, f"create_{kind}")(f"imagepipeline.{name}", unit)


def _add(kind: str, name: str, unit: str, amount: float, **attributes: str | bool) -> None:
    counter = _instrument(kind, name, unit)
    if counter is not None:
        counter.add(amount, attributes)


def api_answered(method: str, *, status: int, seconds: float) -> None:
    """Record how long the API took for an answer: a POST submits, a GET asks for a job."""
    histogram = _instrument("histogram", "api.duration", "s")
    if histogram is not None:
        histogram.record(
            seconds, {"http.request.method": method, "http.response.status_code": status}
        )


def api_refused(ruling: str) -> None:
    """Count a POST whose answer is no job, by what that means."""
    _add("counter", "api.refusals", "{request}", 1, ruling=ruling)


def jobs_under_way(change: int) -> None:
    """Add to the requests that are being sent or waited for."""
    _add("up_down_counter", "requests.open", "{request}", change)


def images_bought(images: int, *, money: float | None, currency: str, emulated: bool) -> None:
    """Count images that the API took to make, and their price where it is known."""
    _add("counter", "images.bought", "{image}", images, emulated=emulated)
    if money is not None:
        _add("counter", "money", "1", money, currency=currency, emulated=emulated)


def images_ended(outcomes: Mapping[str, int], *, dataset: str, emulated: bool) -> None:
    """Count what became of the samples that a run bought."""
    for outcome, number in outcomes.items():
        of = {"outcome": outcome, "dataset": dataset}
        _add("counter", "images", "{image}", number, **of, emulated=emulated)
