from __future__ import annotations

import asyncio

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagepipeline_dagster.api import links
from imagepipeline_dagster.api.errors import DownloadFailed, LinkRefused
from imagepipeline_dagster.api.links import (
    CheckedLink,
    check_link,
    is_loopback,
    is_private_host,
    read_link,
)

PRIVATE_HOSTS = [
    "127.0.0.1",
    "127.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "127。0。0。1",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "2852039166",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:100.64.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "api.localhost",
]


def check(link: str, *, allow_private: bool = False, use_proxies: bool = True) -> CheckedLink:
    """Read a link and check where it leads."""
    return asyncio.run(
        check_link(read_link(link), allow_private=allow_private, use_proxies=use_proxies)
    )


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name be at these addresses."""

    async def resolved(_: httpx.URL) -> list[str]:
        return list(addresses)

    monkeypatch.setattr(links, "_resolve", resolved)


@pytest.mark.parametrize("proxy", ["", "http://proxy.example:3128"])
@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_private_hosts(host: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is not public is refused, in every spelling, and no proxy asked for it."""
    monkeypatch.setenv("http_proxy", proxy)

    with pytest.raises(LinkRefused):
        check(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]"])
def test_public_hosts(host: str) -> None:
    """A public address is permitted."""
    (url,) = check(f"http://{host}:8080/1.png?a=b").urls

    assert (url.port, url.raw_path) == (8080, b"/1.png?a=b")


def test_private_host_of_a_private_api() -> None:
    """Where the API itself is on a private address, its links may be, too."""
    assert check("http://127.0.0.1/1.png", allow_private=True).urls == (
        httpx.URL("http://127.0.0.1/1.png"),
    )


def test_name_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is replaced by the address that was checked, and stays in the Host header and TLS."""
    resolve_to(monkeypatch, "8.8.8.8", "2001:4860:4860::8888")

    assert check("https://Pictures.example:8443/1.png") == CheckedLink(
        (
            httpx.URL("https://8.8.8.8:8443/1.png"),
            httpx.URL("https://[2001:4860:4860::8888]:8443/1.png"),
        ),
        {"Host": "pictures.example:8443", "Connection": "close"},
        {"sni_hostname": "pictures.example"},
    )


def test_one_private_address_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a private address is refused, whatever their order."""
    resolve_to(monkeypatch, "8.8.8.8", "10.0.0.1")

    with pytest.raises(LinkRefused, match=r"pictures\.example is at 10\.0\.0\.1"):
        check("https://pictures.example/1.png")


def test_name_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy a name is left to it, for such names need not resolve in here."""
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")

    link = check("https://host.invalid/1.png")
    assert link == CheckedLink((httpx.URL("https://host.invalid/1.png"),), {}, {})
    with pytest.raises(DownloadFailed):
        check("https://host.invalid/1.png", use_proxies=False)


def test_international_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with letters beyond ASCII is used in its encoded form throughout."""
    resolve_to(monkeypatch, "8.8.8.8")

    link = check("https://bücher.example/1.png")
    assert link.headers["Host"] == link.extensions["sni_hostname"] == "xn--bcher-kva.example"


@given(st.text(), st.none() | st.just("http://h/a/b"))
@example("http://[::1", None)
@example("//[", "http://h/")
@example("http://xn--a/", None)
@example("http://h:99999", None)
@example("http://" + "a" * 70_000, None)
def test_any_link(link: str, base: str | None) -> None:
    """Whatever stands in place of a link, it is an http(s) URL with a host or is refused."""
    try:
        url = read_link(link, base=httpx.URL(base) if base else None)
    except LinkRefused:
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:80", True),
        ("http://[::1]", True),
        ("http://192.168.0.9", True),
        ("http://localhost", True),
        ("http://8.8.8.8", False),
        ("http://host.invalid", None),
    ],
)
def test_is_private_host(url: str, *, private: bool | None) -> None:
    """A host is private by its address; one that cannot be looked up is neither."""
    assert asyncio.run(is_private_host(httpx.URL(url))) is private


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1", True),
        ("http://127.0.0.2:8188", True),
        ("http://[::1]", True),
        ("http://localhost:80", True),
        ("http://192.168.0.9", False),
        ("http://notlocalhost", False),
        ("https://api.imagepipeline.io", False),
    ],
)
def test_is_loopback(url: str, *, loopback: bool) -> None:
    """This machine is told by its names and addresses alone."""
    assert is_loopback(httpx.URL(url)) is loopback
