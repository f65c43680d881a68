"""The API's client: submit, status, wait, download.

A POST buys a picture, so it is repeated only when it provably created no job; everything else is
safe to repeat and is repeated with back-off. The API key goes to the API's origin and nowhere else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
import stamina
from aiolimiter import AsyncLimiter

from imagepipeline_dagster.api.contract import (
    NO_MESSAGE,
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
from imagepipeline_dagster.api.links import (
    CheckedLink,
    check_link,
    is_loopback,
    is_private_host,
    read_link,
)

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
# An answer of the API is a page of JSON at the very most.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_MAX_MESSAGE = 500
# A picture is larger than an answer, so its body may take so many times `request_timeout`.
_DOWNLOAD_PATIENCE = 10
# An id has to be asked for as it is; links have a rule of their own.
_NOT_BLOTTED = ("id", "job_id", "download_urls")
_SCHEME_AND_HOST = re.compile(r"https?://[^/?#@]*(?=[/?#]|$)", re.IGNORECASE)
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
        request_timeout: seconds for each step of an HTTP request: connecting, sending, waiting for
            the answer, and reading it to its end; reading a picture may take ten times as long.
        max_attempts: of a request that is safe to repeat.
        requests_per_second: limit over all API requests; None is no limit.
        max_image_bytes: a larger download is refused.
        wait_initial: seconds before the first repetition; doubled for each further one.
        not_found_patience: seconds in which `wait` asks again for a job unknown to the API.
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
        not_found_patience: float = 5.0,
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
        self._not_found_patience = not_found_patience
        self._submit_pace = submit_pace
        self._limiter = AsyncLimiter(1, 1 / requests_per_second) if requests_per_second else None
        self._allow_private: bool | None = None
        self._request_timeout = request_timeout
        # A proxy for the outer world cannot reach this machine's loopback, and need not see it.
        self._use_proxies = not is_loopback(httpx.URL(base_url))
        self._logged_words: set[str] = set()
        timeout = httpx.Timeout(request_timeout, pool=None)
        headers = {"API-Key": api_key, "Accept": "application/json"}
        self._posts = httpx.AsyncClient(
            headers=headers,
            timeout=timeout,
            transport=transport,
            verify=_tls_context(),
            trust_env=self._use_proxies,
            limits=httpx.Limits(
                max_connections=_CONNECTIONS, keepalive_expiry=_POST_KEEPALIVE_SECONDS
            ),
        )
        self._polls = httpx.AsyncClient(
            headers=headers,
            timeout=timeout,
            transport=transport,
            verify=_tls_context(),
            trust_env=self._use_proxies,
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )
        self._downloads = httpx.AsyncClient(
            # The bytes as they are stored; and no cookies, which would go by address, not by host.
            headers={"Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=timeout,
            transport=transport,
            verify=_tls_context(),
            trust_env=self._use_proxies,
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

    async def submit(
        self, request: GenerationRequest, *, sending: Callable[[bool], None] = lambda _: None
    ) -> Job:
        """POST a request and return its job, in whatever state the API says.

        `sending` is told True just before each attempt is sent, and False once it is known that
        this attempt created no job: whoever cancels in between cannot know what became of it.

        Raises:
            AnswerLost: the request may have been accepted; it was not and must not be repeated.
            SubmitError: any other kind; no job was created.
        """
        async for attempt in self._attempts(_repeat_submit):
            with attempt:
                return await self._submit_once(request, sending)
        raise AssertionError("stamina re-raises the last error")  # pragma: no cover

    async def _submit_once(
        self, request: GenerationRequest, sending: Callable[[bool], None]
    ) -> Job:
        if self._submit_pace is not None:
            await self._submit_pace.turn()
        await self._pace()
        sending(True)  # noqa: FBT003 - the callback's only argument
        try:
            job = await self._post(request)
        except (Throttled, Unreachable) as error:
            sending(False)  # noqa: FBT003
            if self._submit_pace is not None and isinstance(error, Throttled):
                self._submit_pace.throttled(error.retry_after)
            raise
        if self._submit_pace is not None:
            self._submit_pace.accepted()
        return job

    async def _post(self, request: GenerationRequest) -> Job:
        try:
            response = await self._answer(
                self._posts, "POST", self.endpoint(request.task), json=request.payload()
            )
        except _NOT_SENT as error:
            raise self._unreachable(error) from self._cause(error)
        except httpx.HTTPError as error:
            raise AnswerLost(
                f"the answer to a POST never came ({type(error).__name__}); it may have been bought"
            ) from self._cause(error)
        code = response.status_code
        if response.is_success:
            try:
                return self._read(response, task=request.task)
            except UnreadableAnswer as error:
                raise AnswerLost(
                    f"the answer to a POST cannot be read: {error}; it may have been bought"
                ) from error
        text = self._message(response)
        message = text[:_MAX_MESSAGE]
        # The words of a prompt that the API repeats say nothing of what is wrong.
        words = _without_echo(text, request)
        self._raise_for_throttling(response, message)
        refusal = response.is_client_error or code == 500
        if refusal and code not in (401, 402) and speaks_of_safety(words):
            raise RequestRefused(message, filtered=True)
        self._raise_for_access(response, message, words=words)
        # 408 is what a gateway says when it lost patience, with us or with the API behind it.
        if response.is_client_error and code != 408:
            raise RequestRefused(f"HTTP {code}: {message}")
        raise AnswerLost(
            f"the API answered a POST with HTTP {code}: {message}; it may have been bought"
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
            response = await self._answer(
                self._polls, "GET", self._base_url + status_path(task, job_id)
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from self._cause(error)
        if response.is_success:
            try:
                return self._read(response, task=task, job_id=job_id)
            except UnreadableAnswer as error:
                raise StatusUnavailable(f"the status cannot be read: {error}") from error
        message = self._message(response)[:_MAX_MESSAGE]
        if response.status_code == 404:
            unknown = Job(task=Task(task), id=job_id, status=JobStatus.PENDING, word="NOT FOUND")
            raise JobNotFound(
                f"the API does not know job {self._blot(job_id)}: {message}", job=unknown
            )
        self._raise_for_throttling(response, message)
        self._raise_for_access(response, message, words=message)
        raise StatusUnavailable(f"the status gave HTTP {response.status_code}: {message}")

    async def wait(self, job: Job, *, timeout: float, delays: Iterable[float] | None = None) -> Job:
        """Poll until the job has succeeded, and return it with its links.

        `timeout` is in seconds from now; `delays` are the pauses before each poll, in seconds, of
        which the last is repeated. A status that cannot be had is asked for again until the
        deadline; one of a job that the API does not know, for some seconds, because an API may lag
        behind its own answers.

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
                    except (StatusUnavailable, Throttled, Unreachable) as error:
                        trouble = error
                    except JobNotFound as error:
                        if time.monotonic() >= patience_ends:
                            raise
                        trouble = error
        except TimeoutError as error:
            because = f"; the last status request failed: {trouble}" if trouble else ""
            raise JobTimedOut(
                f"job {self._blot(job.id or '?')} was still {job.word} "
                f"after {timeout:g} s{because}",
                job=job,
            ) from error
        if job.status is JobStatus.FAILURE:
            message = job.error or NO_MESSAGE
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
        host = read_link(link).raw_host.decode("ascii")
        try:
            async with self._follow(link) as response:
                code = response.status_code
                if code in (429, 503):
                    pause = _retry_after(response)
                    raise DownloadFailed(f"{host} answered HTTP {code}", retry_after=pause)
                if response.is_client_error:
                    raise LinkExpired(f"{host} answered HTTP {code}")
                if not response.is_success:
                    raise DownloadFailed(f"{host} answered HTTP {code}")
                async with asyncio.timeout(_DOWNLOAD_PATIENCE * self._request_timeout):
                    return await self._capped_bytes(response, host)
        except (httpx.HTTPError, TimeoutError) as error:
            raise DownloadFailed(
                f"the download from {host} was interrupted: {type(error).__name__}"
            ) from self._cause(error)

    @asynccontextmanager
    async def _follow(self, link: str) -> AsyncIterator[httpx.Response]:
        """Open a link, following redirects by hand so that each host is checked."""
        here = read_link(link)
        for _ in range(_MAX_REDIRECTS + 1):
            checked = await check_link(
                here,
                allow_private=await self._is_private(),
                use_proxies=self._use_proxies,
            )
            response = await self._connect(checked)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
            finally:
                await response.aclose()
            here = read_link(response.headers["Location"], base=here)
        raise LinkRefused(f"more than {_MAX_REDIRECTS} redirects")

    async def _is_private(self) -> bool:
        """Tell whether the API itself is on a private address; looked up once, when needed."""
        if self._allow_private is None:
            self._allow_private = await is_private_host(httpx.URL(self._base_url))
        return self._allow_private is True

    async def _connect(self, link: CheckedLink) -> httpx.Response:
        """Open a link at the first of its addresses that takes the connection."""
        for url in link.urls[:-1]:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._get(url, link)
        return await self._get(link.urls[-1], link)

    async def _get(self, url: httpx.URL, link: CheckedLink) -> httpx.Response:
        request = self._downloads.build_request(
            "GET", url, headers=link.headers, extensions=link.extensions
        )
        try:
            return await self._downloads.send(request, stream=True)
        except httpx.InvalidURL as error:
            raise LinkRefused("the link redirects to what is no URL") from error

    async def _capped_bytes(self, response: httpx.Response, host: str) -> bytes:
        received = bytearray()
        async for chunk in response.aiter_bytes():
            received += chunk
            if len(received) > self._max_image_bytes:
                raise ImageTooLarge(
                    f"{host} sent more than max_image_bytes = {self._max_image_bytes:,} bytes"
                )
        return bytes(received)

    async def _answer(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        *,
        json: dict[str, Any] | None = None,
    ) -> httpx.Response:
        """Return an answer of the API, read to its end as long as it keeps its bounds.

        httpx alone bounds the pause between two pieces, not the number of them.

        Raises:
            httpx.HTTPError: no answer came, or not to its end.
        """
        body = bytearray()
        try:
            async with client.stream(method, url, json=json) as response:
                async with asyncio.timeout(self._request_timeout):
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > _MAX_ANSWER_BYTES:
                            raise httpx.ReadError("the answer is too long")
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer took too long") from error
        except httpx.InvalidURL as error:
            # httpx works out where a redirect leads, also where it is not to follow.
            raise httpx.RemoteProtocolError("the redirect leads nowhere") from error
        kept = {
            name: response.headers[name]
            for name in ("Content-Type", "Retry-After")
            if name in response.headers
        }
        return httpx.Response(response.status_code, headers=kept, content=bytes(body))

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
            answer = self._blotted(response.json())
            job = read_job(answer, task=task, job_id=job_id)
        except UnreadableAnswer:
            raise
        except (ValueError, RecursionError):
            kind = self._blot(response.headers.get("Content-Type", "no content type"))
            raise UnreadableAnswer(f"it is not JSON ({kind[:60]})") from None
        if not job.known_word and job.word not in self._logged_words:
            self._logged_words.add(job.word)
            _log.warning("unknown job status %r is taken as pending", job.word[:40])
        links = tuple(self._blotted_link(link) for link in job.download_urls)
        return job.model_copy(update={"download_urls": links})

    def _message(self, response: httpx.Response) -> str:
        try:
            return error_text(self._blotted(response.json()), limit=_MAX_ANSWER_BYTES)
        except (ValueError, RecursionError):
            return NO_MESSAGE

    def _blot(self, text: str) -> str:
        return text.replace(self._api_key, "[API key]")

    def _blotted(self, answer: object) -> object:
        """Return an answer with the API key blotted out, before anything is cut or shown of it."""
        if isinstance(answer, str):
            return self._blot(answer)
        if isinstance(answer, list):
            return [self._blotted(item) for item in answer]
        if isinstance(answer, dict):
            return {
                self._blot(name): value if name in _NOT_BLOTTED else self._blotted(value)
                for name, value in answer.items()
            }
        return answer

    def _blotted_link(self, link: str) -> str:
        # The host stays, or a host that is named like a simple key could not be reached.
        found = _SCHEME_AND_HOST.match(link)
        host = found.group() if found else ""
        return host + self._blot(link[len(host) :])

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        reason = self._blot(str(error)) or type(error).__name__
        return Unreachable(f"{self.origin} cannot be reached: {reason}")

    def _cause(self, error: Exception) -> Exception | None:
        """Return the cause to show with an error; None where its words hold the API key."""
        return None if self._api_key in str(error) else error

    def _raise_for_throttling(self, response: httpx.Response, message: str) -> None:
        code = response.status_code
        if code in (429, 503):
            raise Throttled(f"HTTP {code}: {message}", retry_after=_retry_after(response))

    def _raise_for_access(self, response: httpx.Response, message: str, *, words: str) -> None:
        """Raise for the answers that mean the same on every endpoint."""
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
                f"{self.origin} answered HTTP {code}: this is not the API; "
                "check IMAGEPIPELINE_BASE_URL"
            )


