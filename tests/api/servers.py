"""HTTP servers that do, on request, what the emulator does not."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from socketserver import TCPServer
from typing import Any, TypeVar

from imagepipeline_dagster.api.client import ImagePipelineClient
from imagepipeline_dagster.api.contract import GenerationRequest, request_for

T = TypeVar("T")

KEY = "key-5f2c9a/secret"
PENDING = {"status": "PENDING", "id": "job-1"}
NEVER = 3600.0
"""Seconds: a test that waits for them is long given up."""
_LONGEST_ENDLESS_BODY = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to do with a request.

    `value` is sent as JSON, or `body` as it is. `declared` is a Content-Length that differs from
    the body's. `pause` is in seconds, before the answer; `trickle` between its single bytes.
    `informing` sends so many 1xx answers before, a tenth of a second apart. `endless` sends a
    gigabyte, `drop` nothing at all, and `hang_up` closes the connection after an answer that
    promised to keep it. `linger` is in seconds, with the connection open after an answer.
    """

    status: int = 200
    value: object = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    declared: int | None = None
    pause: float = 0.0
    trickle: float = 0.0
    endless: bool = False
    drop: bool = False
    hang_up: bool = False
    informing: int = 0
    linger: float = 0.0


class ScriptedServer:
    """A server on loopback that asks `script` about each request, and remembers the requests."""

    def __init__(self, script: Callable[[Received], Reply]) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), self._handler())
        self.received: list[Received] = []
        self.bytes_sent = 0
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> int:
        """How many POSTs arrived."""
        return self.count("POST")

    def count(self, method: str) -> int:
        """Return how many requests of a method arrived."""
        return sum(request.method == method for request in self.received)

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                request = Received(
                    self.command,
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
                with server._lock:
                    server.received.append(request)
                    reply = server._script(request)
                time.sleep(reply.pause)
                if reply.drop or reply.hang_up:
                    self.close_connection = True
                if not reply.drop:
                    self._send(reply)

            def _send(self, reply: Reply) -> None:
                body = json.dumps(reply.value).encode() if reply.body is None else reply.body
                length = len(body) if reply.declared is None else reply.declared
                _inform(self.wfile, reply.informing)
                self.send_response_only(reply.status)
                headers = {"Content-Type": "application/json", **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                declared = _LONGEST_ENDLESS_BODY if reply.endless else length
                chunked = "Transfer-Encoding" in headers
                if not chunked:
                    self.send_header("Content-Length", str(declared))
                self.end_headers()
                if chunked or reply.declared is not None:
                    self.close_connection = True
                for piece in _pieces(reply, body):
                    self.wfile.write(piece)
                    server.bytes_sent += len(piece)
                    time.sleep(reply.trickle)
                time.sleep(reply.linger)

            do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler


def _inform(client: BufferedIOBase, answers: int) -> None:
    for _ in range(answers):
        client.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.1)


def _pieces(reply: Reply, body: bytes) -> Iterator[bytes]:
    if reply.endless:
        piece = b" " * 65_536
        for _ in range(_LONGEST_ENDLESS_BODY // len(piece)):
            yield piece
    elif reply.trickle:
        for byte in body:
            yield bytes([byte])
    else:
        yield body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind without looking up this machine's name, as the library's server does."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is what some tests are about."""


@contextmanager
def serving(*replies: Reply) -> Iterator[ScriptedServer]:
    """Serve these replies one after another, and the last one for ever."""
    waiting = list(replies)
    with answering(lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0]) as server:
        yield server


@contextmanager
def answering(script: Callable[[Received], Reply]) -> Iterator[ScriptedServer]:
    """Serve what `script` says about each request."""
    server = ScriptedServer(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def closed_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def client_of(url: str, **options: Any) -> ImagePipelineClient:  # noqa: ANN401 - the client's own
    """Return a client that repeats up to three times without noticeable pauses."""
    given = {"api_key": KEY, "max_attempts": 3, "wait_initial": 0.01, "allow_insecure": True}
    return ImagePipelineClient(base_url=url, **{**given, **options})


def closing(client: ImagePipelineClient, work: Callable[[ImagePipelineClient], Awaitable[T]]) -> T:
    """Do some work with a client, and close it."""

    async def go() -> T:
        async with client:
            return await work(client)

    return asyncio.run(go())


def a_request(**parameters: object) -> GenerationRequest:
    """Return a small valid request."""
    given = {"model_id": "sdxl", "prompt": "a lighthouse at dusk", "seed": 7, **parameters}
    return request_for("text2image", given)
