"""How the emulated vendor behaves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from imagepipeline_dagster.emulator.faults import Fault


class FilterSignal(StrEnum):
    """How an answer shows that the safety checker held a picture back.

    The API's page leaves it open; each of these is seen at vendors.
    """

    FEWER_LINKS = "fewer_links"
    BLACK = "black"
    FAILURE = "failure"


class EmulatorSettings(BaseModel):
    """The choices about an emulator; the defaults are those of a quick, healthy vendor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: Annotated[str, Field(min_length=1)] = Field(
        "emulator", description="The `API-Key` that requests and status questions must carry."
    )
    latency_seconds: float = Field(
        0.4, ge=0, description="Mean time from a job's start to its end, in seconds."
    )
    latency_spread: float = Field(
        0.25, ge=0, le=1, description="Largest deviation from the mean, as a share of it."
    )
    concurrency: int = Field(
        32, ge=1, description="Jobs that run at the same time; further ones wait in line."
    )
    link_lifetime_seconds: float = Field(
        3600, ge=0, description="How long an image link works after the answer that held it."
    )
    filter_signal: FilterSignal = Field(
        FilterSignal.FEWER_LINKS, description="How a filtered picture shows in the answer."
    )
    faults: tuple[Fault, ...] = Field((), description="What goes wrong from the start.")
    image_bytes: int | None = Field(
        None,
        ge=1024,
        description="Benchmarks: about so many bytes an image, at next to no cost of drawing.",
    )
    answer_at_once: bool = Field(
        default=False,
        description="Answer a POST only when its job is done: SUCCESS with links and no id.",
    )
    seed: int = Field(0, description="Decides latencies and the faults' probabilities.")
