"""Where a picture may be downloaded from: the check that keeps a link out of private networks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import urllib.request
from dataclasses import dataclass

import httpx

from imagepipeline_dagster.api.errors import DownloadFailed, LinkRefused

__all__ = ["CheckedLink", "check_link", "is_private_host"]


@dataclass(frozen=True, slots=True)
class CheckedLink:
    """A link that passed: the URL to connect to, and the headers and extensions that go with it.

    The URL holds the very address that was checked, so that a name that resolves differently a
    moment later leads nowhere else; the host's name stays in the Host header and in TLS.
    """

    url: httpx.URL
    headers: dict[str, str]
    extensions: dict[str, str]


async def check_link(link: str | httpx.URL, *, allow_private: bool) -> CheckedLink:
    """Return the link, pinned to a permitted address.

    Raises:
        LinkRefused: it is not http(s), names no host, or leads to an address that is private,
            link-local, loopback or otherwise not public, and `allow_private` is False.
        DownloadFailed: its host cannot be resolved.
    """
    try:
        url = httpx.URL(link)
    except httpx.InvalidURL as error:
        raise LinkRefused("the API gave a link that is no URL") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise LinkRefused(f"only http(s) links are downloaded, not {url.scheme or 'this'}: links")
    proxied = _has_proxy(url)
    addresses = [url.host] if proxied and not _is_address(url.host) else await _resolve(url)
    if not allow_private:
        for address in addresses:
            if _is_address(address) and not ipaddress.ip_address(address).is_global:
                raise LinkRefused(
                    f"the link's host {url.host} is at {address}, which is not a public address"
                )
    if proxied:
        return CheckedLink(url, {}, {})
    host_header = url.netloc.decode("ascii")
    return CheckedLink(
        url.copy_with(host=addresses[0]), {"Host": host_header}, {"sni_hostname": url.host}
    )


def is_private_host(url: httpx.URL) -> bool:
    """Tell whether a URL's host is, or resolves to, an address that is not public."""
    try:
        found = socket.getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(not ipaddress.ip_address(entry[4][0]).is_global for entry in found)


async def _resolve(url: httpx.URL) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DownloadFailed(f"the link's host {url.host} cannot be resolved: {error}") from error
    return [str(entry[4][0]) for entry in found]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _has_proxy(url: httpx.URL) -> bool:
    # Behind a proxy the names of the outer world need not resolve in here: the proxy looks them up.
    proxies = urllib.request.getproxies()
    has_one = url.scheme in proxies or "all" in proxies
    return has_one and not urllib.request.proxy_bypass(url.host)
