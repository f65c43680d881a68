"""Where the API is: its base URL, checked and in one spelling."""

from __future__ import annotations

import re

import httpx

from imagepipeline_dagster.api.links import is_loopback
from imagepipeline_dagster.errors import CorrectableError

# httpx quotes what cannot stand in a host, and would look the quoted name up.
_HOST = re.compile(r"[^%\\]+")


class AddressInvalid(CorrectableError, ValueError):
    """A base URL that could not be sent to as it stands."""


def origin_of(base_url: str, *, allow_insecure: bool = True) -> str:
    """Return `scheme://host[:port][/path]` of a base URL: its origin in lower case, and its path.

    A gateway serves several APIs at one origin, so the path tells them apart.

    Raises:
        AddressInvalid: it is not an http(s) URL with a host, or holds a user name or a query; or an
            API key would go to another machine over plain http, which `allow_insecure` permits.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise AddressInvalid(f"is no URL: {error}") from error
    # An empty query or fragment counts too: it would swallow the path that is put behind it.
    if url.userinfo or "?" in base_url or "#" in base_url:
        raise AddressInvalid("must hold no user name, password, query or fragment")
    name = url.raw_host.decode("ascii")
    port = 80 if url.port is None else url.port
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(name) or not 0 < port <= 65535:
        raise AddressInvalid(f"{base_url!r} is not an http:// or https:// URL")
    path = url.raw_path.decode("ascii").rstrip("/")
    origin = f"{url.scheme}://{url.netloc.decode('ascii')}{path}"
    if url.scheme == "http" and not allow_insecure and not is_loopback(url):
        raise AddressInvalid(
            f"{origin!r} would carry the API key in the clear; use https://, or set allow_insecure "
            "(the variable IMAGEPIPELINE_ALLOW_INSECURE) where the network between is yours"
        )
    return origin
