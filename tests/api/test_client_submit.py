from __future__ import annotations

import asyncio
import datetime as dt
import gc
import gzip
import json
import time
import warnings
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import canonical_json, request_for
from imagepipeline_dagster.api.errors import (
    AccessRefused,
    AnswerLost,
    CreditsExhausted,
    ImagePipelineError,
    RequestRefused,
    Throttled,
    Unreachable,
    WrongAddress,
)
from imagepipeline_dagster.api.jobs import Job, JobStatus
from imagepipeline_dagster.api.retrying import retry_after
from imagepipeline_dagster.emulator import EmulatorServer, EmulatorSettings, Fault, FaultKind
from tests.api.servers import (
    KEY,
    NEVER,
    PENDING,
    Received,
    Reply,
    a_request,
    answering,
    client_of,
    closed_port,
    closing,
    serving,
)

PAGE = b"<!doctype html><title>Just a moment</title>"
HTML = {"Content-Type": "text/html"}


def submit(client: ImagePipelineClient, **parameters: object) -> Job:
    """Submit a small request with a client, and close it."""
    return closing(client, lambda opened: opened.submit(a_request(**parameters)))


# What was certainly not bought may be sent again; what may have been bought never is.

OUTCOMES: dict[type[ImagePipelineError], dict[str, Reply]] = {
    AnswerLost: {
        "500": Reply(status=500, value={"error": "boom"}),
        "502": Reply(status=502, body=PAGE, headers=HTML),
        "504": Reply(status=504, body=PAGE, headers=HTML),
        "504 of the moderation": Reply(status=504, value={"error": "moderation is late"}),
        "408": Reply(status=408),
        "dropped": Reply(drop=True),
        "truncated": Reply(body=b'{"status": "PENDING", "id": "job-1"', declared=9_999),
        "HTML with 200": Reply(body=PAGE, headers=HTML),
        "empty": Reply(body=b""),
        "no content": Reply(status=204, body=b""),
        "a list of two": Reply(value=[PENDING, PENDING]),
        "PENDING without an id": Reply(value={"status": "PENDING"}),
        "no status": Reply(value={"ok": True}),
        "nested too deeply": Reply(body=b"[" * 200_000),
        "not UTF-8": Reply(body=b'{"status": "\xff"}'),
        "not gzip": Reply(body=b"{}", headers={"Content-Encoding": "gzip"}),
        "a redirect to nowhere": Reply(status=302, headers={"Location": "data:,"}),
        "a gigabyte": Reply(endless=True),
        "a bomb": Reply(
            body=gzip.compress(b" " * 20_000_000), headers={"Content-Encoding": "gzip"}
        ),
        "503": Reply(status=503, value={"error": "busy"}),
        "503 page": Reply(status=503, body=PAGE, headers=HTML),
        "503 until who knows": Reply(status=503, headers={"Retry-After": "soon"}),
        "500 for safety": Reply(status=500, value={"error": "NSFW content detected"}),
        "500 for money": Reply(status=500, value={"error": "insufficient credits"}),
        "409": Reply(status=409, value={"detail": "already being processed"}),
        "SUCCESS without id and links": Reply(value={"status": "SUCCESS"}),
        "an id that holds the key": Reply(value={"status": "PENDING", "id": f"j-{KEY}"}),
        "gzip twice": Reply(
            body=gzip.compress(gzip.compress(b" " * 9_000_000)),
            headers={"Content-Encoding": "gzip, gzip"},
        ),
        "no success and no reason": Reply(value={"success": False, "error": "oops"}),
    },
    RequestRefused: {
        "400": Reply(status=400, value={"error": "no such model"}),
        "400 in plain words": Reply(status=400, body=b"no such model"),
        "400 in no charset": Reply(
            status=400, body=b"no such model", headers={"Content-Type": "text/plain; charset=hex"}
        ),
        "404 with a reason": Reply(status=404, value={"error": "no such model"}),
        "422": Reply(status=422, value={"detail": [{"msg": "too big"}]}),
    },
    AccessRefused: {
        "401": Reply(status=401, value={"error": "bad key"}),
        "403": Reply(status=403, value={"error": "not your model"}),
        "FAILURE for the key": Reply(value={"status": "FAILED", "message": "Invalid API key"}),
        "400 for the key": Reply(status=400, value={"message": "API key not valid."}),
        "422 for the key": Reply(
            status=422, value={"detail": [{"loc": ["header", "api-key"], "msg": "Field required"}]}
        ),
        "error for the key": Reply(value={"status": "error", "message": "Invalid API Key"}),
        "no success for the key": Reply(value={"success": False, "message": "Invalid API Key"}),
    },
    CreditsExhausted: {
        "402": Reply(status=402, value={"error": "pay"}),
        "400 for money": Reply(status=400, value={"error": "insufficient credits"}),
        "FAILURE for money": Reply(value={"status": "FAILURE", "error": "insufficient credits"}),
        "429 for money": Reply(status=429, value={"error": {"code": "insufficient_quota"}}),
        "429 for the plan": Reply(
            status=429, value={"error": "You exceeded your current quota, check your plan"}
        ),
        "no success for money": Reply(
            value={"success": False, "data": None, "error": "Insufficient credits"}
        ),
        "429 for the month": Reply(
            status=429, value={"detail": "Monthly limit reached. Upgrade your plan."}
        ),
    },
    WrongAddress: {
        "410": Reply(status=410, value={"error": "this version is retired"}),
        "403 page": Reply(status=403, body=PAGE, headers=HTML),
        "404 page": Reply(status=404, body=PAGE, headers=HTML),
        "405 page": Reply(status=405, body=PAGE, headers=HTML),
        "404 of a router": Reply(status=404, body=b"404 page not found\n"),
        "404 of a router in JSON": Reply(status=404, value="404 page not found"),
    },
}


