"""Answers as the vendor writes them, and as faults spoil them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import shake_256
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from imagepipeline_dagster.api.contract import RequestInvalid, status_path
from imagepipeline_dagster.api.jobs import JobStatus
from imagepipeline_dagster.emulator.faults import Fault, FaultKind

DROP_EXTENSION = "imagepipeline.drop"
"""The ASGI extension by which our server lets an answer close its connection unanswered."""

_PAGE = """<!doctype html>
<html><head><title>Just a moment</title></head>
<body><h1>We will be right back</h1><p>The service is being updated.</p></body></html>
"""


def failure(message: str, *, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error answer."""
    body = {"status": JobStatus.FAILURE, "error": message}
    return JSONResponse(body, status_code=status, headers=headers)


def invalid(_http: Request, error: RequestInvalid) -> Response:
    """Return the answer to a request outside the documented ranges: 422 with every field."""
    fields = [problem.partition(": ") for problem in error.problems]
    detail = [{"loc": ["body", name], "msg": message} for name, _, message in fields]
    body = {"status": JobStatus.FAILURE, "error": str(error), "detail": detail}
    return JSONResponse(body, status_code=422)


def fault_answer(fault: Fault | None, *, task: str = "", job_id: str = "") -> Response | None:
    """Return the answer that a fault puts in place of the real one; None where none does."""
    if fault is None:
        return None
    if fault.kind is FaultKind.REDIRECT_TO_JOB:
        return Response(status_code=303, headers={"Location": status_path(task, job_id)})
    answer = _ANSWERS.get(fault.kind)
    return answer(fault, job_id) if answer is not None else None


def _server_error(fault: Fault, _job_id: str) -> Response:
    wait = _wait(fault) if fault.status == 503 and not fault.after_accepting else None
    return failure("the server is not well", status=fault.status, headers=wait)


def _wait(fault: Fault) -> dict[str, str]:
    return {"Retry-After": str(fault.retry_after_seconds)}


_ANSWERS: Mapping[FaultKind, Callable[[Fault, str], Response]] = {
    FaultKind.RATE_LIMITED: lambda fault, _: failure(
        "too many requests", status=429, headers=_wait(fault)
    ),
    FaultKind.OUT_OF_QUOTA: lambda _, __: failure(
        "You exceeded your current quota, check your billing", status=429
    ),
    FaultKind.REFUSED: lambda fault, _: failure(fault.message, status=fault.status),
    FaultKind.SERVER_ERROR: _server_error,
    FaultKind.DROPPED_ANSWER: lambda _, __: DroppedAnswer(),
    FaultKind.HTML_PAGE: lambda _, __: HTMLResponse(_PAGE),
    FaultKind.UNKNOWN_STATUS: lambda fault, job_id: JSONResponse(
        {"status": fault.word, "id": job_id}
    ),
    FaultKind.STUCK: lambda _, job_id: JSONResponse({"status": JobStatus.PENDING, "id": job_id}),
    FaultKind.EXPIRED_LINK: lambda _, __: failure("the link has expired", status=403),
    FaultKind.LATE_LINK: lambda _, __: failure("no such picture yet", status=404),
}

_RETOLD: Mapping[FaultKind, Callable[[dict[str, Any], Fault], dict[str, Any]]] = {
    FaultKind.ENVELOPE: lambda job, _: {"data": job, "success": True},
    FaultKind.MISSING_LINKS: lambda job, _: {**job, "download_urls": None},
    FaultKind.EMPTY_LINKS: lambda job, _: {**job, "download_urls": []},
    FaultKind.USELESS_LINKS: lambda job, fault: {
        **job,
        "download_urls": [fault.link for _ in job.get("download_urls") or ()],
    },
    FaultKind.OTHER_JOB: lambda job, _: {**job, "id": "another-job"},
}


def retold(job: dict[str, Any], fault: Fault | None) -> Response:
    """Return an answer about a job, as `fault` spells it."""
    spell = _RETOLD.get(fault.kind) if fault is not None else None
    return JSONResponse(spell(job, fault) if spell and fault else job)


def damaged(image: bytes, fault: Fault | None) -> bytes:
    """Return the bytes as a download under `fault` delivers them."""
    half = len(image) // 2
    if fault is not None and fault.kind is FaultKind.TRUNCATED_BYTES:
        return image[:half]
    if fault is not None and fault.kind is FaultKind.CORRUPT_BYTES:
        return image[:half] + shake_256(image).digest(len(image) - half)
    return image


class DroppedAnswer(Response):
    """Closes the connection without a word; a server without the extension raises instead."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Close the connection, and return when it is closed."""
        drop = scope.get("extensions", {}).get(DROP_EXTENSION)
        if drop is None:
            raise ConnectionResetError("the emulator drops this answer")
        drop()
        # The server counts an answer as missing unless it has seen the connection end.
        while (await receive())["type"] != "http.disconnect":
            pass
