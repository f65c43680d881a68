"""What can go wrong at the API, as one tree of classes.

`Unreachable`, `Throttled`, `AccessRefused`, `CreditsExhausted` and `WrongAddress` are raised by the
status endpoint too. No error holds the API key: an echo of it is blotted out.
"""

from __future__ import annotations

from imagepipeline_dagster.api.jobs import Job
from imagepipeline_dagster.errors import CorrectableError


class ImagePipelineError(CorrectableError):
    """Anything that goes wrong at the API."""


class SubmitError(ImagePipelineError):
    """A POST that created no job, or of which nobody knows whether it did."""


class Unreachable(SubmitError):
    """The request never reached the server: it is safe to repeat."""


class Throttled(SubmitError):
    """The server refused for now, and took nothing; `retry_after` is the pause asked for (s)."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestRefused(SubmitError):
    """The server refused the input; `filtered` where its words speak of safety."""

    def __init__(self, message: str, *, filtered: bool = False) -> None:
        super().__init__(message)
        self.filtered = filtered


class RunStopper(SubmitError):
    """Further requests would most likely fail in the same way."""


class AccessRefused(RunStopper):
    """The API key is wrong or lacks a right."""


class CreditsExhausted(RunStopper):
    """The account cannot pay for more."""


class NothingTaken(RunStopper):
    """The server has refused every request for now, and that for long."""


class WrongAddress(RunStopper):
    """Something else than the API answers at the base URL."""


class AnswerLost(SubmitError):
    """The POST was sent, and its answer never came or cannot be read: never repeat it unasked."""


class JobError(ImagePipelineError):
    """A job that gave no picture; `job` is its last known state."""

    def __init__(self, message: str, *, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobError):
    """The API says FAILURE.

    `filtered` where its words state that the content was refused. `trouble` is what they say of the
    account, the key or the rate (CreditsExhausted, AccessRefused, Throttled): no fault of the row.
    """

    def __init__(
        self,
        message: str,
        *,
        job: Job,
        filtered: bool = False,
        trouble: SubmitError | None = None,
    ) -> None:
        super().__init__(message, job=job)
        self.filtered = filtered
        self.trouble = trouble


class JobTimedOut(JobError):
    """The job was still pending at its deadline; it may yet end well."""


class JobNotFound(JobError):
    """The status endpoint does not know the job's id."""


class StatusUnavailable(ImagePipelineError):
    """The status endpoint gave no usable answer."""


class OtherJobAnswered(StatusUnavailable):
    """An answer about another job than the one that was asked about: nothing of it is used."""


class ConnectionUnusable(ImagePipelineError):
    """The certificates or proxies that the environment names cannot be used."""


class DownloadError(ImagePipelineError):
    """A picture that could not be downloaded; names the link's host, never its query."""


class LinkRefused(DownloadError):
    """A link that is not http(s), or that leads to a private address."""


class LinkExpired(DownloadError):
    """A link that no longer works: ask the status for a new one."""


class ImageTooLarge(DownloadError):
    """A picture of more bytes than allowed."""


class DownloadFailed(DownloadError):
    """A download that was interrupted or refused, after every attempt.

    `retry_after` is what the host asked for, in seconds.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