@pytest.mark.parametrize(
    ("expected", "name"), [(error, name) for error, replies in OUTCOMES.items() for name in replies]
)
def test_posted_once(expected: type[ImagePipelineError], name: str) -> None:
    """An answer that leaves open whether a job was created, or refuses it, is never asked twice."""
    with serving(OUTCOMES[expected][name]) as server:
        with pytest.raises(expected) as raised:
            submit(client_of(server.url))

        assert type(raised.value) is expected
        assert server.posts == 1
        assert server.bytes_sent < 50_000_000


@pytest.mark.parametrize(
    "message",
    [
        "no GPU",
        "out of memory while drawing a balance of credits",
        f"the worker for {KEY} ran out of memory",
    ],
)
def test_failure_at_once(message: str) -> None:
    """A job may fail at once; neither the prompt's words nor the key in it blame the account."""
    with serving(Reply(value={"status": "FAILURE", "error": message})) as server:
        job = submit(client_of(server.url), prompt="a balance of credits")

    told = message.replace(KEY, "[API key]")
    assert (job.status, job.error, job.id) == (JobStatus.FAILURE, told, None)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(value=PENDING, pause=NEVER),
        Reply(value=PENDING | {"padding": "-" * 10_000}, trickle=0.1),
        Reply(value=PENDING, informing=10_000),
    ],
    ids=["silent", "trickling", "informing"],
)
def test_slow_answer_is_lost(reply: Reply) -> None:
    """A POST whose answer takes longer than `request_timeout` may have been bought: sent once."""
    with serving(reply) as server:
        with pytest.raises(AnswerLost, match="it may have been bought"):
            submit(client_of(server.url, request_timeout=0.4))

        assert server.posts == 1


