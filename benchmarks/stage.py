"""Ours: a prompt set planned, bought, decoded and stored, measured from outside."""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imagepipeline_dagster.generation.budget import Allowance
from imagepipeline_dagster.generation.images import Outcome, images_of_plan
from imagepipeline_dagster.generation.ledger import Claim, Ledger, Owner, StoredSample, Use
from imagepipeline_dagster.generation.ledger_writer import LedgerWriter
from imagepipeline_dagster.generation.planning import PlannedRequest, plan_prompt_set
from imagepipeline_dagster.generation.prompts import GenerationDefaults, Prompt, validated_prompts
from imagepipeline_dagster.generation.purchase import Purchase
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.storage import LocalFolder
from imagepipeline_dagster.tables.schema import PromptRow

__all__ = ["Stage", "buy_a_set", "store_a_set"]

_DATASET = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the stage came to; `seconds` are of the wall, all others of this process's CPU.

    `loop_seconds` is what writing to the ledger took on the event loop, `writer_seconds` what it
    took in the ledger's own thread. `peak_mib` is the process's largest resident set.
    """

    seconds: float
    stored: int
    posts: int
    cpu_seconds: float
    loop_seconds: float
    writer_seconds: float
    peak_mib: float


def buy_a_set(
    *, url: str, api_key: str, jobs: int, max_in_flight: int, folder: Path, prompt_set: str
) -> Stage:
    """Plan and buy a prompt set of so many images, as `generated_images` does."""
    return _carry_out(
        url=url,
        api_key=api_key,
        prompts=_prompts(prompt_set, jobs),
        max_in_flight=max_in_flight,
        folder=folder,
    )


def store_a_set(*, url: str, api_key: str, jobs: int, folder: Path, prompt_set: str) -> Stage:
    """Fill the ledger with a set that is bought and stored already; measure its next run."""
    prompts = _prompts(prompt_set, jobs)
    api = ImagePipelineResource(api_key=api_key, base_url=url)
    with closing(_ledger(folder)) as ledger, ledger.engine.begin() as connection:
        rows = {prompt.prompt_id: prompt for prompt in prompts}
        for call in _plan(prompts, ledger, api):
            _enter(connection, call, rows[call.prompt_id])
    return _carry_out(url=url, api_key=api_key, prompts=prompts, max_in_flight=16, folder=folder)


def _carry_out(
    *, url: str, api_key: str, prompts: list[Prompt], max_in_flight: int, folder: Path
) -> Stage:
    api = ImagePipelineResource(api_key=api_key, base_url=url, max_in_flight=max_in_flight)
    with closing(_ledger(folder)) as ledger, _LedgerTimes() as ledger_times:
        began, began_cpu = time.perf_counter(), time.process_time()
        plan = _plan(prompts, ledger, api)
        report = Purchase(
            plan=plan,
            prompts=prompts,
            dataset=_DATASET,
            run_id="bench",
            ledger=ledger,
            storage=LocalFolder(folder / "storage"),
            open_client=api.open,
            emulated=True,
            allowance=Allowance(scope=_DATASET),
            settings=api.purchase_settings,
        ).carry_out()
        entries = ledger.entries(call.request_key for call in plan)
        images = images_of_plan(prompts, plan, entries)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    if report.stopper is not None:
        raise report.stopper
    return Stage(
        seconds=seconds,
        stored=sum(image.outcome == Outcome.GENERATED for image in images),
        posts=report.posts,
        cpu_seconds=cpu_seconds,
        loop_seconds=ledger_times.loop_seconds,
        writer_seconds=ledger_times.writer_seconds,
        peak_mib=_peak_mib(),
    )


def _prompts(prompt_set: str, jobs: int) -> list[Prompt]:
    rows = [
        PromptRow(
            prompt_set=prompt_set,
            prompt_id=f"p{number:05}",
            prompt=f"boat number {number} on a lake",
        )
        for number in range(jobs)
    ]
    return validated_prompts(rows, {}, defaults=GenerationDefaults())


def _ledger(folder: Path) -> Ledger:
    return Ledger(f"sqlite:///{folder / 'ledger.db'}")


def _plan(
    prompts: list[Prompt], ledger: Ledger, api: ImagePipelineResource
) -> list[PlannedRequest]:
    return plan_prompt_set(
        prompts,
        prompt_set=prompts[0].prompt_set,
        dataset=_DATASET,
        ledger=ledger,
        origin=api.origin,
        samples_per_call=1,
    )


def _enter(connection: Connection, call: PlannedRequest, prompt: Prompt) -> None:
    """Take a call through its whole life in the ledger."""
    key, owner, now = call.request_key, Owner("bench/0/0"), dt.datetime.now(dt.UTC)
    claim = Claim(
        request_key=key,
        task=call.task,
        request=call.request,
        samples=call.samples,
        embedding_version=call.embedding_version,
        endpoint="http://localhost/sdxl/text2image/v1",
        emulated=True,
        run_id="before",
    )
    sample = StoredSample(
        slot=0,
        sample_index=0,
        outcome=Outcome.GENERATED,
        stored_at=now,
        image_sha256=key,
        uri=f"file:///images/{key[:2]}/{key}.png",
        format="PNG",
        pixel_width=768,
        pixel_height=768,
        bytes=1_000_000,
        value_range=255,
    )
    use = Use(
        prompt_id=call.prompt_id,
        call_index=call.call_index,
        request_key=key,
        prompt_row=prompt.prompt_row,
        embedding_row=prompt.embedding_row,
    )
    Ledger.claim(connection, claim, owner=owner, lease_until=now, seen=0)
    Ledger.used(connection, _DATASET, call.prompt_set, "before", [use])
    Ledger.submitted(connection, key, owner=owner, job_id=f"job-{key}", links=())
    Ledger.stored(connection, key, sample)
    Ledger.succeeded(connection, key)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


class _LedgerTimes:
    """Measures every write to the ledger for as long as the `with` block lasts.

    On the event loop it is the time between being resumed and awaiting again, summed over a write's
    steps; in the writer's thread it is the CPU time of the changes.
    """

    def __init__(self) -> None:
        self.loop_seconds = 0.0
        self.writer_seconds = 0.0

    def __enter__(self) -> _LedgerTimes:
        self._write = write = LedgerWriter.write

        async def measured(
            writer: LedgerWriter, change: Callable[..., Any], *arguments: object, **options: object
        ) -> Any:  # noqa: ANN401 - whatever the change returns
            return await _Steps(
                write(writer, self._measured_change(change), *arguments, **options), self
            )

        LedgerWriter.write = measured  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        LedgerWriter.write = self._write  # type: ignore[method-assign]

    def _measured_change(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: object, **options: object) -> Any:  # noqa: ANN401
            began = time.thread_time()
            try:
                return change(*arguments, **options)
            finally:
                self.writer_seconds += time.thread_time() - began

        return measured


class _Steps:
    """An awaitable whose time on the event loop is counted."""

    def __init__(self, inner: Awaitable[Any], times: _LedgerTimes) -> None:
        self._inner = inner
        self._times = times

    def __await__(self) -> Generator[asyncio.Future[Any], None, Any]:
        steps = self._inner.__await__()
        while True:
            began = time.perf_counter()
            try:
                awaited = steps.send(None)
            except StopIteration as done:
                return done.value
            finally:
                self._times.loop_seconds += time.perf_counter() - began
            yield awaited
