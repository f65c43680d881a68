"""The API's contract: the requests that it takes, and the paths that they go to.

Source: the SDXL page of ImagePipeline's API documentation. Every rule that it states is enforced
before a request costs money.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from imagepipeline_dagster.errors import CorrectableError


class Task(StrEnum):
    """What the API makes a picture from."""

    TEXT2IMAGE = "text2image"
    IMAGE2IMAGE = "image2image"
    INPAINTING = "inpainting"


TASKS: tuple[str, ...] = tuple(task.value for task in Task)


class Range(NamedTuple):
    """A closed interval of permitted values."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


RANGES: dict[str, Range] = {
    "num_inference_steps": Range(1, 100),
    "strength": Range(0, 1),
    "samples": Range(1, 4),
    "guidance_scale": Range(1, 20),
    # The page asks for 768 or more without a limit; this one only refuses what cannot be meant.
    "width": Range(1, 8192),
    "height": Range(1, 8192),
    # -1 and other negative seeds mean "random" to such models: the picture could not be made again.
    "seed": Range(0, 2**63 - 1),
}
"""The permitted values of each number, both ends included."""


class RequestInvalid(CorrectableError, ValueError):
    """A request breaks the contract; `problems` holds one sentence for each broken field."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def _bounded(field: str, *, whole: bool = False) -> Any:  # noqa: ANN401 - pydantic's own type
    low, high = RANGES[field]
    if whole:
        return Field(strict=True, ge=int(low), le=int(high))
    return Field(strict=True, ge=low, le=high, allow_inf_nan=False)


def _public_link(value: str) -> str:
    if not value.lower().startswith(("http://", "https://")):
        raise ValueError("must be a public http:// or https:// link")
    return value


_Text = Annotated[str, Field(strict=True, min_length=1)]
_Link = Annotated[_Text, AfterValidator(_public_link)]


class GenerationRequest(BaseModel):
    """One call of the API: what is POSTed to `/sdxl/{task}/v1`.

    A field left at None is not sent. Sizes are pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    task: ClassVar[Task]

    model_id: _Text
    prompt: _Text
    negative_prompt: Annotated[str, Field(strict=True)] | None = None
    num_inference_steps: Annotated[int, _bounded("num_inference_steps", whole=True)] | None = None
    guidance_scale: Annotated[float, _bounded("guidance_scale")] | None = None
    strength: Annotated[float, _bounded("strength")] | None = None
    samples: Annotated[int, _bounded("samples", whole=True)] = 1
    width: Annotated[int, _bounded("width", whole=True)] | None = None
    height: Annotated[int, _bounded("height", whole=True)] | None = None
    seed: Annotated[int, _bounded("seed", whole=True)] | None = None
    embeddings: _Text | None = None
    safety_checker: Annotated[bool, Field(strict=True)] = True
    refiner: Annotated[bool, Field(strict=True)] | None = None
    scheduler: _Text | None = None

    def payload(self) -> dict[str, Any]:
        """Return the JSON body, without the fields that are None."""
        return self.model_dump(exclude_none=True)


class Text2ImageRequest(GenerationRequest):
    """A picture from words."""

    task: ClassVar[Task] = Task.TEXT2IMAGE


class Image2ImageRequest(GenerationRequest):
    """A picture from words and a picture; `init_image` is a public link."""

    task: ClassVar[Task] = Task.IMAGE2IMAGE

    init_image: _Link


class InpaintingRequest(Image2ImageRequest):
    """A picture painted anew where `mask_image` (a public link) is white."""

    task: ClassVar[Task] = Task.INPAINTING

    mask_image: _Link


REQUEST_TYPES: dict[Task, type[GenerationRequest]] = {
    request_type.task: request_type
    for request_type in (Text2ImageRequest, Image2ImageRequest, InpaintingRequest)
}


def request_for(task: str, parameters: Mapping[str, object]) -> GenerationRequest:
    """Return the request of `task` with these parameters; None counts as absent.

    Raises:
        RequestInvalid: with every problem at once, each naming the field, the value and what is
            permitted.
    """
    if task not in TASKS:
        raise RequestInvalid((f"task: {task!r} is not one of {', '.join(TASKS)}",))
    # pydantic gives up on a name that is no proper text without saying which field it was.
    present = {storable(name): value for name, value in parameters.items() if value is not None}
    try:
        return REQUEST_TYPES[Task(task)].model_validate(present)
    except ValidationError as error:
        problems = tuple(_problem(details, task) for details in error.errors())
        raise RequestInvalid(problems) from None


def _problem(details: ErrorDetails, task: str) -> str:
    field = str(details["loc"][0])
    value = details["input"]
    match details["type"]:
        case "missing":
            return f"{field}: is missing, and {task} needs it"
        case "extra_forbidden":
            return f"{field}: is not a parameter of {task}"
        case "string_too_short":
            return f"{field}: is empty"
        case "string_type":
            return f"{field}: {value!r} is not text"
        case "bool_type":
            return f"{field}: {value!r} is not true or false"
        case "value_error":
            return f"{field}: {value!r} {details['ctx']['error']}"
        case _ if field in RANGES:
            kind = "a whole number" if "int" in details["type"] else "a number"
            what = "is outside" if "than" in details["type"] else f"is not {kind} in"
            return f"{field}: {value!r} {what} {RANGES[field]}"
        case _:
            return f"{field}: {value!r}: {details['msg']}"


def canonical_json(value: Mapping[str, object]) -> str:
    """Return the one spelling of `value`: keys sorted, no blanks, characters as they are."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def submit_path(task: str) -> str:
    """Return the path that a request of `task` is POSTed to, below the API's base URL."""
    return f"/sdxl/{quote(task, safe='')}/v1"


def status_path(task: str, job_id: str) -> str:
    """Return the path of a job's status, below the API's base URL."""
    # An id of dots alone would be taken for a step up in the path.
    quoted = quote(job_id, safe="") if job_id.strip(".") else "%2E" * len(job_id)
    return f"{submit_path(task)}/status/{quoted}"


def storable(text: str) -> str:
    """Return text without what a database refuses: halves of characters and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