NAMED = {
    "503 after taking": Reply(status=503, value=PENDING, headers={"Retry-After": "0"}),
    "503 that names it": Reply(status=503, value={"id": "job-1"}, headers={"Retry-After": "0"}),
    "500": Reply(status=500, value={"error": "boom", **PENDING}),
    "409": Reply(status=409, value={"job_id": "job-1", "message": "already being processed"}),
    "422": Reply(status=422, value=PENDING),
    "429": Reply(status=429, value=PENDING),
    "429 that complains": Reply(status=429, value={"job_id": "job-1", "error": "queue is full"}),
    "400 that complains": Reply(status=400, value={"jobId": "job-1", "message": "seed is odd"}),
    "303 to the job": Reply(
        status=303, headers={"Location": "/sdxl/text2image/v1/status/job-1?key=x"}
    ),
    "202 with its address": Reply(
        status=202, body=b"", headers={"Location": "https://a/sdxl/text2image/v1/status/job-1"}
    ),
    "an envelope": Reply(value={"data": PENDING, "success": True}),
    "an id alone": Reply(value={"id": "job-1"}),
    "a list of one": Reply(value=[PENDING]),
    "a length that is wrong": Reply(value=PENDING, declared=9_999),
    "a note in another encoding": Reply(
        body=b'{"status": "PENDING", "id": "job-1", "note": "caf\xe9"}'
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_answer_that_names_a_job_is_a_job(name: str) -> None:
    """Whatever its HTTP status, an answer that names a job was a purchase, and is sent once."""
    with serving(NAMED[name]) as server:
        assert submit(client_of(server.url)).id == "job-1"
        assert server.posts == 1


NOT_NOW = {
    "429": Reply(status=429, value={"error": "busy"}),
    "429 with an id of its own": Reply(status=429, value={"id": "req-1", "error": "busy"}),
    "429 page": Reply(status=429, body=PAGE, headers=HTML),
    "503": Reply(status=503, value={"error": "busy"}, headers={"Retry-After": "0"}),
    "425": Reply(status=425),
    "403 for the rate": Reply(status=403, value={"error": "rate limit exceeded"}),
    "no success for the rate": Reply(value={"success": False, "error": "Too many requests"}),
    "FAILURE for the rate": Reply(
        value={"status": "FAILURE", "error": "rate limit exceeded, try again in 0 seconds"}
    ),
}


@pytest.mark.parametrize("name", NOT_NOW)
def test_throttled_is_sent_again(name: str) -> None:
    """A POST that is refused for now is sent again until it is accepted, and buys one job."""
    refused = NOT_NOW[name]
    with serving(refused, refused, Reply(value=PENDING)) as server:
        assert submit(client_of(server.url)).id == "job-1"
        assert server.posts == 3


def test_a_team_may_name_statuses_that_refuse() -> None:
    """`refusing_statuses` says of an API that it bought nothing; an id beside it still counts."""
    busy, named = Reply(status=502, value={"error": "busy"}), Reply(status=502, value=PENDING)
    with serving(busy, busy, named) as server:
        assert submit(client_of(server.url, refusing_statuses=(429, 502))).id == "job-1"
        assert server.posts == 3


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "message", ["busy", "the moderation queue is full", "credit limit a second"]
)
def test_throttled_to_the_end(status: int, message: str) -> None:
    """After `max_attempts` refusals it is Throttled, whatever the words of the refusal are."""
    refused = Reply(status=status, value={"error": message}, headers={"Retry-After": "0"})
    with serving(refused) as server:
        with pytest.raises(Throttled, match=f"HTTP {status}: {message}"):
            submit(client_of(server.url))

        assert server.posts == 3


def test_retry_after_seconds_is_honoured() -> None:
    """The next attempt waits as many seconds as Retry-After asks for."""
    refused = Reply(status=429, headers={"Retry-After": "1"})
    with serving(refused, Reply(value=PENDING)) as server:
        started = time.monotonic()
        submit(client_of(server.url))

        assert time.monotonic() - started > 0.95
        assert server.posts == 2


def test_retry_after_as_date_reaches_the_error() -> None:
    """Retry-After as an HTTP date becomes the seconds until then."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
    date = format_datetime(soon, usegmt=True)
    refused = Reply(status=429, headers={"Retry-After": date})
    with serving(refused) as server, pytest.raises(Throttled) as raised:
        submit(client_of(server.url, max_attempts=1))

    assert raised.value.retry_after is not None
    assert 30 < raised.value.retry_after <= 60


@pytest.mark.parametrize("name", ["Content-Type", "Location", "Retry-After"])
def test_a_header_beyond_ascii_is_no_defect(name: str) -> None:
    """An answer whose headers hold other letters is read as any other."""
    refused = Reply(status=429, value={"error": "busy"}, headers={name: "s\u00fcdlich"})
    with serving(refused, Reply(value=PENDING)) as server:
        assert submit(client_of(server.url)).id == "job-1"
        assert server.posts == 2


@given(st.text(st.characters(max_codepoint=255)) | st.integers().map(str))
@example("0")
@example("²")
@example("9" * 400)
@example("Wed, 2 Oct 2015 07:28:05555555555557 GMT")
@example("Mon, 01 Jan 99999999 00:00:00 GMT")
@example("Mon, 01 Jan 2035 00:00:00")
def test_any_retry_after(value: str) -> None:
    """Whatever stands in Retry-After, the pause is none or within two minutes."""
    header = value.encode("latin-1")
    pause = retry_after(httpx.Response(429, headers=[(b"Retry-After", header)]))

    assert pause is None or 0 <= pause <= 120


class FailingTransport(httpx.AsyncBaseTransport):
    """A network that fails in one way for some requests and then answers PENDING."""

    def __init__(self, error: Callable[[str], Exception], *, failures: int) -> None:
        self._error = error
        self._failures = failures
        self.requests = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Fail or answer."""
        self.requests += 1
        if self.requests <= self._failures:
            raise self._error("it failed")
        body = httpx.ByteStream(json.dumps(PENDING).encode())
        return httpx.Response(200, stream=body, request=request)


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError]
)
def test_what_never_left_is_sent_again(error: type[httpx.TransportError]) -> None:
    """A POST that provably never reached the server is sent again."""
    transport = FailingTransport(error, failures=2)

    assert submit(client_of("http://api.example", transport=transport)).id == "job-1"
    assert transport.requests == 3


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError,
        httpx.ReadTimeout,
        httpx.WriteError,
        httpx.WriteTimeout,
        httpx.CloseError,
        httpx.RemoteProtocolError,
        httpx.LocalProtocolError,
        httpx.DecodingError,
    ],
)
def test_what_may_have_left_is_sent_once(error: type[httpx.TransportError]) -> None:
    """A POST that broke after it may have left is AnswerLost, and is not sent again."""
    transport = FailingTransport(error, failures=1)

    with pytest.raises(AnswerLost, match=error.__name__):
        submit(client_of("http://api.example", transport=transport))
    assert transport.requests == 1


