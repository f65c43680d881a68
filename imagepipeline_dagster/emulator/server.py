"""The emulator on a socket: in a thread beside the code under test, or in the foreground."""

from __future__ import annotations

import contextlib
from asyncio import BaseTransport
from collections.abc import Callable
from typing import Self

from starlette.types import Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from imagepipeline_dagster.emulator.answers import DROP_EXTENSION
from imagepipeline_dagster.emulator.app import Emulator
from imagepipeline_dagster.emulator.faults import Fault
from imagepipeline_dagster.emulator.settings import EmulatorSettings
from imagepipeline_dagster.emulator.stats import EmulatorStats
from imagepipeline_dagster.loopback import BackgroundServer, QuietServer, listen, url_of


class EmulatorServer:
    """An emulator in a daemon thread, for as long as the `with` block lasts.

    The port is known and answers from the block's first line; port 0 takes a free one. A server is
    entered once; its counts can be read after the block, too.

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(self, settings: EmulatorSettings | None = None, *, port: int = 0) -> None:
        self.settings = settings or EmulatorSettings()
        self._emulator = Emulator(self.settings)
        self._port = port
        self._url = ""
        self._running: BackgroundServer | None = None

    def __enter__(self) -> Self:
        listening = listen(self._port)
        self._url = url_of(listening)
        self._running = BackgroundServer(
            self._emulator.app(), listening, on_stop=self._emulator.end_waits, protocol=_Protocol
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None
        self._emulator.close()

    @property
    def url(self) -> str:
        """The API's base URL, without a trailing slash; empty before the block."""
        return self._url

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
    port: int,
    on_ready: Callable[[str], object] = lambda _url: None,
) -> None:
    """Serve in the foreground until interrupted; `on_ready` is told the base URL.

    Raises:
        OSError: when the port is taken.
    """
    emulator = Emulator(settings)
    listening = listen(port)
    url = url_of(listening)
    server = QuietServer(
        emulator.app(),
        listening,
        on_ready=lambda: on_ready(url),
        on_stop=emulator.end_waits,
        protocol=_Protocol,
    )
    with contextlib.closing(emulator):
        server.serve_until_stopped()


class _Protocol(H11Protocol):
    """HTTP/1.1 whose connection an answer can close without being given."""

    @override
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] # asyncio's own wider type
        answered_by = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {DROP_EXTENSION: transport.close}
            await answered_by(scope, receive, send)

        self.app = app
