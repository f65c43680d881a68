"""The emulator in a process of its own, and the ideal schedule of its jobs."""

from __future__ import annotations

from multiprocessing.connection import Connection
from random import Random
from typing import Self

import httpx

from benchmarks.processes import forking
from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.emulator.drawing import draw_png
from imagepipeline_dagster.emulator.jobs import Queue
from imagepipeline_dagster.emulator.server import serve
from imagepipeline_dagster.emulator.settings import EmulatorSettings
from imagepipeline_dagster.emulator.stats import EmulatorStats

PICTURE_BYTES = 1_000_000
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class Vendor:
    """An emulator for as long as the `with` block lasts; its CPU time is not the client's."""

    def __init__(
        self,
        *,
        latency_seconds: float = 1.0,
        concurrency: int = 32,
        picture_bytes: int = PICTURE_BYTES,
        answer_at_once: bool = False,
    ) -> None:
        self.settings = EmulatorSettings(
            latency_seconds=latency_seconds,
            latency_spread=0.25,
            concurrency=concurrency,
            image_bytes=picture_bytes,
            answer_at_once=answer_at_once,
        )
        self.url = ""

    def __enter__(self) -> Self:
        context = forking()
        here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.settings, there), daemon=True)
        self._process.start()
        if not here.poll(_START_SECONDS):
            raise TimeoutError("the emulator did not start")
        self.url = here.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(_STOP_SECONDS)

    def stats(self) -> EmulatorStats:
        """Return the emulator's own counts."""
        answer = httpx.get(f"{self.url}/_emulator/stats", trust_env=False)
        return EmulatorStats.model_validate_json(answer.raise_for_status().content)

    def latencies(self, first: int, jobs: int) -> list[float]:
        """Return the seconds of the jobs from the `first` (counted from 0) on.

        The emulator draws them from its seed, in the order of acceptance; so do we.
        """
        chance = Random(f"latencies {self.settings.seed}")  # noqa: S311 - repeatable, not secret
        boundless = self.settings.model_copy(update={"concurrency": first + jobs})
        queue = Queue(boundless, chance=chance)
        return [queue.accept(0.0) for _ in range(first + jobs)][first:]

    def ideal_seconds(self, first: int, jobs: int) -> float:
        """Return when the last of these jobs is done, were all of them sent at once.

        A list schedule: each job in turn goes to the worker that is free first. No client can be
        faster, for the emulator's workers are busy all the time.
        """
        free_at = [0.0] * self.settings.concurrency
        for latency in self.latencies(first, jobs):
            earliest = min(range(len(free_at)), key=free_at.__getitem__)
            free_at[earliest] += latency
        return max(free_at)


def _serve(settings: EmulatorSettings, ready: Connection) -> None:
    # All its quick pictures share what takes longest to draw of the first one.
    request = request_for("text2image", {"model_id": "sdxl", "prompt": "a boat", "width": 768})
    draw_png(request, seed=0, sample_index=0, image_bytes=settings.image_bytes)
    serve(settings, port=0, on_ready=ready.send)