@cache
def _tls_context() -> ssl.SSLContext:
    # Reading the certificates takes longer than several requests, and each client would read them.
    return httpx.create_ssl_context()


def origin_of(base_url: str) -> str:
    """Return `scheme://host[:port]` of a base URL, in lower case.

    Raises:
        ValueError: it is not an http(s) URL with a host, or holds a user name or a query.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url: is no URL: {error}") from error
    # An empty query or fragment counts too: it would swallow the path that is put behind it.
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise ValueError("base_url: must hold no user name, password, query or fragment")
    if url.scheme not in ("http", "https") or not url.raw_host or (url.port or 0) > 65535:
        raise ValueError(f"base_url: {base_url!r} is not an http:// or https:// URL")
    port = f":{url.port}" if url.port else ""
    name = url.raw_host.decode("ascii")
    host = f"[{name}]" if ":" in name else name
    return f"{url.scheme}://{host}{port}"


def _without_echo(message: str, request: GenerationRequest) -> str:
    for value in request.payload().values():
        if isinstance(value, str) and len(value) > 3:
            message = message.replace(value, " ")
    return message


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
    return isinstance(error, DownloadFailed) and _pause_of(error)


def _pause_of(error: Exception) -> bool | float:
    """Return the pause that the server asked for in seconds; True leaves it to the back-off."""
    if isinstance(error, Throttled | DownloadFailed) and error.retry_after is not None:
        return error.retry_after
    return True


def _retry_after(response: httpx.Response) -> float | None:
    """Return Retry-After in seconds from now, from either of its forms; at most two minutes."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), _MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    seconds = (moment - dt.datetime.now(dt.UTC)).total_seconds()
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)
