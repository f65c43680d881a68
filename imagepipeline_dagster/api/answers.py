"""An answer of the API read once, the key blotted out of it."""

from __future__ import annotations

import json
import logging
from urllib.parse import unquote

import httpx

from imagepipeline_dagster.api.contract import GenerationRequest, Task, status_path
from imagepipeline_dagster.api.errors import OtherJobAnswered
from imagepipeline_dagster.api.jobs import (
    NO_MESSAGE,
    Job,
    JobStatus,
    OtherJob,
    UnreadableAnswer,
    error_text,
    read_job,
)
from imagepipeline_dagster.api.redaction import KeyRedaction
from imagepipeline_dagster.api.retrying import longest_pause, retry_after
from imagepipeline_dagster.api.rulings import Answer
from imagepipeline_dagster.api.words import asked_pause, without_echo, without_queries

_log = logging.getLogger(__name__)

# Characters of a server's message that go into an error; its words are looked at whole.
_MAX_MESSAGE = 500
_WHOLE_MESSAGE = 4 * 1024 * 1024


class AnswerReader:
    """Reads the answers of one API, the key blotted out of them; a strange word is logged once."""

    def __init__(self, *, redaction: KeyRedaction) -> None:
        self._redaction = redaction
        self._logged_words: set[str] = set()

    def read(
        self,
        response: httpx.Response,
        *,
        task: str,
        job_id: str | None = None,
        request: GenerationRequest | None = None,
    ) -> Answer:
        """Return the answer to a POST of `request`, or to a question about the job of `job_id`.

        Raises:
            OtherJobAnswered: it is about another job.
        """
        location = _without_query(response.headers.get("Location", ""))
        kind = self._redaction.text(response.headers.get("Content-Type", "no content type"))
        is_page = "html" in kind.lower() or response.content.lstrip()[:1] == b"<"
        job, unreadable = None, ""
        answer: object = None
        try:
            answer = self._redaction.answer(_json_of(response))
            job = self._job(answer, task=task, job_id=job_id)
        except OtherJob as error:
            asked, told = self._redaction.text(job_id or ""), self._redaction.text(str(error))
            raise OtherJobAnswered(
                f"the answer about job {asked} is about another one, {told[:100]}"
            ) from None
        except UnreadableAnswer as error:
            unreadable = without_queries(self._redaction.text(str(error)))[:_MAX_MESSAGE]
        except (ValueError, RecursionError):
            unreadable = f"it is not JSON ({kind[:60]})"
            answer = None if is_page else response.content.decode(errors="replace")
        if isinstance(answer, str) and response.status_code in (404, 405):
            answer = None  # a router that knows no such path says so in plain words, not the API
        named = _job_at(location, task=task)
        if job is None and named and not self._redaction.holds_key(named):
            job = Job(task=Task(task), id=named, status=JobStatus.PENDING, word="redirected")
        # Once more: a message may hold the key that stays in a link.
        text = self._redaction.text(error_text(answer, limit=_WHOLE_MESSAGE))
        if job is not None and job.error is not None:
            job = job.model_copy(update={"error": text[:_MAX_MESSAGE]})
        words = "" if text == NO_MESSAGE else text
        pause = retry_after(response)
        return Answer(
            status=response.status_code,
            job=job,
            unreadable=unreadable,
            message=without_queries(text[:_MAX_MESSAGE]),
            words=without_echo(words, request) if request else words,
            is_page=is_page,
            retry_after=pause,
            pause=longest_pause(asked_pause(words)) if pause is None else pause,
            location=self._redaction.text(location),
        )

    def _job(self, answer: object, *, task: str, job_id: str | None) -> Job:
        job = read_job(answer, task=task, job_id=job_id)
        if job_id is None and job.id is not None and self._redaction.holds_key(job.id):
            raise UnreadableAnswer("its job id holds the API key")
        if not job.known_word and job.word not in self._logged_words:
            self._logged_words.add(job.word)
            _log.warning("unknown job status %r is taken as pending", job.word[:40])
        links = tuple(self._redaction.link(link) for link in job.download_urls)
        return job.model_copy(update={"download_urls": links})


def _json_of(response: httpx.Response) -> object:
    """Return the JSON of an answer; what of its texts is not UTF-8 says nothing of the rest."""
    try:
        return response.json()
    except UnicodeDecodeError:
        return json.loads(response.content.decode(errors="replace"))


def _without_query(location: str) -> str:
    return location.partition("?")[0].partition("#")[0]


def _job_at(location: str, *, task: str) -> str | None:
    """Return the id of the job whose status page a `Location` names."""
    quoted = location.rpartition(status_path(task, ""))[2]
    return unquote(quoted) if status_path(task, "") in location and "/" not in quoted else None
