"""HTTP connections: few of them, bounded in time, and answers bounded in size."""

from __future__ import annotations

import asyncio
import json as jsons
import os
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar
from typing import Any

import httpx

from imagepipeline_dagster import telemetry
from imagepipeline_dagster.api.errors import ConnectionUnusable

# httpx serves more small requests a second over few connections than over many: 1,200 a core over
# 8, 240-550 over 32-64 (measured on loopback).
_CONNECTIONS = 8
_KEEPALIVE_SECONDS = 5.0
# An answer of the API is a page of JSON at the very most.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_KEPT_HEADERS = (b"content-type", b"location", b"retry-after")
# What `unpacked` unpacks. httpx would offer more wherever a decoder of it happens to be installed.
_OFFERED = {"Accept-Encoding": "gzip, deflate"}

POST_KEEPALIVE_SECONDS = 2.0
"""A server closes idle connections after 5 s or more; giving them up first keeps a POST from being
sent into one that is just being closed, which would leave its fate unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How servers are reached.

    `request_timeout` is in seconds, for each step of a request. `use_proxies` says whether those of
    the environment are used. `transport` stands in for all of it in tests.
    """

    request_timeout: float
    use_proxies: bool
    transport: httpx.AsyncBaseTransport | None

    def open(
        self,
        headers: Mapping[str, str],
        *,
        cookies: CookieJar | None = None,
        keepalive_seconds: float = _KEEPALIVE_SECONDS,
    ) -> httpx.AsyncClient:
        """Return an HTTP client.

        Raises:
            ConnectionUnusable: the environment names certificates or proxies that cannot be used.
        """
        certificates = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=keepalive_seconds)
        try:
            return httpx.AsyncClient(
                headers=_OFFERED | dict(headers),
                cookies=cookies,
                timeout=httpx.Timeout(self.request_timeout, pool=None),
                transport=self.transport,
                verify=_tls_context(*certificates),
                trust_env=self.use_proxies,
                limits=limits,
            )
        except ImportError as error:  # a proxy of a kind that httpx needs an extra for
            raise ConnectionUnusable(
                f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {error}"
            ) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise ConnectionUnusable(
                f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY cannot be read: {error}; write an "
                "IPv6 address in NO_PROXY without brackets, port or mask"
            ) from error


@cache
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    # Reading the certificates takes longer than several requests, and each client would read them.
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConnectionUnusable(
            f"the certificates of SSL_CERT_FILE={cert_file or ''} SSL_CERT_DIR={cert_dir or ''} "
            f"cannot be read: {error}"
        ) from error


@asynccontextmanager
async def answer_deadline(
    seconds: float, *, sending: Callable[[], None] = lambda: None
) -> AsyncIterator[dict[str, Any]]:
    """Bound the time from a request's end to the end of the block; give the request's extensions.

    `sending` is called when the request is about to leave: what it raises keeps it here.

    httpx bounds the pause between two pieces alone, and endless 1xx answers reach no bound at all.
    The clock starts when the request has left: a place among the connections is waited for.

    Raises:
        TimeoutError: the time is over.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as deadline:

        async def trace(event: str, _info: object) -> None:
            if event.endswith("send_request_headers.started"):
                sending()
            if event.endswith("receive_response_headers.started"):
                deadline.reschedule(loop.time() + seconds)

        yield {"trace": trace}


async def bounded_answer(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    seconds: float,
    json: dict[str, Any] | None = None,
    sending: Callable[[], None] = lambda: None,
) -> httpx.Response:
    """Return an answer of the API, read to its end as long as it keeps its bounds.

    `seconds` bounds the whole of it, and 4 MiB its size, packed and unpacked. `sending` is called
    when the request is about to leave, after it waited for a connection.

    Raises:
        httpx.HTTPError: no answer came, or not to its end.
    """
    packed = bytearray()
    response: httpx.Response | None = None
    started = time.monotonic()
    try:
        async with (
            answer_deadline(seconds, sending=sending) as extensions,
            client.stream(method, url, json=json, extensions=extensions) as response,
        ):
            async for chunk in response.aiter_raw():
                packed += chunk
                if len(packed) > _MAX_ANSWER_BYTES:
                    raise httpx.ReadError("the answer is too long")
    except (TimeoutError, httpx.TransportError) as error:
        if response is None or not _is_whole(response, packed):
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout("the answer took too long") from error
            raise
    except httpx.InvalidURL as error:
        # httpx works out where a redirect leads, also where it is not to follow.
        raise httpx.RemoteProtocolError("the redirect leads nowhere") from error
    seconds = time.monotonic() - started
    telemetry.api_answered(method, status=response.status_code, seconds=seconds)
    # Bytes, since a server may put any into a header.
    kept = [(name, value) for name, value in response.headers.raw if name.lower() in _KEPT_HEADERS]
    return httpx.Response(response.status_code, headers=kept, content=unpacked(response, packed))


def _is_whole(response: httpx.Response, body: bytearray) -> bool:
    """Tell whether an answer that broke off came whole: a JSON object says where it ends."""
    try:
        return isinstance(jsons.loads(unpacked(response, body)), dict)
    except (ValueError, RecursionError, httpx.DecodingError):
        return False


def unpacked(
    response: httpx.Response, packed: bytearray, *, at_most: int = _MAX_ANSWER_BYTES
) -> bytes:
    """Return an answer's bytes: one layer of compression at most, and no more than the bound.

    Raises:
        httpx.DecodingError: they are packed otherwise, are more, or break off.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity":
        return bytes(packed)
    if coding not in ("gzip", "deflate"):
        raise httpx.DecodingError(f"the answer is packed as {coding[:40]!r}")
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        body = unpacking.decompress(bytes(packed), at_most + 1)
    except zlib.error as error:
        raise httpx.DecodingError(f"the answer cannot be unpacked: {error}") from error
    if len(body) > at_most or not unpacking.eof:
        raise httpx.DecodingError("the answer is too long or broken off, unpacked")
    return body
