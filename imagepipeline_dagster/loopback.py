"""A small server on this computer: in a thread beside other code, or in the foreground."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

LOOPBACK = "127.0.0.1"
_BACKLOG = 512
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
# Longer than any client keeps a connection: a loaded machine closes none that is just being used.
_KEEP_ALIVE_SECONDS = 75


def listen(port: int = 0) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        OSError: when the port is taken.
    """
    return socket.create_server((LOOPBACK, port), backlog=_BACKLOG)


def url_of(listening: socket.socket) -> str:
    """Return the URL that the socket is reached at, without a trailing slash."""
    host, port = listening.getsockname()
    return f"http://{host}:{port}"


class QuietServer(uvicorn.Server):
    """uvicorn on one socket, silent but for warnings, that says when it answers.

    `on_ready` is called when it answers, `on_stop` before it waits for the answers under way.
    `protocol` is how it speaks HTTP/1.1.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        on_ready: Callable[[], object] = lambda: None,
        on_stop: Callable[[], object] = lambda: None,
        protocol: type[H11Protocol] = H11Protocol,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._listening = listening
        self._on_ready = on_ready
        self._on_stop = on_stop

    def serve_until_stopped(self) -> None:
        """Serve in this thread, until Ctrl-C or until `should_exit` is set; close the socket."""
        # uvicorn stops at Ctrl-C and raises it again; who interrupts a server wants just that.
        with contextlib.suppress(KeyboardInterrupt), self._listening:
            self.run(sockets=[self._listening])

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets=sockets)


class BackgroundServer:
    """A `QuietServer` in a daemon thread; it answers once this is made.

    Raises:
        TimeoutError: it did not start.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        on_stop: Callable[[], object] = lambda: None,
        protocol: type[H11Protocol] = H11Protocol,
    ) -> None:
        ready = threading.Event()
        self._server = QuietServer(
            app, listening, on_ready=ready.set, on_stop=on_stop, protocol=protocol
        )
        self._thread = threading.Thread(
            target=self._server.serve_until_stopped, name="loopback-server", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_SECONDS):
            raise TimeoutError("the server did not start")

    def stop(self) -> None:
        """End the server, and wait a little for it."""
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
