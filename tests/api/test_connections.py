from __future__ import annotations

import sys
from pathlib import Path

import pytest

from imagepipeline_dagster.api.errors import ConnectionUnusable
from tests.api.servers import client_of


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificates' file that is missing or holds none is named, with its variable."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with pytest.raises(ConnectionUnusable, match=f"SSL_CERT_FILE={file} .*cannot be read"):
        client_of("https://api.example")


def test_a_proxy_that_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy without its package is told with what to install."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)

    with pytest.raises(ConnectionUnusable, match=r"ALL_PROXY cannot be used: .*httpx\[socks\]"):
        client_of("https://api.example")


@pytest.mark.parametrize("value", ["[::1]", "::1/128", "localhost,fe80::/10"])
def test_a_proxy_exception_that_cannot_be_read(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address in NO_PROXY that httpx does not read is told, and how to write it."""
    monkeypatch.setenv("NO_PROXY", value)

    with pytest.raises(ConnectionUnusable, match=r"NO_PROXY cannot be read: .* without brackets"):
        client_of("https://api.example")
