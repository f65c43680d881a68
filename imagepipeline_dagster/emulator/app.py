"""The routes of the emulated API, of its image links and of its admin endpoints."""

from __future__ import annotations

import asyncio
import hmac
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from imagepipeline_dagster.api.contract import (
    TASKS,
    GenerationRequest,
    Image2ImageRequest,
    InpaintingRequest,
    RequestInvalid,
    Task,
)
from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator.answers import (
    DroppedAnswer,
    damaged,
    failure,
    fault_answer,
    invalid,
    retold,
)
from imagepipeline_dagster.emulator.drawing import black_png, chance_of, draw_png
from imagepipeline_dagster.emulator.faults import Fault, FaultPlan, FaultRules, Operation
from imagepipeline_dagster.emulator.intake import outcome_of, read_request
from imagepipeline_dagster.emulator.jobs import JobTicket, Queue, UnknownJob, signature
from imagepipeline_dagster.emulator.settings import EmulatorSettings
from imagepipeline_dagster.emulator.sources import SourceProblem, Sources
from imagepipeline_dagster.emulator.stats import EmulatorStats, Tally

_GLANCE_SECONDS = 0.05
"""How long an answer that waits for its job goes without a look at whether the server stops."""


class Emulator:
    """One emulated vendor. All but `stats` and `set_faults` runs on the event loop."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        # Apart from each other, so that a fault more or less changes no job's latency.
        self._faults = FaultPlan(settings.faults, chance=chance_of(f"faults {settings.seed}"))
        self._queue = Queue(settings, chance=chance_of(f"latencies {settings.seed}"))
        self._sources = Sources()
        self._tally = Tally()
        self._ending = False
        self._artists = ThreadPoolExecutor(max_workers=2, thread_name_prefix="emulator-drawing")

    def app(self) -> Starlette:
        """Return the ASGI application."""
        # Each takes its own error; Starlette's types know of such that take any.
        handlers: Any = {HTTPException: _http_error, RequestInvalid: invalid}
        return Starlette(
            routes=[
                Route("/sdxl/{task}/v1", self._submit, methods=["POST"]),
                Route("/sdxl/{task}/v1/status/{job_id}", self._status, methods=["GET"]),
                Route("/images/{job_id}/{sample:int}.png", self._download, methods=["GET"]),
                Route("/_emulator/faults", self._admin_faults, methods=["GET", "PUT"]),
                Route("/_emulator/stats", self._admin_stats, methods=["GET"]),
            ],
            exception_handlers=handlers,
        )

    @property
    def stats(self) -> EmulatorStats:
        """The counts as they stand; may be read from any thread."""
        return self._tally.snapshot()

    def set_faults(self, *faults: Fault) -> None:
        """Put other faults in force; none: all is well. May be called from any thread."""
        self._faults.replace(faults)

    def end_waits(self) -> None:
        """Drop the answers that wait for their job, so that a server can stop at once."""
        self._ending = True

    def close(self) -> None:
        """Let go of the drawing threads."""
        self._artists.shutdown(wait=True, cancel_futures=True)

    # The API

    async def _submit(self, http: Request) -> Response:
        self._tally.posts_received += 1
        try:
            self._check_key(http)
            request = read_request(_task(http), await http.body())
        except (HTTPException, RequestInvalid):
            self._tally.posts_refused += 1
            raise
        fault = self._meet(Operation.SUBMIT, request)
        if fault is not None and not fault.accepts_job:
            self._tally.posts_refused += 1
            return fault_answer(fault) or failure("the server is not well", status=500)
        job = await self._accept(request, fault)
        if (spoiled := fault_answer(fault, task=request.task, job_id=job.id())) is not None:
            return spoiled
        if not self.settings.answer_at_once:
            return retold(_pending(job), fault)
        while (left := job.ready_at - time.time()) > 0:
            if self._ending:
                return DroppedAnswer()
            await asyncio.sleep(min(left, _GLANCE_SECONDS))
        return retold(self._ended(job, http), fault)

    async def _accept(self, request: GenerationRequest, fault: Fault | None) -> JobTicket:
        now = time.time()
        ready_at = self._queue.accept(now)
        self._tally.accepted(request, now, ready_at)
        # Looked at now, for the id has to tell any later process how the job ends.
        problem = await self._source_problem(request)
        signal = self.settings.filter_signal
        outcome = outcome_of(request, fault=fault, signal=signal, source_problem=problem)
        return JobTicket.issue(request, accepted_at=now, ready_at=ready_at, outcome=outcome)

    async def _source_problem(self, request: GenerationRequest) -> str | None:
        for field in ("init_image", "mask_image"):
            link = getattr(request, field, None)
            try:
                if link is not None:
                    await self._sources.open(link)
            except SourceProblem as problem:
                return f"{field}: {problem}"
        return None

    async def _status(self, http: Request) -> Response:
        self._tally.status_requests += 1
        self._check_key(http)
        job = _read_job(http, task=_task(http))
        fault = self._meet(Operation.STATUS, job.request)
        if (spoiled := fault_answer(fault, job_id=job.id())) is not None:
            return spoiled
        pending = time.time() < job.ready_at
        return retold(_pending(job) if pending else self._ended(job, http), fault)

    def _ended(self, job: JobTicket, http: Request) -> dict[str, object]:
        """Return what the API's page says of a job that is done: links, or an error alone."""
        if job.outcome.error is not None:
            return {"status": JobStatus.FAILURE, "error": job.outcome.error}
        job_id, origin = job.id(), str(http.base_url).rstrip("/")
        expires = round((time.time() + self.settings.link_lifetime_seconds) * 1000)
        links = [
            f"{origin}/images/{job_id}/{k}.png?expires={expires}"
            f"&signature={signature(job_id, k, expires)}"
            for k in job.outcome.delivered
        ]
        return {"status": JobStatus.SUCCESS, "download_urls": links}

    async def _download(self, http: Request) -> Response:
        self._tally.downloads += 1
        self._tally.downloads_with_key += "api-key" in http.headers
        job = _read_job(http)
        sample = http.path_params["sample"]
        _check_link(http, sample)
        fault = self._meet(Operation.DOWNLOAD, job.request)
        if (spoiled := fault_answer(fault)) is not None:
            return spoiled
        image = await self._image(job, sample)
        return Response(damaged(image, fault), media_type="image/png")

    async def _image(self, job: JobTicket, sample: int) -> bytes:
        request = job.request
        if job.outcome.black:
            return black_png(request)
        try:
            init = mask = None
            if isinstance(request, Image2ImageRequest):
                init = await self._sources.open(request.init_image)
            if isinstance(request, InpaintingRequest):
                mask = await self._sources.open(request.mask_image)
        except SourceProblem as problem:
            # It could be had when the job was accepted, but this process has to fetch it anew.
            raise HTTPException(502, str(problem)) from problem

        draw = partial(
            draw_png,
            request,
            seed=job.seed,
            sample_index=sample,
            init=init,
            mask=mask,
            image_bytes=self.settings.image_bytes,
        )
        # Beside the event loop, so that other answers go on.
        return await asyncio.get_running_loop().run_in_executor(self._artists, draw)

    def _meet(self, operation: Operation, request: GenerationRequest) -> Fault | None:
        fault = self._faults.meet(operation, request.prompt)
        if fault is not None:
            self._tally.faults[fault.kind] += 1
        return fault

    def _check_key(self, http: Request) -> None:
        key = http.headers.get("api-key", "")
        if not hmac.compare_digest(key.encode(), self.settings.api_key.encode()):
            raise HTTPException(401, "the API-Key header is missing or wrong")

    # The admin endpoints

    async def _admin_faults(self, http: Request) -> Response:
        _check_local(http)
        if http.method == "PUT":
            try:
                rules = FaultRules.model_validate_json(await http.body())
            except ValidationError as error:
                raise HTTPException(422, str(error)) from None
            self.set_faults(*rules.faults)
        return _json(FaultRules(faults=self._faults.faults))

    async def _admin_stats(self, http: Request) -> Response:
        _check_local(http)
        return _json(self.stats)


