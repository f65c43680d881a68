"""The API's client: submit, status, wait, download.

A POST buys a picture, so it is repeated only when it provably created no job; everything else is
safe to repeat and is repeated with back-off. The API key goes to the API's origin and nowhere else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

import httpx
import stamina
from aiolimiter import AsyncLimiter

from imagepipeline_dagster.api.contract import (
    GenerationRequest,
    Job,
    JobStatus,
    Task,
    UnreadableAnswer,
    error_text,
    read_job,
    speaks_of_credits,
    speaks_of_safety,
    status_path,
    submit_path,
)
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    AnswerLost,
    CreditsExhausted,
    DownloadFailed,
    ImageTooLarge,
    JobFailed,
    JobNotFound,
    JobTimedOut,
    LinkExpired,
    LinkRefused,
    RequestRefused,
    StatusUnavailable,
    Throttled,
    Unreachable,
    WrongAddress,
)
from imagepipeline_dagster.api.links import check_link, is_private_host

__all__ = ["ImagePipelineClient", "SubmitPace", "origin_of", "poll_delays"]

_log = logging.getLogger(__name__)

# httpx serves more small requests a second over few connections than over many: 1,200 a core over
# 8, 240-550 over 32-64 (measured on loopback).
_CONNECTIONS = 8
# A server closes idle connections after 5 s or more; giving them up first keeps a POST from being
# sent into one that is just being closed, which would leave its fate unknown.
_POST_KEEPALIVE_SECONDS = 2.0
_MAX_REDIRECTS = 5
_MAX_RETRY_AFTER_SECONDS = 120.0
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class SubmitPace(Protocol):
    """What slows POSTs down when the server asks for it."""

    async def turn(self) -> None:
        """Return when the next POST may be sent."""

    def throttled(self, retry_after: float | None) -> None:
        """Take in that the server refused one for now; `retry_after` is in seconds."""

    def accepted(self) -> None:
        """Take in that the server took one."""


class ImagePipelineClient:
    """An asynchronous client of the API; use it as an async context manager.

    Args:
        api_key: goes to the origin of `base_url` and nowhere else.
        base_url: `http(s)://host[:port][/path]`.
        request_timeout: seconds for one HTTP request.
        max_attempts: of a request that is safe to repeat.
        requests_per_second: limit over all API requests; None is no limit.
        max_image_bytes: a larger download is refused.
        wait_initial: seconds before the first repetition; doubled for each further one.
        submit_pace: is asked before each POST, and told what came of it.
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
        submit_pace: SubmitPace | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ValueError("api_key: must be printable ASCII without blanks")
        self.origin = origin_of(base_url)
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._max_attempts = max_attempts
        self._wait_initial = wait_initial
        self._max_image_bytes = max_image_bytes
        self._submit_pace = submit_pace
        self._limiter = AsyncLimiter(1, 1 / requests_per_second) if requests_per_second else None
        self._allow_private = is_private_host(httpx.URL(base_url))
        self._logged_words: set[str] = set()
        timeout = httpx.Timeout(request_timeout, pool=None)
        headers = {"API-Key": api_key, "Accept": "application/json"}
        self._posts = httpx.AsyncClient(
            headers=headers,
            timeout=timeout,
            transport=transport,
            limits=httpx.Limits(
                max_connections=_CONNECTIONS, keepalive_expiry=_POST_KEEPALIVE_SECONDS
            ),
        )
        self._polls = httpx.AsyncClient(
            headers=headers,
            timeout=timeout,
            transport=transport,
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )
        self._downloads = httpx.AsyncClient(
            timeout=timeout,
            transport=transport,
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in (self._posts, self._polls, self._downloads):
            await client.aclose()

    def endpoint(self, task: str) -> str:
        """Return the URL that requests of `task` are POSTed to."""
        return self._base_url + submit_path(task)

    async def submit(self, request: GenerationRequest) -> Job:
        """POST a request and return its job, in whatever state the API says.

        Raises:
            AnswerLost: the request may have been accepted; it was not and must not be repeated.
            SubmitError: any other kind; no job was created.
        """
        async for attempt in self._attempts(_repeat_submit):
            with attempt:
                return await self._submit_once(request)
        raise AssertionError("stamina re-raises the last error")  # pragma: no cover

    async def _submit_once(self, request: GenerationRequest) -> Job:
        if self._submit_pace is None:
            return await self._post(request)
        await self._submit_pace.turn()
        try:
            job = await self._post(request)
        except Throttled as error:
            self._submit_pace.throttled(error.retry_after)
            raise
        self._submit_pace.accepted()
        return job

    async def _post(self, request: GenerationRequest) -> Job:
        await self._pace()
        try:
            response = await self._posts.post(self.endpoint(request.task), json=request.payload())
        except _NOT_SENT as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise AnswerLost(
                f"the answer to a POST never came ({type(error).__name__}); it may have been bought"
            ) from error
        if response.is_success:
            try:
                return self._read(response, task=request.task)
            except UnreadableAnswer as error:
                raise AnswerLost(
                    f"the answer to a POST cannot be read: {error}; it may have been bought"
                ) from error
        message = self._message(response)
        if speaks_of_safety(message):
            raise RequestRefused(message, filtered=True)
        self._raise_for_access(response, message)
        if response.is_client_error:
            raise RequestRefused(f"HTTP {response.status_code}: {message}")
        raise AnswerLost(
            f"the API answered a POST with HTTP {response.status_code}: {message}; "
            "it may have been bought"
        )

    async def status(self, task: str, job_id: str) -> Job:
        """Ask for a job's state, with fresh links where it has succeeded.

        Raises:
            JobNotFound: the API does not know the id.
            StatusUnavailable, Throttled, Unreachable: no answer, after every attempt.
            RunStopper: the key is refused, or the address is wrong.
        """
        async for attempt in self._attempts(_repeat_status):
            with attempt:
                return await self._status_once(task, job_id)
        raise AssertionError("stamina re-raises the last error")  # pragma: no cover

    async def _status_once(self, task: str, job_id: str) -> Job:
        await self._pace()
        try:
            response = await self._polls.get(self._base_url + status_path(task, job_id))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_success:
            try:
                job = self._read(response, task=task, job_id=job_id)
            except UnreadableAnswer as error:
                raise StatusUnavailable(f"the status cannot be read: {error}") from error
            if not job.known_word and job.word not in self._logged_words:
                self._logged_words.add(job.word)
                _log.warning("unknown job status %r is taken as pending", job.word[:40])
            return job
        message = self._message(response)
        if response.status_code == 404:
            unknown = Job(task=Task(task), id=job_id, status=JobStatus.PENDING, word="NOT FOUND")
            raise JobNotFound(f"the API does not know job {job_id}: {message}", job=unknown)
        self._raise_for_access(response, message)
        raise StatusUnavailable(f"the status gave HTTP {response.status_code}: {message}")

    async def wait(self, job: Job, *, timeout: float, delays: Iterable[float] | None = None) -> Job:
        """Poll until the job has succeeded, and return it with its links.

        `timeout` is in seconds from now; `delays` are the pauses before each poll, in seconds, of
        which the last is repeated. A status that cannot be had is asked for again until the
        deadline.

        Raises:
            JobFailed: the API says FAILURE.
            JobTimedOut: the job was still pending at the deadline.
            JobNotFound: the API does not know it.
            RunStopper: the key is refused, or the address is wrong.
        """
        pauses: Iterator[float] = iter(delays if delays is not None else poll_delays())
        pause = 0.0
        trouble: Exception | None = None
        try:
            async with asyncio.timeout(timeout):
                while job.status is JobStatus.PENDING:
                    pause = next(pauses, pause)
                    await asyncio.sleep(pause)
                    try:
                        job = await self.status(job.task, job.id or "")
                    except (StatusUnavailable, Throttled, Unreachable) as error:
                        trouble = error
        except TimeoutError as error:
            because = f"; the last status request failed: {trouble}" if trouble else ""
            raise JobTimedOut(
                f"job {job.id} was still {job.word} after {timeout:g} s{because}", job=job
            ) from error
        if job.status is JobStatus.FAILURE:
            message = job.error or "the API gave no message"
            raise JobFailed(message, job=job, filtered=speaks_of_safety(message))
        return job

    async def download(self, link: str) -> bytes:
        """Return the bytes behind a link, without ever sending the API key there.

        Raises:
            LinkRefused: not http(s), or a private address while the API is on a public one.
            LinkExpired: the server says that the link no longer works.
            ImageTooLarge: more than `max_image_bytes`.
            DownloadFailed: after every attempt.
        """
        async for attempt in self._attempts(_repeat_download):
            with attempt:
                return await self._download_once(link)
        raise AssertionError("stamina re-raises the last error")  # pragma: no cover

    async def _download_once(self, link: str) -> bytes:
        host = urlsplit(link).hostname or "?"
        try:
            async with self._follow(link) as response:
                if response.status_code == 429:
                    raise Throttled(f"{host} answered 429", retry_after=_retry_after(response))
                if response.is_client_error:
                    raise LinkExpired(f"{host} answered HTTP {response.status_code}")
                if not response.is_success:
                    raise DownloadFailed(f"{host} answered HTTP {response.status_code}")
                return await self._capped_bytes(response, host)
        except httpx.HTTPError as error:
            raise DownloadFailed(
                f"the download from {host} was interrupted: {type(error).__name__}"
            ) from error

    @asynccontextmanager
    async def _follow(self, link: str) -> AsyncIterator[httpx.Response]:
        """Open a link, following redirects by hand so that each host is checked."""
        here = httpx.URL(link)
        for _ in range(_MAX_REDIRECTS + 1):
            checked = await check_link(here, allow_private=self._allow_private)
            async with self._downloads.stream(
                "GET", checked.url, headers=checked.headers, extensions=checked.extensions
            ) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                here = here.join(response.headers["Location"])
        raise LinkRefused(f"more than {_MAX_REDIRECTS} redirects")

    async def _capped_bytes(self, response: httpx.Response, host: str) -> bytes:
        received = bytearray()
        async for chunk in response.aiter_bytes():
            received += chunk
            if len(received) > self._max_image_bytes:
                raise ImageTooLarge(
                    f"{host} sent more than max_image_bytes = {self._max_image_bytes:,} bytes"
                )
        return bytes(received)

    def _attempts(
        self, repeat: Callable[[Exception], bool | float]
    ) -> AsyncIterator[stamina.Attempt]:
        return stamina.retry_context(
            on=repeat,
            attempts=self._max_attempts,
            timeout=None,
            wait_initial=self._wait_initial,
            wait_max=20.0,
            wait_jitter=self._wait_initial,
        )

    async def _pace(self) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()

    def _read(self, response: httpx.Response, *, task: str, job_id: str | None = None) -> Job:
        try:
            answer = response.json()
        except ValueError as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise UnreadableAnswer(f"it is not JSON ({kind[:60]})") from error
        job = read_job(answer, task=task, job_id=job_id)
        return job.model_copy(update={"error": self._blot(job.error)}) if job.error else job

    def _message(self, response: httpx.Response) -> str:
        try:
            return self._blot(error_text(response.json()))
        except ValueError:
            return "the API gave no message"

    def _blot(self, text: str) -> str:
        return text.replace(self._api_key, "[API key]")

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        reason = self._blot(str(error)) or type(error).__name__
        return Unreachable(f"{self.origin} cannot be reached: {reason}")

    def _raise_for_access(self, response: httpx.Response, message: str) -> None:
        """Raise for the answers that mean the same on every endpoint."""
        code = response.status_code
        if code in (429, 503):
            raise Throttled(f"HTTP {code}: {message}", retry_after=_retry_after(response))
        if code == 402 or (response.is_client_error and speaks_of_credits(message)):
            raise CreditsExhausted(f"the account cannot pay (HTTP {code}): {message}")
        if code in (401, 403):
            raise AccessRefused(
                f"the API refused the key (HTTP {code}): {message}; check IMAGEPIPELINE_API_KEY"
            )
        bare = message in ("the API gave no message", "Not Found", "Method Not Allowed")
        if response.is_redirect or (code in (404, 405) and bare):
            raise WrongAddress(
                f"{self.origin} answered HTTP {code}: this is not the API; "
                "check IMAGEPIPELINE_BASE_URL"
            )


def origin_of(base_url: str) -> str:
    """Return `scheme://host[:port]` of a base URL, in lower case.

    Raises:
        ValueError: it is not an http(s) URL with a host, or holds a user name or a query.
    """
    url = httpx.URL(base_url)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url: {base_url!r} is not an http:// or https:// URL")
    if url.userinfo or url.query:
        raise ValueError("base_url: must hold no user name, password or query")
    port = f":{url.port}" if url.port else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}"


def poll_delays(first: float = 0.5, longest: float = 10.0) -> Iterator[float]:
    """Yield pauses in seconds that grow by a quarter from `first` to `longest`, for ever."""
    pause = first
    while True:
        yield pause
        pause = min(pause * 1.25, longest)


def _repeat_submit(error: Exception) -> bool | float:
    return isinstance(error, Unreachable | Throttled) and _pause_of(error)


def _repeat_status(error: Exception) -> bool | float:
    return isinstance(error, Unreachable | Throttled | StatusUnavailable) and _pause_of(error)


def _repeat_download(error: Exception) -> bool | float:
    return isinstance(error, Throttled | DownloadFailed) and _pause_of(error)


def _pause_of(error: Exception) -> bool | float:
    """Return the pause that the server asked for in seconds; True leaves it to the back-off."""
    if isinstance(error, Throttled) and error.retry_after is not None:
        return error.retry_after
    return True


def _retry_after(response: httpx.Response) -> float | None:
    """Return Retry-After in seconds from now, from either of its forms; at most two minutes."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return min(float(value), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    seconds = (moment - dt.datetime.now(dt.UTC)).total_seconds()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)
