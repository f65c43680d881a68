"""What becomes of a POST: a request within the documented ranges, and how its job will end."""

from __future__ import annotations

import json
import re

from starlette.exceptions import HTTPException

from imagepipeline_dagster.api.contract import (
    REQUEST_TYPES,
    GenerationRequest,
    RequestInvalid,
    Task,
    request_for,
)
from imagepipeline_dagster.emulator.faults import Fault, FaultKind
from imagepipeline_dagster.emulator.jobs import JobOutcome
from imagepipeline_dagster.emulator.settings import FilterSignal

MAX_SIDE = 2048
"""The emulator's own limit on width and height, in pixels; the API's page names none."""

_MAX_LETTERS = 8000
"""The emulator's own limit on a request's JSON: its job id, which holds it, travels in links."""

FILTERED_WORDS = frozenset({"nsfw", "nude", "explicit", "gore"})
"""Words that make the emulated safety checker hold back every picture of a prompt."""


def read_request(task: Task, body: bytes) -> GenerationRequest:
    """Return the request that a body of `task` holds, whatever its declared content type.

    Fields that the task does not know are passed over, as vendors do.

    Raises:
        HTTPException: 400, when the body is no JSON object.
        RequestInvalid: with every broken field, the emulator's own limits included.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise HTTPException(400, "the body is not a JSON object")
    known = REQUEST_TYPES[task].model_fields
    request = request_for(task, {name: value for name, value in fields.items() if name in known})
    if problems := _own_limits(request):
        raise RequestInvalid(problems)
    return request


def _own_limits(request: GenerationRequest) -> tuple[str, ...]:
    sides: dict[str, int | None] = {"width": request.width, "height": request.height}
    problems = [
        f"{name}: {value} is above {MAX_SIDE}, which is as large as the emulator draws"
        for name, value in sides.items()
        if value is not None and value > MAX_SIDE
    ]
    if len(request.model_dump_json()) > _MAX_LETTERS:
        problems.append(f"prompt: the request is longer than the emulator's {_MAX_LETTERS} letters")
    return tuple(problems)


def outcome_of(
    request: GenerationRequest,
    *,
    fault: Fault | None,
    signal: FilterSignal,
    source_problem: str | None,
) -> JobOutcome:
    """Return how the job of `request` ends: an injected fault goes before all else."""
    every = tuple(range(request.samples))
    match fault:
        case Fault(kind=FaultKind.JOB_FAILURE):
            return JobOutcome(error=fault.message)
        case Fault(kind=FaultKind.BLACK_IMAGE):
            return JobOutcome(delivered=every, black=True)
        case Fault(kind=FaultKind.FEWER_LINKS):
            # The first ones are missing: a reader who numbers the links by place gets it wrong.
            return JobOutcome(delivered=every[fault.missing :])
    if source_problem is not None:
        return JobOutcome(error=source_problem)
    if not (request.safety_checker and _is_filtered(request.prompt)):
        return JobOutcome(delivered=every)
    match signal:
        case FilterSignal.FEWER_LINKS:
            return JobOutcome()
        case FilterSignal.BLACK:
            return JobOutcome(delivered=every, black=True)
        case FilterSignal.FAILURE:
            return JobOutcome(error="NSFW content detected by the safety checker")


def _is_filtered(prompt: str) -> bool:
    return not FILTERED_WORDS.isdisjoint(re.findall(r"[a-z]+", prompt.lower()))
