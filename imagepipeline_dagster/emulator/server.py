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
from imagepipeline_dagster.emulator.settings import EmulatorSettings
from imagepipeline_dagster.loopback import QuietServer


class EmulatorServer(Emulator):
    """An emulator in a daemon thread, for as long as the `with` block lasts.

    `url` is the API's base URL, without a trailing slash; it answers from the block's first line.
    Port 0 takes a free one. A server is entered once; its counts can be read after the block, too.

    Raises:
        OSError: on entering, when the port is taken.
    """

    def __init__(self, settings: EmulatorSettings | None = None, *, port: int = 0) -> None:
        super().__init__(settings or EmulatorSettings())
        self.url = ""
        self._port = port
        self._server: QuietServer | None = None

    def __enter__(self) -> Self:
        self._server = _server(self, port=self._port)
        self.url = self._server.url
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop()
        self.close()


def serve(settings: EmulatorSettings, *, port: int, on_ready: Callable[[str], object]) -> None:
    """Serve in the foreground until interrupted; `on_ready` is told the base URL.

    Raises:
        OSError: when the port is taken.
    """
    with contextlib.closing(Emulator(settings)) as emulator:
        _server(emulator, port=port, on_ready=on_ready).serve_until_stopped()


def _server(
    emulator: Emulator, *, port: int, on_ready: Callable[[str], object] = lambda _url: None
) -> QuietServer:
    return QuietServer(
        emulator.app(),
        port=port,
        on_ready=on_ready,
        on_stop=emulator.end_waits,
        protocol=_Protocol,
    )


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
