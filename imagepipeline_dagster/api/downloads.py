"""Pictures fetched from wherever their links lead: capped, checked, and without the API key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from imagepipeline_dagster.api.connections import Network, answer_deadline, unpacked
from imagepipeline_dagster.api.errors import DownloadFailed, ImageTooLarge, LinkExpired, LinkRefused
from imagepipeline_dagster.api.links import CheckedLink, check_link, is_private_host, read_link
from imagepipeline_dagster.api.redaction import KeyRedaction
from imagepipeline_dagster.api.retrying import retry_after

_MAX_REDIRECTS = 5
# A picture is larger than an answer, so its body may take so many times `request_timeout`.
_PATIENCE = 10


class Downloads:
    """Fetches what links lead to, one attempt at a time.

    Reading a picture may take ten times the network's timeout. Where the API's base URL is on a
    private address, links may lead to one too.
    """

    def __init__(
        self, network: Network, *, api: httpx.URL, max_image_bytes: int, redaction: KeyRedaction
    ) -> None:
        self._network = network
        self._api = api
        self._max_image_bytes = max_image_bytes
        self._redaction = redaction
        self._allow_private: bool | None = None
        self._http = network.open(
            # The bytes as they are stored; and no cookies, which would go by address, not by host.
            {"Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def fetch(self, link: str) -> bytes:
        """Return the bytes behind a link.

        Raises:
            DownloadError: of the kind that says why not; `DownloadFailed` may work the next time.
        """
        url = read_link(link)
        host = url.raw_host.decode("ascii")
        try:
            async with self._follow(url) as response:
                code = response.status_code
                if response.is_client_error and code != 429:
                    raise LinkExpired(f"{host} answered HTTP {code}")
                if not response.is_success:
                    pause = retry_after(response) if code in (429, 503) else None
                    raise DownloadFailed(f"{host} answered HTTP {code}", retry_after=pause)
                async with asyncio.timeout(_PATIENCE * self._network.request_timeout):
                    return await self._capped_bytes(response, host)
        except (httpx.HTTPError, TimeoutError) as error:
            raise DownloadFailed(
                f"the download from {host} was interrupted: {type(error).__name__}"
            ) from self._redaction.cause(error)

    @asynccontextmanager
    async def _follow(self, url: httpx.URL) -> AsyncIterator[httpx.Response]:
        """Open a link, following redirects by hand so that each host is checked."""
        for _ in range(_MAX_REDIRECTS + 1):
            checked = await check_link(
                url,
                allow_private=await self._is_private(),
                use_proxies=self._network.use_proxies,
            )
            response = await self._connect(checked)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
            finally:
                await response.aclose()
            url = read_link(response.headers["Location"], base=url)
        raise LinkRefused(f"more than {_MAX_REDIRECTS} redirects")

    async def _is_private(self) -> bool:
        """Tell whether the API itself is on a private address; looked up once, when needed."""
        if self._allow_private is None:
            self._allow_private = await is_private_host(self._api)
        return self._allow_private is True

    async def _connect(self, link: CheckedLink) -> httpx.Response:
        """Open a link at the first of its addresses that takes the connection."""
        for url in link.urls[:-1]:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._get(url, link)
        return await self._get(link.urls[-1], link)

    async def _get(self, url: httpx.URL, link: CheckedLink) -> httpx.Response:
        try:
            async with answer_deadline(self._network.request_timeout) as extensions:
                request = self._http.build_request(
                    "GET", url, headers=link.headers, extensions=extensions | link.extensions
                )
                return await self._http.send(request, stream=True)
        except httpx.InvalidURL as error:
            raise LinkRefused("the link redirects to what is no URL") from error

    async def _capped_bytes(self, response: httpx.Response, host: str) -> bytes:
        received = bytearray()
        async for chunk in response.aiter_raw():
            received += chunk
            if len(received) > self._max_image_bytes:
                raise ImageTooLarge(
                    f"{host} sent more than max_image_bytes = {self._max_image_bytes:,} bytes"
                )
        try:
            # Some servers pack them unasked.
            return unpacked(response, received, at_most=self._max_image_bytes)
        except httpx.DecodingError:
            return bytes(received)
