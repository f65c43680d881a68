from __future__ import annotations

import pytest

from imagepipeline_dagster.api.address import AddressInvalid, origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://API.imagepipeline.io", "https://api.imagepipeline.io"),
        ("https://api.imagepipeline.io:443/", "https://api.imagepipeline.io"),
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("http://[::1]:8188", "http://[::1]:8188"),
        ("https://gateway.example/Staging/", "https://gateway.example/Staging"),
        ("https://gateway.example/a/../prod//", "https://gateway.example/prod"),
        ("https://gateway.example/a b", "https://gateway.example/a%20b"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origin(url: str, origin: str) -> None:
    """One address is one text: scheme, host in lower case, port where it is not the usual, path."""
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.imagepipeline.io",
        "ftp://api.imagepipeline.io",
        "https://",
        "https://[::1",
        "https://[",
        "https://a b",
        "https://h\\\\x",
        "https://h:0",
        "https://h:99999",
        "https://h\n",
        "https://user:password@h",
        "https://h?a=b",
        "https://h?",
        "https://h#",
    ],
)
def test_impossible_base_urls(url: str) -> None:
    """A base URL that could not be sent to as it stands is refused, without showing a password."""
    with pytest.raises(AddressInvalid) as raised:
        origin_of(url)

    assert "password@" not in str(raised.value)
