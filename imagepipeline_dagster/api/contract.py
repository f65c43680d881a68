"""The API's contract: what may be asked, and what an answer says.

Source: the SDXL page of ImagePipeline's API documentation. Whatever the page leaves open (letter
case, where an error's message stands) is read tolerantly; whatever it states is enforced before a
request costs money.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from imagepipeline_dagster.errors import CorrectableError

__all__ = [
    "NO_MESSAGE",
    "RANGES",
    "TASKS",
    "GenerationRequest",
    "Image2ImageRequest",
    "InpaintingRequest",
    "Job",
    "JobStatus",
    "OtherJob",
    "Range",
    "RequestInvalid",
    "Task",
    "Text2ImageRequest",
    "UnreadableAnswer",
    "canonical_json",
    "error_text",
    "read_job",
    "request_for",
    "status_path",
    "submit_path",
]


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
        return f"{self.low:g} to {self.high:g}"


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


_Text = Annotated[str, Field(strict=True, min_length=1)]


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

    init_image: _Text

    @field_validator("init_image")
    @classmethod
    def _is_link(cls, value: str) -> str:
        return _public_link(value)


class InpaintingRequest(Image2ImageRequest):
    """A picture painted anew where `mask_image` (a public link) is white."""

    task: ClassVar[Task] = Task.INPAINTING

    mask_image: _Text

    @field_validator("mask_image")
    @classmethod
    def _mask_is_link(cls, value: str) -> str:
        return _public_link(value)


def _public_link(value: str) -> str:
    if not value.lower().startswith(("http://", "https://")):
        raise ValueError("must be a public http:// or https:// link")
    return value


_REQUEST_TYPES: dict[Task, type[GenerationRequest]] = {
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
    given = {_storable(name): value for name, value in parameters.items() if value is not None}
    try:
        return _REQUEST_TYPES[Task(task)].model_validate(given)
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


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


_WORDS_OF = {
    JobStatus.PENDING: "pending queued processing in_queue in_progress started starting running",
    JobStatus.SUCCESS: "success succeeded successful completed complete finished done",
    JobStatus.FAILURE: "failure failed error errored canceled cancelled aborted timed_out timeout",
}
"""The API's page knows the first word of each; the others are seen at vendors."""

_STATUS_WORDS = {word: status for status, words in _WORDS_OF.items() for word in words.split()}


class Job(BaseModel):
    """An answer about a job.

    Attributes:
        id: None where the API finished at once and named none.
        word: the status as it was spelled; empty where the answer names a job and no status.
        known_word: whether it is a known one; else `status` is PENDING, and the deadline decides.
        links_told: whether the answer listed links that can all be read, be the list empty. Without
            it nothing is known of what the job delivers.
        names_itself: whether the answer carries the id.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    id: str | None
    status: JobStatus
    word: str
    known_word: bool = True
    download_urls: tuple[str, ...] = ()
    links_told: bool = True
    names_itself: bool = True
    error: str | None = None


class UnreadableAnswer(ValueError):
    """An answer that does not follow the contract."""


class OtherJob(ValueError):
    """An answer about another job than the one that was asked about; its text is that one's id."""


NO_MESSAGE = "the API gave no message"
"""Stands for the message of an error answer that has none."""

_MAX_WORD = 100
# Quoted in a path, a character may take 12; httpx refuses URLs of more than 65,536.
_MAX_ID = 5_000


# Where vendors wrap the job in an envelope, and how they call its links.
_ENVELOPES = ("data", "result", "response", "job", "output")
_LINK_NAMES = (
    *("download_urls", "download_url", "image_urls", "image_url", "images", "image"),
    *("output", "outputs", "result_url", "result_urls", "urls", "url", "links"),
)
_LINK_FIELDS = ("url", "href", "download_url", "image_url")
_ID_NAMES = ("id", "job_id", "jobId")