def _pending(job: JobTicket) -> dict[str, object]:
    return {"status": JobStatus.PENDING, "id": job.id()}


def _task(http: Request) -> Task:
    task: str = http.path_params["task"]
    if task not in TASKS:
        raise HTTPException(404, f"no such task: {task}")
    return Task(task)


def _read_job(http: Request, *, task: str | None = None) -> JobTicket:
    try:
        return JobTicket.read(http.path_params["job_id"], task=task)
    except UnknownJob as error:
        raise HTTPException(404, str(error)) from None


def _check_link(http: Request, sample: int) -> None:
    query = http.query_params
    expires = query.get("expires", "")
    expires_at = int(expires) if expires.isdecimal() else 0
    if query.get("signature") != signature(http.path_params["job_id"], sample, expires_at):
        raise HTTPException(403, "the link's signature is wrong")
    if time.time() * 1000 >= expires_at:
        raise HTTPException(403, "the link has expired")


def _check_local(http: Request) -> None:
    """Keep the admin endpoints to this machine, wherever the server was told to listen."""
    try:
        local = http.client is not None and ip_address(http.client.host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise HTTPException(403, "the admin endpoints answer on loopback only")


def _http_error(_http: Request, error: HTTPException) -> Response:
    return failure(error.detail, status=error.status_code)


def _json(model: FaultRules | EmulatorStats) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")
