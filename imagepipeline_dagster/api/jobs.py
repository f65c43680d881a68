"""A job of the API, and how an answer about one is read.

The API's page leaves much open: letter case, where an error's message stands, how links are given.
All of it is read tolerantly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from imagepipeline_dagster.api.contract import Task, storable


class JobStatus(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"


_WORDS_OF = {
    JobStatus.PENDING: "pending queued processing in_queue in_progress started starting running",
    JobStatus.SUCCESS: "success succeeded successful completed complete finished done",
    JobStatus.FAILURE: "failure failed error errored canceled cancelled aborted timed_out timeout "
    "rejected terminated killed",
}
"""The API's page knows the first word of each; the others are seen at vendors."""

_STATUS_WORDS = {word: status for status, words in _WORDS_OF.items() for word in words.split()}


class Job(BaseModel):
    """An answer about a job.

    Attributes:
        id: None where the API finished at once and named none.
        word: the status as it was spelled; empty where the answer names a job and no status, or
            says `success: false` alone.
        known_word: whether it is a known one; else `status` is PENDING, and the deadline decides.
        links_told: whether the answer listed links that can all be read, be the list empty. Without
            it nothing is known of what the job delivers.
        unsafe: the links, by their place, to pictures that the answer itself calls unsafe.
        names_itself: whether the answer carries the id.
        named_as_job: whether under a name that is a job's alone.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    id: str | None
    status: JobStatus
    word: str
    known_word: bool = True
    download_urls: tuple[str, ...] = ()
    links_told: bool = True
    unsafe: frozenset[int] = frozenset()
    names_itself: bool = True
    named_as_job: bool = False
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
_ENVELOPES = ("data", "result", "response", "job", "task", "prediction", "output")
_LINK_NAMES = (
    *("download_urls", "download_url", "image_urls", "image_url", "images", "image"),
    *("output", "outputs", "result_url", "result_urls", "urls", "url", "links"),
    *("results", "artifacts", "files"),
)
_LINK_FIELDS = ("url", "href", "uri", "download_url", "image_url")
# How vendors say that their checker saw something: once, for each picture, or beside its link.
_UNSAFE_NAMES = (
    *("nsfw", "is_nsfw", "has_nsfw", "nsfw_detected", "nsfw_content", "nsfw_content_detected"),
    *("has_nsfw_content", "has_nsfw_concept", "has_nsfw_concepts", "nsfw_flagged"),
    *("unsafe", "is_unsafe", "flagged", "is_flagged"),
)
_UNSAFE_WORDS = ("true", "yes", "1", "nsfw", "unsafe")
_ID_NAMES = ("id", "job_id", "task_id")
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def read_job(answer: object, *, task: str, job_id: str | None = None) -> Job:
    """Read an answer of the submit or, with the `job_id` that was asked for, the status endpoint.

    Raises:
        OtherJob: it carries another id.
        UnreadableAnswer: it is no JSON object with a status, or is PENDING without an id.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, Mapping):
        raise UnreadableAnswer("the answer is not a JSON object")
    fields = _opened(answer)
    ids = _ids_in(fields)
    if job_id is not None and ids and not any(_is_same_id(job_id, told) for told in ids):
        raise OtherJob(ids[0])
    spelled = fields.get("status")
    # A question that fails says nothing of its job.
    refused = job_id is None and not ids and fields.get("success") is False
    if not (isinstance(spelled, str) or refused) and (job_id is not None or not ids):
        raise UnreadableAnswer("the answer is not a JSON object with a status")
    word = storable(spelled)[:_MAX_WORD] if isinstance(spelled, str) else ""
    status = JobStatus.FAILURE if refused and not word else _status_of(word)
    own_id = job_id or next(iter(ids), None)
    if status in (None, JobStatus.PENDING) and not own_id:
        named = [fields[name] for name in _ID_NAMES if fields.get(name) is not None]
        said = f": {', '.join(map(repr, named))}" if named else ""
        raise UnreadableAnswer(f"the job is {word} but the answer names no usable id{said}")
    links = _links(fields)
    return Job(
        task=Task(task),
        id=own_id,
        status=status or JobStatus.PENDING,
        word=word,
        known_word=status is not None or not word,
        download_urls=links or (),
        links_told=links is not None,
        unsafe=_unsafe(fields, len(links or ())),
        names_itself=bool(ids),
        named_as_job=any(fields.get(name) for name in _ID_NAMES[1:]),
        error=error_text(answer) if status is JobStatus.FAILURE else None,
    )