def read_job(answer: object, *, task: str, job_id: str | None = None) -> Job:
    """Read an answer of the submit or, with the `job_id` that was asked for, the status endpoint.

    Raises:
        OtherJob: it carries another id.
        UnreadableAnswer: it is no JSON object with a status, or is PENDING without an id.
    """
    if not isinstance(answer, Mapping):
        raise UnreadableAnswer("the answer is not a JSON object")
    fields = _opened(answer)
    ids = _ids_in(fields)
    if job_id is not None and ids and job_id not in ids:
        raise OtherJob(ids[0])
    given = fields.get("status")
    if not isinstance(given, str) and (job_id is not None or not ids):
        raise UnreadableAnswer("the answer is not a JSON object with a status")
    word = _storable(given)[:_MAX_WORD] if isinstance(given, str) else ""
    status = _status_of(word)
    own_id = job_id or next(iter(ids), None)
    if status in (None, JobStatus.PENDING) and not own_id:
        raise UnreadableAnswer(f"the job is {word} but the answer names no usable id")
    links = _links(fields)
    return Job(
        task=Task(task),
        id=own_id,
        status=status or JobStatus.PENDING,
        word=word,
        known_word=status is not None or not word,
        download_urls=links or (),
        links_told=links is not None,
        names_itself=bool(ids),
        error=error_text(answer) if status is JobStatus.FAILURE else None,
    )


def _opened(answer: Mapping[str, object]) -> Mapping[str, object]:
    """Return an answer without its envelope, of which the fields stay that are not told inside."""
    for name in _ENVELOPES:
        inner = answer.get(name)
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if not isinstance(inner, Mapping):
            continue
        if _is_job(inner) or ("status" in inner and "status" not in answer):
            # The id and the links beside it would be the envelope's own.
            outer = {key: answer[key] for key in _MESSAGE_NAMES if key in answer}
            return {**outer, **inner}
        around = {key: told for key, told in answer.items() if key != name and told is not None}
        if any(key in inner for key in _LINK_NAMES):
            # Beside a link an id is the picture's.
            return {key: inner[key] for key in inner if key not in _ID_NAMES} | around
        if _ids_in(inner):
            return {**inner, **around}
    return answer


def _is_job(told: Mapping[str, object]) -> bool:
    word = told.get("status")
    return isinstance(word, str) and (_status_of(word) is not None or bool(_ids_in(told)))


def _status_of(word: str) -> JobStatus | None:
    return _STATUS_WORDS.get(re.sub(r"[\s-]+", "_", word.strip().lower()))


def _ids_in(answer: Mapping[str, object]) -> list[str]:
    """Return the job's ids, but for those that could be neither stored nor asked for."""
    ids = []
    for name in _ID_NAMES:
        value = answer.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**128:
            ids.append(str(value))
        if isinstance(value, str) and 0 < len(value) <= _MAX_ID and value.isprintable():
            ids.append(value)
    return ids


def _links(answer: Mapping[str, object]) -> tuple[str, ...] | None:
    """Return the links that an answer lists, under any of their names; None where it lists none."""
    for name in _LINK_NAMES:
        told = answer.get(name)
        entries = told if isinstance(told, list | tuple) else [told] if told else []
        links = tuple(_storable(link) for entry in entries if (link := _link(name, entry)))
        unreadable = any(entry and not _link(name, entry) for entry in entries)
        if links or (isinstance(told, list) and not unreadable):
            return None if unreadable and not links else links
    return None


def _link(name: str, entry: object) -> str:
    if isinstance(entry, Mapping):
        entry = next((entry[field] for field in _LINK_FIELDS if entry.get(field)), None)
    # Under other names there may be a picture itself, in base64.
    return entry if isinstance(entry, str) and (name == "download_urls" or "://" in entry) else ""


_MESSAGE_NAMES = ("error", "message", "detail", "errors", "title")


def error_text(answer: object, *, limit: int = 500) -> str:
    """Return the message of an error answer, wherever the API put it: at most `limit` characters.

    Of the lists that validators give, only what is wrong is told: they repeat the input as well.
    """
    if not isinstance(answer, Mapping):
        return NO_MESSAGE
    fields = _opened(answer)
    found = next((fields[name] for name in _MESSAGE_NAMES if fields.get(name)), "")
    if isinstance(found, list) and all(isinstance(item, Mapping) for item in found):
        found = "; ".join(_complaint(item) for item in found)
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return _storable(text)[:limit] or NO_MESSAGE


def _complaint(item: Mapping[str, object]) -> str:
    if not isinstance(item.get("msg"), str):
        return json.dumps(item, ensure_ascii=False)
    where = item.get("loc")
    if not isinstance(where, list) or not where:
        return str(item["msg"])
    # A header is none of the request's fields: it is the key's.
    place = "header " if where[0] == "header" else ""
    return f"{place}{where[-1]}: {item['msg']}"


def _storable(text: str) -> str:
    """Return text without what a database refuses: halves of characters and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
