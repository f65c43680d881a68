"""The emulator on a socket: in a thread beside the code under test, or in the foreground."""

from __future__ import annotations

import contextlib
import socket
import threading
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Self

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from imagepipeline_dagster.emulator.answers import DROP_EXTENSION
from imagepipeline_dagster.emulator.app import Emulator
from imagepipeline_dagster.emulator.faults import Fault
from imagepipeline_dagster.emulator.settings import EmulatorSettings
from imagepipeline_dagster.emulator.stats import EmulatorStats

__all__ = ["LOOPBACK", "EmulatorServer", "serve"]

LOOPBACK = "127.0.0.1"
_BACKLOG = 512
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
# Longer than any client keeps a connection: a loaded machine closes none that is just being used.
_KEEP_ALIVE_SECONDS = 75


class EmulatorServer:
    """An emulator in a daemon thread, for as long as the `with` block lasts.

    The port is known and answers from the block's first line; port 0 takes a free one. A server is
    entered once; its counts can be read after the block, too.

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(
        self, settings: EmulatorSettings | None = None, *, host: str = LOOPBACK, port: int = 0
    ) -> None:
        self.settings = settings or EmulatorSettings()
        self._emulator = Emulator(self.settings)
        self._address = (host, port)
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        listening = _listen(*self._address)
        self._address = listening.getsockname()[:2]
        self._running = _Running(self._emulator, listening)
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None
        self._emulator.close()

    @property
    def url(self) -> str:
        """The API's base URL, without a trailing slash."""
        return _url(*self._address)

    @property
    def stats(self) -> EmulatorStats:
        """What was asked so far."""
        return self._emulator.stats

    def set_faults(self, *faults: Fault) -> None:
        """Put these faults in force in place of the earlier ones; none: all is well again."""
        self._emulator.set_faults(*faults)


def serve(
    settings: EmulatorSettings,
    *,
    host: str = LOOPBACK,
    port: int = 8765,
    on_ready: Callable[[str], object] = lambda _url: None,
) -> None:
    """Serve in the foreground until interrupted; `on_ready` is told the base URL.

    Raises:
        OSError: when the port is taken.
    """
    emulator = Emulator(settings)
    listening = _listen(host, port)
    url = _url(*listening.getsockname()[:2])
    server = _Server(emulator, on_ready=lambda: on_ready(url))
    # uvicorn stops at Ctrl-C and then raises it again; an interrupted server did what it was asked.
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(emulator), listening:
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn, silent but for warnings, that says when it answers."""

    def __init__(self, emulator: Emulator, *, on_ready: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                emulator.app(),
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._emulator = emulator
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._emulator.end_waits()
        await super().shutdown(sockets=sockets)


class _Protocol(H11Protocol):
    """HTTP/1.1 whose connection an answer can close without being given."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] # asyncio's own wider type
        answered_by = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {DROP_EXTENSION: transport.close}
            await answered_by(scope, receive, send)

        self.app = app


class _Running:
    """A server's thread."""

    def __init__(self, emulator: Emulator, listening: socket.socket) -> None:
        ready = threading.Event()
        self._server = _Server(emulator, on_ready=ready.set)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="emulator", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            raise TimeoutError("the emulator did not start")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
