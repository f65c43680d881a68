"""What an answer proves: one table for every endpoint, without a connection.

A POST buys a picture. Its answer proves a job, or that nothing was bought, or neither:

- An answer that names a job is a job, whatever its HTTP status.
- It bought nothing where the API judged the request itself (400, 401, 402, 403, 404, 405, 410, 413,
  415, 422), would not take it yet (425, 503 with Retry-After, `refusing_statuses`), asked for it
  elsewhere (307, 308), or said FAILURE and named no job.
- Everything else is unknown: it may have been bought.

Its words say who refused it, and after them its status: vendors put account and rate trouble under
any status. Words in other HTTP errors decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from imagepipeline_dagster.api.errors import (
    AccessRefused,
    AnswerLost,
    CreditsExhausted,
    RequestRefused,
    SubmitError,
    Throttled,
    WrongAddress,
)
from imagepipeline_dagster.api.jobs import NO_MESSAGE, Job, JobStatus
from imagepipeline_dagster.api.words import (
    speaks_of_credits,
    speaks_of_key,
    speaks_of_rate,
    speaks_of_safety,
)


class Ruling(StrEnum):
    """What an answer means."""

    JOB = "job"
    UNKNOWN = "unknown"
    """It may have been bought."""
    UNPAID = "unpaid"
    BUSY = "busy"
    NO_ACCESS = "no access"
    FILTERED = "filtered"
    ELSEWHERE = "elsewhere"
    """Something else than the API answers."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the API, read once.

    Attributes:
        job: what it says of a job; None where that cannot be read, and `unreadable` says why.
        message: what it says, for people.
        words: the same without what it repeats of the request.
        is_page: whether it is a page for people.
        retry_after: its header, in seconds.
        pause: the pause that it asks for, by its header or its words, in seconds.
        location: where it redirects to, without the query.
    """

    status: int
    job: Job | None = None
    unreadable: str = ""
    message: str = NO_MESSAGE
    words: str = ""
    is_page: bool = False
    retry_after: float | None = None
    pause: float | None = None
    location: str = ""

    @property
    def is_success(self) -> bool:
        """Whether its HTTP status says that all is well."""
        return 200 <= self.status < 300


_JUDGES_THE_REQUEST = frozenset({400, 401, 402, 403, 404, 405, 410, 413, 415, 422})
_ASKS_ELSEWHERE = frozenset({307, 308})
_TOO_EARLY = 425
_BARE = ("", NO_MESSAGE, "Not Found", "Method Not Allowed", "Gone")

_REFUSALS: tuple[tuple[Ruling, Callable[[Answer, bool], bool]], ...] = (
    (Ruling.UNPAID, lambda it, _: it.status == 402 or speaks_of_credits(it.words)),
    (Ruling.BUSY, lambda it, busy: busy or speaks_of_rate(it.words)),
    (Ruling.ELSEWHERE, lambda it, _: it.is_page or 300 <= it.status < 400 or it.status == 410),
    (Ruling.ELSEWHERE, lambda it, _: it.status in (404, 405) and it.message in _BARE),
    (Ruling.NO_ACCESS, lambda it, _: it.status == 401 or speaks_of_key(it.words)),
    (Ruling.FILTERED, lambda it, _: speaks_of_safety(it.words)),
    (Ruling.NO_ACCESS, lambda it, _: it.status == 403),
)
"""Who refused, and how an answer shows it: the first row that applies."""


def ruling_on_post(answer: Answer, *, refusing: Collection[int] = (429,)) -> Ruling:
    """Return what the answer to a POST proves; `refusing` are statuses that mean "not now"."""
    busy = (
        answer.status in refusing
        or answer.status == _TOO_EARLY
        or (answer.status == 503 and answer.retry_after is not None)
    )
    job = answer.job
    if job is not None and job.id is not None:
        # Beside a complaint alone an `id` may be the complaint's own.
        complains = job.word == "" and answer.message != NO_MESSAGE
        refuses = answer.status in _JUDGES_THE_REQUEST or answer.status in refusing
        if job.named_as_job or not (complains and refuses):
            return Ruling.JOB
    elif job is not None and job.status is JobStatus.SUCCESS and job.links_told:
        return Ruling.JOB
    elif job is not None and job.status is JobStatus.FAILURE and answer.is_success:
        refusal = refusal_of(answer, busy=busy)
        if refusal not in (None, Ruling.FILTERED):
            return refusal
        return Ruling.JOB if job.word else Ruling.UNKNOWN
    if busy or answer.status in _JUDGES_THE_REQUEST | _ASKS_ELSEWHERE:
        return refusal_of(answer, busy=busy) or Ruling.REFUSED
    return Ruling.UNKNOWN


def refusal_of(answer: Answer, *, busy: bool = False) -> Ruling | None:
    """Return who refused, by the answer's words and status; None where they do not say."""
    return next((ruling for ruling, applies in _REFUSALS if applies(answer, busy)), None)


def error_of(ruling: Ruling, answer: Answer, *, origin: str) -> SubmitError:
    """Return the error that tells a person about a ruling other than JOB."""
    answered = f"HTTP {answer.status}: {answer.message}"
    match ruling:
        case Ruling.UNPAID:
            return CreditsExhausted(f"the account cannot pay ({answered})")
        case Ruling.BUSY:
            return Throttled(answered, retry_after=answer.pause)
        case Ruling.NO_ACCESS:
            return AccessRefused(
                f"the API refused the key ({answered}); check IMAGEPIPELINE_API_KEY"
            )
        case Ruling.FILTERED:
            return RequestRefused(answer.message, filtered=True)
        case Ruling.ELSEWHERE:
            return WrongAddress(
                f"{origin} answered HTTP {answer.status}{_manner(answer)}: this is not the API; "
                "check IMAGEPIPELINE_BASE_URL, and what stands before it"
            )
        case Ruling.REFUSED:
            return RequestRefused(answered)
        case _ if answer.is_success:
            said = f" ({answer.message})" if answer.unreadable and answer.words else ""
            return AnswerLost(
                f"the answer to a POST names no job: {answer.unreadable or answer.message}{said}; "
                "it may have been bought"
            )
        case _:
            return AnswerLost(
                f"the API answered a POST with HTTP {answer.status}{_manner(answer)}: "
                f"{answer.message}; it may have been bought"
            )


def _manner(answer: Answer) -> str:
    if answer.location:
        return f", a redirect to {answer.location}"
    return " with a page for people" if answer.is_page else ""