@pytest.mark.parametrize("host", ["127.0.0.1:9", "host.invalid"])
def test_nobody_there(host: str) -> None:
    """A closed port, and a host that does not resolve, are Unreachable; the error names them."""
    with pytest.raises(Unreachable, match=f"http://{host}"):
        submit(client_of(f"http://{host}"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, AnswerLost),
        (302, AnswerLost),
        (303, AnswerLost),
        (307, WrongAddress),
        (308, WrongAddress),
    ],
)
def test_redirect_is_not_followed(status: int, error: type[ImagePipelineError]) -> None:
    """Neither key nor request follow a redirect; the error says where it leads, without query."""
    with serving(Reply(value=PENDING)) as elsewhere:
        moved = Reply(status=status, headers={"Location": f"{elsewhere.url}/there?token=secret"})
        with serving(moved) as server:
            with pytest.raises(error, match=f"a redirect to {elsewhere.url}/there:") as raised:
                submit(client_of(server.url))

            assert server.posts == 1
        assert "secret" not in str(raised.value)
        assert elsewhere.received == []


def test_an_answer_without_its_end() -> None:
    """A JSON object that came whole is an answer, though its transfer never ends or breaks off."""
    chunk = json.dumps(PENDING).encode()
    cut = Reply(
        body=b"%x\r\n%s\r\n" % (len(chunk), chunk), headers={"Transfer-Encoding": "chunked"}
    )
    half = Reply(body=b"%x\r\n%s" % (len(chunk), chunk[:-5]), headers=cut.headers)
    hanging = Reply(value=PENDING, declared=9_999, linger=1.5)
    with serving(cut, hanging, half) as server:
        assert submit(client_of(server.url)).id == "job-1"
        assert submit(client_of(server.url, request_timeout=0.4)).id == "job-1"
        with pytest.raises(AnswerLost):
            submit(client_of(server.url))


def test_only_what_can_be_unpacked_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a team has Brotli or Zstandard installed, no API is asked to answer packed so."""
    offered = httpx.AsyncClient.__init__

    def with_more(client: httpx.AsyncClient, **options: Any) -> None:  # noqa: ANN401 - httpx's own
        offered(client, **options)
        more = {"Accept-Encoding": "gzip, deflate, br, zstd"}
        client.headers = httpx.Headers(more | dict(options["headers"]))

    monkeypatch.setattr(httpx.AsyncClient, "__init__", with_more)
    with serving(Reply(value=PENDING)) as server:
        submit(client_of(server.url))

        assert server.received[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(value={"status": "PENDING", "id": 12.5}), "names no usable id: 12.5; "),
        (Reply(value={"status": "PENDING", "id": [f"j-{KEY}"]}), r"id: \['j-\[API key\]'\]; "),
        (Reply(body=b'done({"id": "job-1"})'), r'not JSON .* \(done\({"id": "job-1"}\)\); '),
        (Reply(status=500, body=b"upstream is gone\n"), "HTTP 500: upstream is gone; "),
        (Reply(headers={"Content-Encoding": "br"}), "DecodingError: the answer is packed as 'br'"),
    ],
)
def test_what_was_said_instead_of_a_job_is_told(reply: Reply, told: str) -> None:
    """Of a lost answer a person sees what came, to find the job in the vendor's list."""
    with serving(reply) as server, pytest.raises(AnswerLost, match=told) as raised:
        submit(client_of(server.url))

    assert KEY not in str(raised.value)


