"""HTTP connections: few of them, bounded in time, and answers bounded in size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cache
from http.cookiejar import CookieJar
from typing import Any

import httpx

__all__ = ["POST_KEEPALIVE_SECONDS", "bounded_answer", "open_http"]

# httpx serves more small requests a second over few connections than over many: 1,200 a core over
# 8, 240-550 over 32-64 (measured on loopback).
_CONNECTIONS = 8
_KEEPALIVE_SECONDS = 5.0
# An answer of the API is a page of JSON at the very most.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024

POST_KEEPALIVE_SECONDS = 2.0
"""A server closes idle connections after 5 s or more; giving them up first keeps a POST from being
sent into one that is just being closed, which would leave its fate unknown."""


def open_http(
    *,
    headers: Mapping[str, str],
    request_timeout: float,
    use_proxies: bool,
    transport: httpx.AsyncBaseTransport | None,
    cookies: CookieJar | None = None,
    keepalive_seconds: float = _KEEPALIVE_SECONDS,
) -> httpx.AsyncClient:
    """Return an HTTP client; `request_timeout` is in seconds, for each step of a request."""
    return httpx.AsyncClient(
        headers=headers,
        cookies=cookies,
        timeout=httpx.Timeout(request_timeout, pool=None),
        transport=transport,
        verify=_tls_context(),
        trust_env=use_proxies,
        limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=keepalive_seconds),
    )


@cache
def _tls_context() -> ssl.SSLContext:
    # Reading the certificates takes longer than several requests, and each client would read them.
    return httpx.create_ssl_context()


async def bounded_answer(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    seconds: float,
    json: dict[str, Any] | None = None,
) -> httpx.Response:
    """Return an answer of the API, read to its end as long as it keeps its bounds.

    httpx alone bounds the pause between two pieces, not the number of them; here `seconds` bounds
    the reading as a whole, and 4 MiB its size.

    Raises:
        httpx.HTTPError: no answer came, or not to its end.
    """
    body = bytearray()
    try:
        async with client.stream(method, url, json=json) as response:
            async with asyncio.timeout(seconds):
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
