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
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imagepipeline_dagster.api.contract import request_for
from imagepipeline_dagster.defs.dataset import ImageDataset
from imagepipeline_dagster.emulator.drawing import draw_png
from imagepipeline_dagster.ledger.records import Claim, Hold, Outcome, Owner, StoredSample
from imagepipeline_dagster.ledger.requests import Ledger
from imagepipeline_dagster.ledger.steps import (
    record_claim,
    record_stored,
    record_submitted,
    record_successes,
)
from imagepipeline_dagster.ledger.uses import Use, record_uses
from imagepipeline_dagster.ledger.writer import LedgerWriter
from imagepipeline_dagster.planning.prompts import GenerationDefaults, Prompt, validated_prompts
from imagepipeline_dagster.planning.requests import PlannedRequest, plan_prompt_set, uses_of_plan
from imagepipeline_dagster.purchase.images import images_of_plan
from imagepipeline_dagster.purchase.pictures import read_picture
from imagepipeline_dagster.purchase.purchase import Purchase
from imagepipeline_dagster.resources import ImagePipelineResource
from imagepipeline_dagster.rows import fields_of
from imagepipeline_dagster.storage.contract import Storage
from imagepipeline_dagster.storage.folder import LocalFolder
from imagepipeline_dagster.storage.opening import open_storage
from imagepipeline_dagster.tables.schema import PromptRow

_DATASET = "bench"
_DECODINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the stage came to; `seconds` are of the wall, all others of this process's CPU.

    `ledger_seconds` is what writing to the ledger took on the event loop, `writer_seconds` the CPU
    time of the same in the ledger's own thread, `loop_seconds` that of the event loop in all.
    `peak_mib` is the process's largest resident set.
    """

    seconds: float
    stored: int
    posts: int
    cpu_seconds: float
    loop_seconds: float
    ledger_seconds: float
    writer_seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """An API and how it is used; a resource itself does not travel between processes."""

    url: str
    api_key: str
    max_in_flight: int
    poll_min_seconds: float
    account_max_in_flight: int | None = None

    def resource(self) -> ImagePipelineResource:
        """Return the resource of a run."""
        return ImagePipelineResource(
            api_key=self.api_key,
            base_url=self.url,
            max_in_flight=self.max_in_flight,
            account_max_in_flight=self.account_max_in_flight,
            poll_min_seconds=self.poll_min_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """CPU milliseconds to verify one picture of 768 x 768 pixels.

    The emulator's quick pictures have a palette, which is less to unpack than true colours.
    """

    quick_ms: float
    true_colour_ms: float


def buy_a_set(
    api: Api,
    *,
    jobs: int,
    folder: Path,
    prompt_set: str,
    storage_uri: str | None = None,
    ledger_url: str | None = None,
) -> Stage:
    """Plan and buy a prompt set of so many images, as `generated_images` does.

    Storage and ledger are in the folder where no other place is named.
    """
    with closing(Ledger(ledger_url or _ledger_url(folder))) as ledger:
        storage = open_storage(storage_uri or str(folder / "storage"))
        return _carry_out(api.resource(), _prompts(prompt_set, jobs), ledger, storage)


def store_a_set(api: Api, *, jobs: int, folder: Path, prompt_set: str) -> Stage:
    """Fill the ledger with a set that is bought and stored already; measure its next run."""
    prompts = _prompts(prompt_set, jobs)
    with closing(Ledger(_ledger_url(folder))) as ledger, ledger.engine.begin() as connection:
        rows = {prompt.prompt_id: prompt for prompt in prompts}
        for call in _plan(prompts, ledger, api.resource()):
            _enter(connection, call, rows[call.prompt_id])
    with closing(Ledger(_ledger_url(folder))) as ledger:
        return _carry_out(api.resource(), prompts, ledger, LocalFolder(folder / "storage"))


def measure_decoding(picture_bytes: int) -> Decoding:
    """Measure what looking at a picture costs, on this machine as it is now."""
    request = request_for("text2image", {"model_id": "sdxl", "prompt": "a", "width": 768})
    quick = draw_png(request, seed=1, sample_index=0, image_bytes=picture_bytes)
    return Decoding(
        quick_ms=_decoding_ms(quick),
        true_colour_ms=_decoding_ms(draw_png(request, seed=1, sample_index=0)),
    )


def _decoding_ms(picture: bytes) -> float:
    began = time.thread_time()
    for _ in range(_DECODINGS):
        read_picture(picture)
    return 1000 * (time.thread_time() - began) / _DECODINGS


def _carry_out(
    api: ImagePipelineResource, prompts: list[Prompt], ledger: Ledger, storage: Storage
) -> Stage:
    with _LedgerTimes() as ledger_times:
        began, began_cpu = time.perf_counter(), time.process_time()
        plan = _plan(prompts, ledger, api)
        report = Purchase(
            plan=plan,
            uses=uses_of_plan(plan, prompts, dataset=_DATASET, run_id="bench"),
            means=ImageDataset().means(api, ledger, storage, run_id="bench"),
        ).carry_out()
        images = images_of_plan(prompts, plan, report.entries)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    if report.stopper is not None:
        raise report.stopper
    return Stage(
        seconds=seconds,
        stored=sum(image.outcome == Outcome.GENERATED for image in images),
        posts=report.posts,
        cpu_seconds=cpu_seconds,
        loop_seconds=ledger_times.loop_seconds,
        ledger_seconds=ledger_times.ledger_seconds,
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
    return list(validated_prompts(rows, {}, defaults=GenerationDefaults()))


def _ledger_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.db'}"


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
        **fields_of(call, "request_key", "task", "request", "samples", "embedding_version"),
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
        **fields_of(call, "prompt_set", "prompt_id", "call_index", "request_key"),
        dataset=_DATASET,
        prompt_row=prompt.prompt_row,
        embedding_row=prompt.embedding_row,
        run_id="before",
    )
    record_claim(connection, claim, owner=owner, lease_until=now, seen=0)
    record_uses(connection, [use])
    hold = Hold(request_key=key, owner=owner, attempt=1)
    record_submitted(connection, hold, job_id=f"job-{key}", links=())
    record_stored(connection, hold, sample)
    record_successes(connection, [(hold, ())])


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


class _LedgerTimes:
    """Measures every write to the ledger for as long as the `with` block lasts.

    On the event loop it is the time between being resumed and awaiting again, summed over a write's
    steps; in the writer's thread it is the CPU time of the changes.
    """

    def __init__(self) -> None:
        self.ledger_seconds = 0.0
        self.writer_seconds = 0.0
        self.loop_seconds = 0.0

    def __enter__(self) -> _LedgerTimes:
        self._write = write = LedgerWriter.write_together
        # Of each function one: the writer knows by it what belongs together.
        measured_record = cache(self._measured_record)

        async def measured(writer: LedgerWriter, record: Callable[..., Any], item: object) -> Any:  # noqa: ANN401 - whatever is returned
            # The loop has its thread to itself, so its last write knows the CPU time of all.
            self.loop_seconds = time.thread_time()
            return await _Steps(write(writer, measured_record(record), item), self)

        LedgerWriter.write_together = measured  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        LedgerWriter.write_together = self._write  # type: ignore[method-assign]

    def _measured_record(self, record: Callable[..., Any]) -> Callable[..., Any]:
        def measured(connection: Connection, items: list[Any]) -> Any:  # noqa: ANN401
            began = time.thread_time()
            try:
                return record(connection, items)
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
                self._times.ledger_seconds += time.perf_counter() - began
            yield awaited
