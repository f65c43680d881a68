"""What an answer of the API says: a job, a refusal, or that this is not the API at all."""

from __future__ import annotations

import logging

import httpx

from imagepipeline_dagster.api.contract import (
    NO_MESSAGE,
    Job,
    JobStatus,
    UnreadableAnswer,
    error_text,
    read_job,
    speaks_of_credits,
    speaks_of_key,
)
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    CreditsExhausted,
    Throttled,
    WrongAddress,
)
from imagepipeline_dagster.api.redaction import KeyRedaction
from imagepipeline_dagster.api.retrying import retry_after

__all__ = ["MAX_MESSAGE", "AnswerReader"]

_log = logging.getLogger(__name__)

MAX_MESSAGE = 500
"""Characters of a server's message that go into an error."""

_WHOLE_MESSAGE = 4 * 1024 * 1024


class AnswerReader:
    """Reads the answers of one API, the key blotted out of them; a strange word is logged once."""

    def __init__(self, *, origin: str, redaction: KeyRedaction) -> None:
        self._origin = origin
        self._redaction = redaction
        self._logged_words: set[str] = set()

    def job(self, response: httpx.Response, *, task: str, job_id: str | None = None) -> Job:
        """Return the job that a successful answer tells of.

        Raises:
            UnreadableAnswer: it is no JSON, or tells of none.
        """
        try:
            answer = self._redaction.answer(response.json())
            job = read_job(answer, task=task, job_id=job_id)
        except UnreadableAnswer:
            raise
        except (ValueError, RecursionError):
            kind = self._redaction.text(response.headers.get("Content-Type", "no content type"))
            raise UnreadableAnswer(f"it is not JSON ({kind[:60]})") from None
        if not job.known_word and job.word not in self._logged_words:
            self._logged_words.add(job.word)
            _log.warning("unknown job status %r is taken as pending", job.word[:40])
        links = tuple(self._redaction.link(link) for link in job.download_urls)
        return job.model_copy(update={"download_urls": links})

    def message(self, response: httpx.Response) -> str:
        """Return what an error answer says, whole."""
        try:
            return error_text(self._redaction.answer(response.json()), limit=_WHOLE_MESSAGE)
        except (ValueError, RecursionError):
            return NO_MESSAGE

    def raise_for_throttling(self, response: httpx.Response, message: str) -> None:
        """Raise Throttled where the API refuses for now."""
        code = response.status_code
        if code in (429, 503):
            raise Throttled(f"HTTP {code}: {message}", retry_after=retry_after(response))

    def raise_for_access(self, response: httpx.Response, message: str, *, words: str) -> None:
        """Raise for the answers that mean the same on every endpoint: nothing will go through.

        `words` is the message without what it repeats of the request.

        Raises:
            RunStopper: the account cannot pay, the key is refused, or this is not the API.
        """
        code = response.status_code
        if code == 402 or (response.is_client_error and speaks_of_credits(words)):
            raise CreditsExhausted(f"the account cannot pay (HTTP {code}): {message}")
        if code in (401, 403):
            raise AccessRefused(
                f"the API refused the key (HTTP {code}): {message}; check IMAGEPIPELINE_API_KEY"
            )
        bare = message in (NO_MESSAGE, "Not Found", "Method Not Allowed")
        if response.is_redirect or (code in (404, 405) and bare):
            raise WrongAddress(
                f"{self._origin} answered HTTP {code}: this is not the API; "
                "check IMAGEPIPELINE_BASE_URL"
            )

    def raise_for_account(self, job: Job, *, words: str) -> None:
        """Raise where a POST's answer is FAILURE because of the account: no job came of it.

        The page knows no other sign than FAILURE and a message. `words` is the message without
        what it repeats of the request.

        Raises:
            RunStopper: the account cannot pay, or the key is refused.
        """
        if job.status is not JobStatus.FAILURE or job.id is not None:
            return
        if speaks_of_credits(words):
            raise CreditsExhausted(f"the account cannot pay: {job.error}")
        if speaks_of_key(words):
            raise AccessRefused(
                f"the API refused the key: {job.error}; check IMAGEPIPELINE_API_KEY"
            )
