from __future__ import annotations

import asyncio
import gzip
import time
import zlib

import httpx
import pytest

from imagepipeline_dagster.api import links
from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.errors import (
    DownloadError,
    DownloadFailed,
    ImageTooLarge,
    LinkExpired,
    LinkRefused,
)
from tests.api.servers import (
    NEVER,
    Received,
    Reply,
    a_request,
    answering,
    client_of,
    closing,
    serving,
)

PICTURE = bytes(range(256)) * 40
OK = Reply(body=PICTURE, headers={"Content-Type": "image/png"})
PUBLIC_API = "http://198.41.0.4"
"""An address that nothing is sent to: it makes the API one on a public address."""


def download(client: ImagePipelineClient, link: str) -> bytes:
    """Download a link with a client, and close it."""
    return closing(client, lambda opened: opened.download(link))


def test_bytes_as_they_are() -> None:
    """A download returns the very bytes, and asks for them without the API key."""
    with serving(OK) as server:
        assert download(client_of(server.url), f"{server.url}/1.png?signature=x") == PICTURE
        (received,) = server.received

    assert received.path == "/1.png?signature=x"
    assert received.headers["host"] == f"127.0.0.1:{server.port}"
    assert received.headers["accept-encoding"] == "identity"
    assert "api-key" not in received.headers


def test_redirect_without_the_key() -> None:
    """A redirect is followed to another host, relative ones too, and no key goes along."""
    with serving(OK) as elsewhere:

        def script(request: Received) -> Reply:
            far = f"http://localhost:{elsewhere.port}/far.png"
            location = "near.png" if request.path == "/a/1.png" else far
            return Reply(status=302, headers={"Location": location, "Set-Cookie": "a=b"})

        with answering(script) as server:
            assert download(client_of(server.url), f"{server.url}/a/1.png") == PICTURE
            near = server.received
        (far,) = elsewhere.received

    assert [request.path for request in near] == ["/a/1.png", "/a/near.png"]
    assert far.headers["host"] == f"localhost:{elsewhere.port}"
    assert not any("api-key" in r.headers or "cookie" in r.headers for r in (*near, far))


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://h/x", "http://u:p@h/x", "http://h:99999/", "data:,"],
)
def test_redirect_to_no_http(location: str) -> None:
    """A redirect to anything but a plain http(s) URL is refused, and not tried again."""
    with serving(Reply(status=302, headers={"Location": location})) as server:
        with pytest.raises(LinkRefused):
            download(client_of(server.url), f"{server.url}/1.png")

        assert len(server.received) == 1


def test_redirect_to_no_url() -> None:
    """A redirect to what cannot be read as a URL is an error of the download, like any other."""
    with serving(Reply(status=302, headers={"Location": "http://[::1"})) as server:
        with pytest.raises(DownloadError):
            download(client_of(server.url), f"{server.url}/1.png")

        assert all(request.path == "/1.png" for request in server.received)


def test_endless_redirects() -> None:
    """After five redirects a link is refused."""
    with serving(Reply(status=302, headers={"Location": "/again"})) as server:
        with pytest.raises(LinkRefused, match="more than 5 redirects"):
            download(client_of(server.url), f"{server.url}/1.png")

        assert len(server.received) == 6


def test_public_api_gives_a_private_link() -> None:
    """A link of a public API to this machine is refused before anything is sent."""
    with serving(OK) as server:
        for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"):
            with pytest.raises(LinkRefused):
                download(client_of(PUBLIC_API), f"http://{host}:{server.port}/1.png")

        assert server.received == []


def test_public_link_redirects_to_a_private_one() -> None:
    """A redirect from a public address to a private one is refused before anything is sent."""
    with serving(OK) as server:
        asked = []

        def redirect(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.host)
            return httpx.Response(302, headers={"Location": f"{server.url}/1.png"})

        client = client_of(PUBLIC_API, transport=httpx.MockTransport(redirect))
        with pytest.raises(LinkRefused, match="not a public address"):
            download(client, "http://198.41.0.4/1.png")

        assert asked == ["198.41.0.4"]
        assert server.received == []


def test_unresolvable_api_counts_as_public() -> None:
    """Where the API's own host cannot be looked up, a link to a private address is refused."""
    with pytest.raises(LinkRefused):
        download(client_of("https://host.invalid"), "http://10.0.0.1/1.png")


