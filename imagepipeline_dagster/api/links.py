"""Where a picture may be downloaded from: the check that keeps a link out of private networks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import urllib.request
from dataclasses import dataclass

import httpx

from imagepipeline_dagster.api.errors import DownloadFailed, LinkRefused

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_MAX_ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class CheckedLink:
    """A link that passed: the URLs to try in turn, and what goes with each.

    The URLs hold the very addresses that were checked, so that a name that resolves differently a
    moment later leads nowhere else; the host's name stays in the Host header and in TLS.
    """

    urls: tuple[httpx.URL, ...]
    headers: dict[str, str]
    extensions: dict[str, str]


def read_link(link: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Return a link as a URL; `base` is the URL that redirected to it.

    Raises:
        LinkRefused: it is not an http(s) URL with a host, or holds a user name.
    """
    try:
        url = httpx.URL(link) if base is None else base.join(link)
    except (httpx.InvalidURL, ValueError) as error:
        raise LinkRefused("the link is no URL") from error
    if url.scheme not in ("http", "https"):
        raise LinkRefused(f"only http(s) links are downloaded, not {url.scheme or 'other'} links")
    # httpx reads any number as a port, and the socket would fail on it in its own way.
    if not url.raw_host or (url.port or 0) > 65535:
        raise LinkRefused("the link has no proper host")
    if url.userinfo:
        raise LinkRefused("the link has a user name in it")
    return url


async def check_link(
    url: httpx.URL, *, allow_private: bool, use_proxies: bool = True
) -> CheckedLink:
    """Return the link, pinned to permitted addresses.

    Raises:
        LinkRefused: it leads to an address that is private, link-local, loopback or otherwise not
            public, and `allow_private` is False.
        DownloadFailed: its host cannot be resolved.
    """
    host = url.raw_host.decode("ascii")
    proxied = use_proxies and _has_proxy(url)
    if not allow_private and _is_localhost(host):
        raise LinkRefused(f"the link's host {host} is this machine")
    addresses = _numeric(host)
    if not (addresses or proxied):
        addresses = await _resolve(url)
    if not allow_private:
        for address in addresses:
            if not _is_public(address):
                raise LinkRefused(
                    f"the link's host {host} is at {address}, which is not a public address"
                )
    if proxied:
        return CheckedLink((url,), {}, {})
    headers = {"Host": url.netloc.decode("ascii")}
    if url.scheme == "https":
        # A kept connection is found again by its address: another name at the same address must
        # not be asked over a connection whose certificate was checked for this one.
        headers["Connection"] = "close"
    try:
        urls = tuple(url.copy_with(host=address) for address in addresses[:_MAX_ADDRESSES])
    except httpx.InvalidURL as error:
        raise LinkRefused(f"the link's host {host} has an address that is no URL") from error
    return CheckedLink(urls, headers, {"sni_hostname": host})


async def is_private_host(url: httpx.URL) -> bool | None:
    """Tell whether a URL's host is, or resolves to, an address that is not public.

    None: it cannot be resolved now.
    """
    try:
        return not all(_is_public(address) for address in await _resolve(url))
    except DownloadFailed:
        return None


def is_loopback(url: httpx.URL) -> bool:
    """Tell, without asking a name server, whether a URL leads to this very machine."""
    host = url.raw_host.decode("ascii")
    return _is_localhost(host) or any(
        ipaddress.ip_address(address).is_loopback for address in _numeric(host)
    )


async def _resolve(url: httpx.URL) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        # As bytes: a name as text would go through a codec that knows an older IDNA than httpx.
        entries = await loop.getaddrinfo(url.raw_host, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        host = url.raw_host.decode("ascii")
        raise DownloadFailed(f"the link's host {host} cannot be resolved: {error}") from error
    return [str(entry[4][0]) for entry in entries]


def _numeric(host: str) -> list[str]:
    """Return the address that a host spells in digits, in any of the ways that sockets read.

    Behind a proxy the names of the outer world need not resolve in here; these need no look-up.
    """
    try:
        entries = socket.getaddrinfo(
            host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except OSError:
        return []
    return [str(entry[4][0]) for entry in entries]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    # The transition forms lead to the IPv4 address inside, which Python's own flags overlook.
    inner = ip.ipv4_mapped or ip.sixtofour
    if ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None:
        return _is_public(str(inner))
    return ip in _GLOBAL_UNICAST and ip.is_global


def _is_localhost(host: str) -> bool:
    return f".{host.rstrip('.')}".endswith(".localhost")


def _has_proxy(url: httpx.URL) -> bool:
    # Behind a proxy the names of the outer world need not resolve in here: the proxy looks them up.
    proxies = urllib.request.getproxies()
    has_one = url.scheme in proxies or "all" in proxies
    return has_one and not urllib.request.proxy_bypass(url.raw_host.decode("ascii"))
