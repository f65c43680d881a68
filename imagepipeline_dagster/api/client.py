"""The API's client: submit, status, wait, download.

A POST buys a picture, so it is repeated only when it provably created no job; everything else is
safe to repeat and is repeated with back-off. The API key goes to the API's origin and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Self

import httpx
import stamina

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.api.address import origin_of
from imagepipeline_dagster.api.answers import AnswerReader
from imagepipeline_dagster.api.connections import POST_KEEPALIVE_SECONDS, Network, bounded_answer
from imagepipeline_dagster.api.contract import GenerationRequest, Task, status_path, submit_path
from imagepipeline_dagster.api.downloads import Downloads
from imagepipeline_dagster.api.errors import (
    AnswerLost,
    DownloadFailed,
    JobFailed,
    JobNotFound,
    JobTimedOut,
    NothingTaken,
    StatusUnavailable,
    Throttled,
    Unreachable,
)
from imagepipeline_dagster.api.jobs import NO_MESSAGE, Job, JobStatus
from imagepipeline_dagster.api.links import is_loopback
from imagepipeline_dagster.api.pacing import Brake, RequestPace
from imagepipeline_dagster.api.redaction import KeyRedaction
from imagepipeline_dagster.api.retrying import repeating
from imagepipeline_dagster.api.rulings import Answer, Ruling, error_of, refusal_of, ruling_on_post
from imagepipeline_dagster.api.words import without_echo, without_queries

# These rulings on a status answer are no news of the job.
_ACCOUNT_TROUBLE = (Ruling.UNPAID, Ruling.BUSY, Ruling.NO_ACCESS)
# A POST is sent again where it provably created no job.
_SUBMIT_AGAIN = repeating(Unreachable, Throttled)
_ASK_AGAIN = repeating(Unreachable, Throttled, StatusUnavailable)
_FETCH_AGAIN = repeating(DownloadFailed)
_LONGEST_PAUSE_SECONDS = 20.0
# Each refusal slows the next request down: a plan of thousands would be tried for days.
_REFUSALS_BELIEVED_SECONDS = 900.0
_MAX_TOLD = 500  # characters
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class ImagePipelineClient:
    """An asynchronous client of the API; use it as an async context manager.

    Args:
        api_key: goes to the origin of `base_url` and nowhere else; blanks around it are cut off.
        base_url: `http(s)://host[:port][/path]`.
        request_timeout: seconds for each step of an HTTP request: connecting, sending, waiting for
            the answer, and reading it to its end; reading a picture may take ten times as long.
        max_attempts: of a request that is safe to repeat.
        requests_per_second: limit over all API requests; None is no limit.
        max_image_bytes: a larger download is refused.
        wait_initial: seconds before the first repetition, and without a POST after a refusal;
            doubled for each further one.
        not_found_patience: seconds in which `wait` asks again for a job unknown to the API.
        refusing_statuses: HTTP statuses by which this API says that it took nothing for now.
        allow_insecure: lets the key go to another machine over plain http.
        transport: stands in for the network in tests.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        request_timeout: float = 30.0,
        max_attempts: int = 5,
        requests_per_second: float | None = None,
        max_image_bytes: int = 64 * 1024 * 1024,
        wait_initial: float = 0.2,
        not_found_patience: float = 5.0,
        refusing_statuses: Collection[int] = (429,),
        allow_insecure: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        api_key = api_key.strip()
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ValueError("api_key: must be printable ASCII without blanks")
        self.origin = origin_of(base_url, allow_insecure=allow_insecure)
        self._refusing = frozenset(refusing_statuses)
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=max_attempts,
            timeout=None,
            wait_initial=wait_initial,
            wait_max=_LONGEST_PAUSE_SECONDS,
            wait_jitter=wait_initial,
        )
        self._not_found_patience = not_found_patience
        self._brake = Brake(wait_initial)
        self._paces = [RequestPace(requests_per_second)] if requests_per_second else []
        self._redaction = KeyRedaction(api_key)
        self._answers = AnswerReader(redaction=self._redaction)
        url = httpx.URL(base_url)
        network = Network(
            request_timeout=request_timeout,
            # A proxy for the outer world cannot reach this machine, and need not see it.
            use_proxies=not is_loopback(url),
            transport=transport,
        )
        self._ask = partial(bounded_answer, seconds=request_timeout)
        headers = {"API-Key": api_key, "Accept": "application/json"}
        self._posts = network.open(headers, keepalive_seconds=POST_KEEPALIVE_SECONDS)
        self._polls = network.open(headers)
        self._downloads = Downloads(
            network, api=url, max_image_bytes=max_image_bytes, redaction=self._redaction
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connections in (self._posts, self._polls, self._downloads):
            await connections.aclose()

    def keep_pace(self, pace: RequestPace) -> None:
        """Ask `pace` before each API request from now on."""
        self._paces.append(pace)

    def endpoint(self, task: str) -> str:
        """Return the URL that requests of `task` are POSTed to."""
        return self.origin + submit_path(task)

    async def submit(
        self, request: GenerationRequest, *, sending: Callable[[bool], None] = lambda _: None
    ) -> Job:
        """POST a request and return its job, in whatever state the API says.

        `sending` is told True before each attempt, once more as it leaves over its connection, and
        False once it is known that this attempt created no job: whoever cancels in between cannot
        know what became of it. What it raises keeps the attempt from leaving.

        Raises:
            AnswerLost: the request may have been accepted; it was not and must not be repeated.
            SubmitError: any other kind; no job was created.
        """
        return await self._retrying(_SUBMIT_AGAIN, self._submit_once, request, sending)

    async def _submit_once(
        self, request: GenerationRequest, sending: Callable[[bool], None]
    ) -> Job:
        await self._brake.turn()
        await self._pace()
        sending(True)  # noqa: FBT003 - the callback's only argument
        try:
            job = await self._post(request, sending=partial(sending, True))  # noqa: FBT003
        except (Throttled, Unreachable) as error:
            sending(False)  # noqa: FBT003
            if isinstance(error, Throttled):
                refused_for = self._brake.throttled(error.retry_after)
                if refused_for >= _REFUSALS_BELIEVED_SECONDS:
                    raise NothingTaken(
                        f"{self.origin} has taken no request for {refused_for / 60:.0f} minutes: "
                        f"{error}"
                    ) from error
            raise
        self._brake.accepted()
        return job

    async def _post(self, request: GenerationRequest, *, sending: Callable[[], None]) -> Job:
        try:
            response = await self._ask(
                self._posts,
                "POST",
                self.endpoint(request.task),
                json=request.payload(),
                sending=sending,
            )
        except _NOT_SENT as error:
            raise self._unreachable(error) from self._redaction.cause(error)
        except httpx.HTTPError as error:
            raise AnswerLost(
                f"no answer to a POST came that can be read ({self._told(error)}); "
                "it may have been bought"
            ) from self._redaction.cause(error)
        answer = self._answers.read(response, task=request.task, request=request)
        ruling = ruling_on_post(answer, refusing=self._refusing)
        if ruling is Ruling.JOB and answer.job is not None:
            return answer.job
        telemetry.api_refused(ruling.value)
        raise error_of(ruling, answer, origin=self.origin)

    async def status(self, task: str, job_id: str) -> Job:
        """Ask for a job's state, with fresh links where it has succeeded.

        Raises:
            JobNotFound: the API does not know the id.
            StatusUnavailable, Throttled, Unreachable: no answer, after every attempt.
            RunStopper: the key is refused, or the address is wrong.
        """
        return await self._retrying(_ASK_AGAIN, self._status_once, task, job_id)

    async def _status_once(self, task: str, job_id: str) -> Job:
        await self._pace()
        try:
            url = self.origin + status_path(task, job_id)
            response = await self._ask(self._polls, "GET", url)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from self._redaction.cause(error)
        answer = self._answers.read(response, task=task, job_id=job_id)
        return self._job_of(answer, task=task, job_id=job_id)

    def _job_of(self, answer: Answer, *, task: str, job_id: str) -> Job:
        code, job = answer.status, answer.job
        if answer.is_success and job is not None:
            # A failure that names no job may be the question's: a key or a rate that is refused.
            of_question = job.status is JobStatus.FAILURE and not job.names_itself
            refusal = refusal_of(answer) if of_question else None
            if refusal in (Ruling.BUSY, Ruling.NO_ACCESS):
                raise error_of(refusal, answer, origin=self.origin)
            return job
        if answer.is_success:
            raise StatusUnavailable(f"the status cannot be read: {answer.unreadable}")
        if code in (404, 410) and not answer.is_page:
            unknown = Job(task=Task(task), id=job_id, status=JobStatus.PENDING, word="NOT FOUND")
            raise JobNotFound(
                f"the API does not know job {self._redaction.text(job_id)}: {answer.message}",
                job=unknown,
            )
        busy = code in (429, 503) or code in self._refusing
        refusal = refusal_of(answer, busy=busy) if busy or code < 500 else None
        # A proxy before the API gives pages for a while, and then no more.
        passes = answer.is_page and code in (404, 408)
        if refusal in (*_ACCOUNT_TROUBLE, Ruling.ELSEWHERE) and not passes:
            raise error_of(refusal, answer, origin=self.origin)
        raise StatusUnavailable(f"the status gave HTTP {code}: {answer.message}")

    async def wait(
        self,
        job: Job,
        *,
        timeout: float,
        delays: Iterable[float] | None = None,
        request: GenerationRequest | None = None,
    ) -> Job:
        """Poll until the job has succeeded, and return it with its links.

        `timeout` is in seconds from now; `delays` are the pauses before each poll, in seconds, of
        which the last is repeated. `request` is what the job came from: words that a failure
        repeats of it do not say what is wrong. A status that cannot be had is asked for again until
        the deadline; one of a job that the API does not know, for some seconds, because an API may
        lag behind its own answers.

        Raises:
            JobFailed: the API says FAILURE.
            JobTimedOut: the job was still pending at the deadline.
            JobNotFound: the API still does not know it.
            RunStopper: the key is refused, or the address is wrong.
        """
        pauses: Iterator[float] = iter(delays if delays is not None else poll_delays())
        pause = 0.0
        trouble: Exception | None = None
        patience_ends = time.monotonic() + self._not_found_patience
        try:
            async with asyncio.timeout(timeout):
                while job.status is JobStatus.PENDING:
                    pause = next(pauses, pause)
                    await asyncio.sleep(pause)
                    try:
                        job = await self.status(job.task, job.id or "")
                        trouble = None
                    except (StatusUnavailable, Throttled, Unreachable, JobNotFound) as error:
                        if isinstance(error, JobNotFound) and time.monotonic() >= patience_ends:
                            raise
                        trouble = error
        except TimeoutError as error:
            because = f"; the last status request failed: {trouble}" if trouble else ""
            raise JobTimedOut(
                f"job {self._redaction.text(job.id or '?')} was still "
                f"{job.word or 'without a status'} after {timeout:g} s{because}",
                job=job,
            ) from error
        if job.status is JobStatus.FAILURE:
            raise self._failure(job, request)
        return job

    def _failure(self, job: Job, request: GenerationRequest | None) -> JobFailed:
        said = job.error or NO_MESSAGE
        words = without_echo(said, request) if request else said
        message = without_queries(said)
        answer = Answer(status=200, job=job, message=message, words=words)
        refusal = refusal_of(answer)
        trouble = None
        if refusal in _ACCOUNT_TROUBLE:
            trouble = error_of(refusal, answer, origin=self.origin)
        return JobFailed(message, job=job, filtered=refusal is Ruling.FILTERED, trouble=trouble)

    async def download(self, link: str) -> bytes:
        """Return the bytes behind a link, without ever sending the API key there.

        Raises:
            LinkRefused: not http(s), or a private address while the API is on a public one.
            LinkExpired: the server says that the link no longer works.
            ImageTooLarge: more than `max_image_bytes`.
            DownloadFailed: after every attempt.
        """
        return await self._retrying(_FETCH_AGAIN, self._downloads.fetch, link)

    async def _pace(self) -> None:
        for pace in self._paces:
            await pace.turn()

    def _told(self, error: httpx.HTTPError) -> str:
        """Return what went wrong on the way; some of it repeats what the server sent."""
        told = f"{type(error).__name__}: {without_queries(self._redaction.text(str(error)))}"
        return told[:_MAX_TOLD].removesuffix(": ")

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        reason = self._told(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            reason += "; set SSL_CERT_FILE to the certificates of your own CA, if it is behind one"
        return Unreachable(f"{self.origin} cannot be reached: {reason}")


def poll_delays(first: float = 0.5, longest: float = 10.0) -> Iterator[float]:
    """Yield pauses in seconds that grow by a quarter from `first` to `longest`, for ever."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.25, longest)