def test_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with several addresses is reached at the one that takes the connection."""

    async def several(_: httpx.URL) -> list[str]:
        return ["127.0.0.99", "127.0.0.1"]

    monkeypatch.setattr(links, "_resolve", several)
    with serving(OK) as server:
        client = client_of(server.url, max_attempts=1)
        assert download(client, f"http://pictures.example:{server.port}/1.png") == PICTURE
        (received,) = server.received

    assert received.headers["host"] == f"pictures.example:{server.port}"


@pytest.mark.parametrize(
    "trouble",
    [
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=503, headers={"Retry-After": "0"}),
        Reply(status=500),
        Reply(status=502),
        Reply(status=504),
        Reply(drop=True),
        Reply(body=PICTURE, declared=len(PICTURE) + 1),
    ],
    ids=["429", "503", "500", "502", "504", "dropped", "truncated"],
)
def test_trouble_is_tried_again(trouble: Reply) -> None:
    """A download is tried again after trouble that may pass, and its bytes are never a part."""
    with serving(trouble, trouble, OK) as server:
        assert download(client_of(server.url), f"{server.url}/1.png") == PICTURE
        assert len(server.received) == 3

    with serving(trouble) as server:
        with pytest.raises(DownloadFailed):
            download(client_of(server.url), f"{server.url}/1.png?signature=x")
        assert len(server.received) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    """A download waits as long as Retry-After asks for."""
    with serving(Reply(status=status, headers={"Retry-After": "1"}), OK) as server:
        started = time.monotonic()
        download(client_of(server.url), f"{server.url}/1.png")

    assert time.monotonic() - started > 0.95


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_expired(status: int) -> None:
    """A link that the host refuses has expired, and is not tried again."""
    with serving(Reply(status=status)) as server:
        with pytest.raises(LinkExpired, match=f"127.0.0.1 answered HTTP {status}"):
            download(client_of(server.url), f"{server.url}/1.png")

        assert len(server.received) == 1


def test_too_large_is_cut_early() -> None:
    """A host that would send a gigabyte is cut off soon after the limit."""
    with serving(Reply(endless=True)) as server:
        with pytest.raises(ImageTooLarge, match=r"max_image_bytes = 100,000 bytes"):
            download(client_of(server.url, max_image_bytes=100_000), f"{server.url}/1.png")

        assert len(server.received) == 1
        # What the sockets' buffers hold was sent before the client could hang up.
        assert server.bytes_sent < 30_000_000


def test_exactly_the_limit() -> None:
    """A picture of just `max_image_bytes` is not too large."""
    with serving(OK) as server:
        client = client_of(server.url, max_image_bytes=len(PICTURE))
        assert download(client, f"{server.url}/1.png") == PICTURE


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=PICTURE, pause=NEVER),
        Reply(body=PICTURE * 1000, trickle=0.02),
        Reply(body=PICTURE, informing=10_000),
    ],
    ids=["silent", "trickling", "informing"],
)
def test_slow_host_gives_up(reply: Reply) -> None:
    """A host that is silent, trickles or informs for ever holds no download for ever."""
    with serving(reply) as server:
        client = client_of(server.url, request_timeout=0.05, max_attempts=1)
        with pytest.raises(DownloadFailed, match="was interrupted"):
            download(client, f"{server.url}/1.png")


@pytest.mark.parametrize(
    "link",
    [
        "",
        "pictures.example/1.png",
        "file:///etc/passwd",
        "ftp://pictures.example/1.png",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "http:///1.png",
        "http://[::1",
        "http://h:99999/",
        "http://user@h/1.png",
        "http://user:password@h/1.png",
        "http://h/\n",
        "http://\ud800/",
    ],
)
def test_links_that_are_none(link: str) -> None:
    """What is no plain http(s) URL is refused, whatever address the API is on."""
    with pytest.raises(LinkRefused):
        download(client_of("http://127.0.0.1:9"), link)


@pytest.mark.parametrize("host", ["host.invalid", "a" * 70 + ".example", "a..b", "xn--999999999"])
def test_unknown_hosts(host: str) -> None:
    """A host that cannot be looked up is a failed download, also where no name can be like that."""
    with pytest.raises(DownloadError, match=host[:9]):
        download(client_of("http://127.0.0.1:9"), f"http://{host}/1.png")


def test_errors_hold_no_query() -> None:
    """A download's error names the host and never the signature in the link."""
    with serving(Reply(status=502)) as server, pytest.raises(DownloadFailed) as raised:
        download(client_of(server.url), f"{server.url}/1.png?signature=abc")

    assert "signature" not in str(raised.value)
    assert str(raised.value) == "127.0.0.1 answered HTTP 502"


def test_key_in_a_link_goes_nowhere() -> None:
    """A key that the API puts into a link is blotted out of it, but for a host of the same name."""
    texts = {
        "status": "SUCCESS",
        "download_urls": [
            "https://emulator/1.png?key=emulator",
            "https://emulator?emulator",
            "https://emulator@h/emulator",
            "//emulator",
        ],
    }
    with serving(Reply(value=texts)) as server:
        client = client_of(server.url, api_key="emulator")
        job = closing(client, lambda opened: opened.submit(a_request()))
        assert job.download_urls == (
            "https://emulator/1.png?key=[API key]",
            "https://emulator?[API key]",
            "https://[API key]@h/[API key]",
            "//[API key]",
        )


def test_slow_host_holds_no_others() -> None:
    """Downloads go on beside one that is slow."""

    def script(request: Received) -> Reply:
        return OK if request.path == "/quick.png" else Reply(body=PICTURE, pause=1.0)

    async def go(url: str) -> list[bytes]:
        async with client_of(url) as client:
            slow = asyncio.create_task(client.download(f"{url}/slow.png"))
            quick = [await client.download(f"{url}/quick.png") for _ in range(5)]
            assert not slow.done()
            await slow
            return quick

    with answering(script) as server:
        assert asyncio.run(go(server.url)) == [PICTURE] * 5


PACKED = gzip.compress(PICTURE)
BOMB = gzip.compress(b" " * 9_000_000)


@pytest.mark.parametrize(
    ("body", "coding", "picture"),
    [
        (PACKED, "gzip", PICTURE),
        (zlib.compress(PICTURE), "deflate", PICTURE),
        (PICTURE, "gzip", PICTURE),
        (PICTURE, "aws-chunked", PICTURE),
        (PACKED[:-9], "gzip", PACKED[:-9]),
        (BOMB, "gzip", BOMB),
        (gzip.compress(PACKED), "gzip, gzip", gzip.compress(PACKED)),
    ],
)
def test_a_packed_picture(body: bytes, coding: str, picture: bytes) -> None:
    """One bounded layer is unpacked; what does not unpack to its end is taken as it came."""
    with serving(Reply(body=body, headers={"Content-Encoding": coding})) as server:
        client = client_of(server.url, max_image_bytes=100_000)
        assert download(client, f"{server.url}/a") == picture
