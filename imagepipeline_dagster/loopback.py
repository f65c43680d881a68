"""A small server on this computer: in a thread beside other code, or in the foreground."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from imagepipeline_dagster.errors import CorrectableError

LOOPBACK = "127.0.0.1"
_BACKLOG = 512
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
# Longer than any client keeps a connection: a loaded machine closes none that is just being used.
_KEEP_ALIVE_SECONDS = 75


class PortUnusable(CorrectableError):
    """Nothing can listen on a port; the message says why, and what to do."""


class QuietServer(uvicorn.Server):
    """uvicorn on one port of this computer, silent but for warnings, that says when it answers.

    `port` 0 takes a free one; the socket listens from the beginning, and `url` is where, without a
    trailing slash. `on_ready` is told it when the server answers, `on_stop` is called before it
    waits for the answers under way. `protocol` is how it speaks HTTP/1.1.

    Raises:
        PortUnusable: the port is taken, or nobody but root may take it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int = 0,
        on_ready: Callable[[str], object] = lambda _url: None,
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
        try:
            self._listening = socket.create_server((LOOPBACK, port), backlog=_BACKLOG)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise PortUnusable(f"port {port} of {LOOPBACK}: {why}; choose another one") from error
        self.url = f"http://{LOOPBACK}:{self._listening.getsockname()[1]}"
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._answers = threading.Event()
        self._thread = threading.Thread(
            target=self.serve_until_stopped, name="loopback-server", daemon=True
        )

    def serve_until_stopped(self) -> None:
        """Serve in this thread, until Ctrl-C or until `should_exit` is set; close the socket."""
        # uvicorn stops at Ctrl-C and raises it again; who interrupts a server wants just that.
        with contextlib.suppress(KeyboardInterrupt), self._listening:
            self.run(sockets=[self._listening])

    def start(self) -> None:
        """Serve in a daemon thread until `stop`; the server answers once this returns.

        Raises:
            TimeoutError: the server did not start.
        """
        self._thread.start()
        if not self._answers.wait(_START_SECONDS):
            raise TimeoutError("the server did not start")

    def stop(self) -> None:
        """End the server, and wait a little for it."""
        self.should_exit = True
        self._thread.join(_STOP_SECONDS)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._answers.set()
        self._on_ready(self.url)

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets=sockets)