def test_connection_closed_while_idle() -> None:
    """A kept connection that the server closed meanwhile costs no POST its answer."""

    async def go(client: ImagePipelineClient) -> None:
        for _ in range(3):
            await client.submit(a_request())
            await asyncio.sleep(0.1)

    with serving(Reply(value=PENDING, hang_up=True)) as server:
        closing(client_of(server.url), go)

        assert server.posts == 3


def test_what_waits_for_a_connection_is_held_back() -> None:
    """Whoever sends may still say no when a connection comes free: then nothing leaves."""
    asked: list[bool] = []

    def never_mind(under_way: bool) -> None:  # noqa: FBT001 - the client's callback
        asked.append(under_way)
        if len(asked) > 1:
            raise LookupError("it slept too long")

    async def go(client: ImagePipelineClient) -> None:
        busy = [asyncio.create_task(client.submit(a_request())) for _ in range(8)]
        await asyncio.sleep(0.1)
        with pytest.raises(LookupError):
            await client.submit(a_request(), sending=never_mind)
        await asyncio.gather(*busy)
        await client.submit(a_request())

    with serving(Reply(value=PENDING, pause=0.3)) as server:
        closing(client_of(server.url), go)

        assert server.posts == 9
    assert asked == [True, True]


def test_what_is_sent() -> None:
    """A POST carries key, documented path below the base URL, and the payload, byte for byte."""
    request = request_for(
        "image2image",
        {
            "model_id": "sdxl",
            "prompt": "café",
            "init_image": "https://a/1.png",
            "guidance_scale": 7,
            "strength": 0.1,
            "seed": 2**63 - 1,
        },
    )
    with serving(Reply(value=PENDING)) as server:
        closing(client_of(f"{server.url}/proxy/"), lambda client: client.submit(request))
        (received,) = server.received

    assert received.path == "/proxy/sdxl/image2image/v1"
    assert received.headers["api-key"] == KEY
    assert received.headers["content-type"] == "application/json"
    assert canonical_json(json.loads(received.body)) == canonical_json(request.payload())


def test_success_at_once() -> None:
    """A POST may be answered by SUCCESS with links, with or without an id."""
    done = {"status": "SUCCESS", "download_urls": ["https://a/1.png"]}
    with serving(Reply(value=done), Reply(value={**done, "id": 7})) as server:
        nameless, named = submit(client_of(server.url)), submit(client_of(server.url))

    assert nameless.status is named.status is JobStatus.SUCCESS
    assert nameless.download_urls == named.download_urls == ("https://a/1.png",)
    assert (nameless.id, named.id) == (None, "7")


def test_what_opens_an_echoed_link_is_in_no_error() -> None:
    """A refusal that repeats a link with a signature is told without: errors go into events."""
    message = "cannot load 'https://host.example/a.png?sig=5ec7e7': HTTP 403"
    refused = Reply(status=422, value={"message": message})
    with serving(refused) as server, pytest.raises(RequestRefused) as raised:
        submit(client_of(server.url))

    assert "cannot load 'https://host.example/a.png': HTTP 403" in str(raised.value)


@pytest.mark.parametrize("status", [400, 403, 422])
def test_refused_for_safety(status: int) -> None:
    """An HTTP error that speaks of safety is a filtered request."""
    refused = Reply(status=status, value={"message": "NSFW content detected"})
    with serving(refused) as server, pytest.raises(RequestRefused, match="NSFW") as raised:
        submit(client_of(server.url))

    assert raised.value.filtered