def _spelled_alike(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields under names in `snake_case`, and the status under that name."""
    alike = {_WORD_STARTS.sub("_", name).lower(): value for name, value in fields.items()}
    alike |= {name: value for name, value in fields.items() if name in alike}
    if isinstance(alike.get("state"), str):
        alike.setdefault("status", alike["state"])
    return alike


def _opened(answer: Mapping[str, object]) -> Mapping[str, object]:
    """Return an answer without its envelope, and the envelope's fields that it lacks."""
    answer = _spelled_alike(answer)
    for name in _ENVELOPES:
        inner = answer.get(name)
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if not isinstance(inner, Mapping):
            continue
        inner = _spelled_alike(inner)
        if _is_job(inner) or ("status" in inner and "status" not in answer):
            # The id and the links beside it would be the envelope's own.
            kept = (*_MESSAGE_NAMES, *_UNSAFE_NAMES)
            outer = {key: answer[key] for key in kept if key in answer}
            return {**outer, **inner}
        around = {key: value for key, value in answer.items() if key != name and value is not None}
        if any(key in inner for key in _LINK_NAMES):
            # Beside a link an id is the picture's.
            return {key: inner[key] for key in inner if key not in _ID_NAMES} | around
        if _ids_in(inner):
            return {**inner, **around}
    return answer


def _is_job(fields: Mapping[str, object]) -> bool:
    word = fields.get("status")
    return isinstance(word, str) and (_status_of(word) is not None or bool(_ids_in(fields)))


def _status_of(word: str) -> JobStatus | None:
    return _STATUS_WORDS.get(re.sub(r"[\s-]+", "_", word.strip().lower()))


def _ids_in(answer: Mapping[str, object]) -> list[str]:
    """Return the job's ids, but for those that could be neither stored nor asked for."""
    ids = []
    for name in _ID_NAMES:
        value = answer.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**128:
            ids.append(str(value))
        if isinstance(value, str) and 0 < len(value) <= _MAX_ID:
            # The last is the sign in place of what no encoding has.
            ids += [value] if value.isprintable() and "\ufffd" not in value else []
    return ids


def _is_same_id(asked: str, told: str) -> bool:
    """Tell whether two ids are one job's: a UUID may come back in the other case.

    Of an id that mixes both, the case may be all that tells it from another.
    """
    return told == asked or {asked, told} == {asked.lower(), asked.upper()}


def _links(answer: Mapping[str, object]) -> tuple[str, ...] | None:
    """Return the links that an answer lists, under any of their names; None where it lists none.

    A list under another name may be filled where the first one is empty.
    """
    is_listed = False
    for name in _LINK_NAMES:
        value = answer.get(name)
        entries = _entries(value)
        if links := tuple(storable(link) for entry in entries if (link := _link(name, entry))):
            return links
        if any(entries):
            return None
        is_listed = is_listed or isinstance(value, list)
    return () if is_listed else None


def _unsafe(answer: Mapping[str, object], links: int) -> frozenset[int]:
    """Return which of so many links lead to pictures that an answer calls unsafe.

    Where it does not say which of them, all do.
    """
    told = [list(map(_is_unsafe, _flags(answer.get(name)))) for name in _UNSAFE_NAMES]
    told += [
        [_calls_itself_unsafe(entry) for entry in _entries(answer.get(name)) if _link(name, entry)]
        for name in _LINK_NAMES
    ]
    unsafe: set[int] = set()
    for flags in filter(any, told):
        if len(flags) == links:
            unsafe.update(place for place, flag in enumerate(flags) if flag)
        elif flags.count(False) != links:  # else those that are unsafe are left out already
            unsafe.update(range(links))
    return frozenset(unsafe)


def _calls_itself_unsafe(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return False
    fields = _spelled_alike(entry)
    return any(_is_unsafe(flag) for name in _UNSAFE_NAMES for flag in _flags(fields.get(name)))


def _flags(value: object) -> list[object]:
    """Return the flags, one or one a picture; of what was seen, by its kinds, one is made."""
    if isinstance(value, Mapping) and not all(str(key).isdigit() for key in value):
        return [value]
    return _entries(value)


def _is_unsafe(flag: object) -> bool:
    if isinstance(flag, Mapping):  # a number in it may be a limit as well as a score
        return any(_is_unsafe(kind) for kind in flag.values() if isinstance(kind, bool | str))
    if isinstance(flag, str):
        return flag.strip().lower() in _UNSAFE_WORDS
    return isinstance(flag, int | float) and flag >= 0.5  # true, or a score


def _entries(value: object) -> list[object]:
    """Return what a field of links lists: each by itself, be they numbered or grouped."""
    if isinstance(value, Mapping) and not _spelled_alike(value).keys() & {*_LINK_FIELDS}:
        value = list(value.values())
    if not isinstance(value, list):
        return [value] if value else []
    return [entry for item in value for entry in (item if isinstance(item, list) else [item])]


def _link(name: str, entry: object) -> str:
    if isinstance(entry, Mapping):
        fields = _spelled_alike(entry)
        entry = next((fields[field] for field in _LINK_FIELDS if fields.get(field)), None)
    # Under other names there may be a picture itself, in base64.
    return entry if isinstance(entry, str) and (name == "download_urls" or "://" in entry) else ""


_MESSAGE_NAMES = (
    *("error", "message", "detail", "errors", "title"),
    *("msg", "reason", "error_message"),
)


def error_text(answer: object, *, limit: int = 500) -> str:
    """Return the message of an error answer, wherever the API put it: at most `limit` characters.

    A validator's list repeats the input; the text holds the complaints alone.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    message: object = answer if isinstance(answer, str) else ""
    if isinstance(answer, Mapping):
        fields = _opened(answer)
        message = next((fields[name] for name in _MESSAGE_NAMES if fields.get(name)), "")
    if isinstance(message, list) and all(isinstance(item, Mapping) for item in message):
        message = "; ".join(_complaint(item) for item in message)
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return storable(text).strip()[:limit] or NO_MESSAGE


def _complaint(item: Mapping[str, object]) -> str:
    if not isinstance(item.get("msg"), str):
        return json.dumps(item, ensure_ascii=False)
    where = item.get("loc")
    if not isinstance(where, list) or not where:
        return str(item["msg"])
    # A header is no field of the request; it is the key's.
    place = "header " if where[0] == "header" else ""
    return f"{place}{where[-1]}: {item['msg']}"