@pytest.mark.parametrize(
    "prompt", ["a credit card on a balance scale", "an explicit safety notice"]
)
@pytest.mark.parametrize("where", ["error", "detail"])
def test_echoed_prompt_says_nothing(prompt: str, where: str) -> None:
    """The words of a prompt that a refusal repeats neither stop the run nor count as filtered."""
    answer: dict[str, object] = {
        "error": {"error": f"cannot parse {prompt!r}"},
        "detail": {"detail": [{"loc": ["body", "seed"], "msg": "too big", "input": prompt}]},
    }
    refused = Reply(status=422, value=answer[where])
    with serving(refused) as server, pytest.raises(RequestRefused) as raised:
        submit(client_of(server.url), prompt=prompt)

    assert not raised.value.filtered


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=FaultKind.DROPPED_ANSWER),
        Fault(kind=FaultKind.SERVER_ERROR, status=502, after_accepting=True),
        Fault(kind=FaultKind.HTML_PAGE, after_accepting=True),
    ],
    ids=["dropped", "error", "page"],
)
def test_hidden_acceptance_of_the_emulator(fault: Fault) -> None:
    """Nothing, or an error page, in place of an accepted POST's answer leads to no second POST."""
    with EmulatorServer() as emulator:
        emulator.set_faults(fault)
        with pytest.raises(AnswerLost):
            submit(client_of(emulator.url, api_key="emulator"))

        assert emulator.stats.posts_received == emulator.stats.posts_accepted == 1


def test_wrong_key_at_the_emulator() -> None:
    """A wrong key is refused, and the error says where it is set."""
    with EmulatorServer() as emulator, pytest.raises(AccessRefused, match="IMAGEPIPELINE_API_KEY"):
        submit(client_of(emulator.url, api_key="wrong"))


def test_hundred_jobs_at_once() -> None:
    """A hundred jobs at the same time are each bought once, waited for and downloaded."""
    settings = EmulatorSettings(latency_seconds=0.2, concurrency=100, image_bytes=2048)

    async def one(client: ImagePipelineClient, seed: int) -> bytes:
        submitted = await client.submit(a_request(seed=seed))
        job = await client.wait(submitted, timeout=60)
        return await client.download(job.download_urls[0])

    async def go(client: ImagePipelineClient) -> list[bytes]:
        return await asyncio.gather(*(one(client, seed) for seed in range(100)))

    with EmulatorServer(settings) as emulator:
        pictures = closing(client_of(emulator.url, api_key="emulator"), go)
        stats = emulator.stats

    assert len(set(pictures)) == 100
    assert stats.posts_received == stats.posts_accepted == 100
    assert stats.bought_twice == ()
    assert stats.downloads_with_key == 0


def test_requests_per_second() -> None:
    """POSTs and GETs together leave at no more than `requests_per_second`."""

    async def go(client: ImagePipelineClient) -> None:
        await asyncio.gather(
            *(client.submit(a_request(seed=seed)) for seed in range(8)),
            *(client.status("text2image", "job-1") for _ in range(8)),
        )

    with serving(Reply(value=PENDING)) as server:
        started = time.monotonic()
        closing(client_of(server.url, requests_per_second=20), go)

        # 16 requests have 15 gaps of 0.05 s.
        assert time.monotonic() - started > 0.6
        assert len(server.received) == 16


def test_a_refusal_holds_back_all_that_would_be_sent() -> None:
    """After a refusal no POST of the client leaves before the time that the server named."""
    sent_at: list[float] = []

    def script(_: Received) -> Reply:
        sent_at.append(time.monotonic())
        busy = Reply(status=429, headers={"Retry-After": "1"})
        return busy if len(sent_at) == 1 else Reply(value=PENDING)

    async def go(client: ImagePipelineClient) -> None:
        refused = asyncio.create_task(client.submit(a_request(seed=1)))
        await asyncio.sleep(0.2)
        await asyncio.gather(refused, client.submit(a_request(seed=2)))

    with answering(script) as server:
        closing(client_of(server.url), go)

    assert [when - sent_at[0] > 0.95 for when in sent_at] == [False, True, True]


def test_nothing_stays_open() -> None:
    """After the client is closed no connection is left for the garbage collector to complain of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests left is not this one's

    with answering(lambda _: Reply(value=PENDING)) as server:
        assert submit(client_of(server.url)).id
        # pytest makes errors of ResourceWarnings, those from the collector too.
        gc.collect()


@pytest.mark.parametrize("key", ["", " ", "a b", "clé", "a\nb", "a\x00b"])
def test_impossible_keys(key: str) -> None:
    """A key that cannot stand in a header is refused without being shown."""
    with pytest.raises(ValueError, match="api_key: must be printable ASCII without blanks"):
        client_of("http://api.example", api_key=key)


def test_proxy_does_not_see_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for the outer world is not asked for an API on this machine, nor for its pictures."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")

    with serving(Reply(value=PENDING)) as server:
        job = submit(client_of(server.url))
        data = closing(client_of(server.url), lambda client: client.download(f"{server.url}/1.png"))

    assert job.id == "job-1"
    assert json.loads(data) == PENDING
