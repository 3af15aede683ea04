"""`/livez`, `/readyz`, `/metrics` and perhaps `/status` of a process whose main thread has other work."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stream_ft import metrics
from stream_ft.errors import AlreadyRunningError

STOP_S = 10.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        AlreadyRunningError: the port is taken, or the address cannot be used.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AlreadyRunningError(
            f"Port {port} of {host} cannot be used: {error.strerror}.",
            "Stop the program that uses it, or choose another port (0 takes a free one).",
        ) from error
    listener.listen(128)
    return listener


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = f"{error.detail}. This port has probes and metrics only; answers come from stream-ft serve."
    return JSONResponse({"error": said}, status_code=error.status_code, headers=error.headers)


class ProbeServer:
    """A small HTTP server in a thread of its own.

    Args:
        host, port: where it listens.
        registry: the series shown.
        ready: whether the process makes progress, and if not, why.
        status: what it last said of itself, as JSON (``OSError`` if nothing yet); without it there is no `/status`.

    Raises:
        AlreadyRunningError: the port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        ready: Callable[[], tuple[bool, str]],
        *,
        status: Callable[[], bytes] | None = None,
    ) -> None:
        self._listener = bind(host, port)
        self.port: int = self._listener.getsockname()[1]

        async def live(request: Request) -> Response:
            return JSONResponse({"live": True})

        async def is_ready(request: Request) -> Response:
            good, why = ready()
            return JSONResponse({"ready": good} if good else {"ready": False, "error": why}, 200 if good else 503)

        async def series(request: Request) -> Response:
            return Response(metrics.render(registry), media_type=CONTENT_TYPE_LATEST)

        routes = [Route("/livez", live), Route("/readyz", is_ready), Route("/metrics", series)]
        if status is not None:
            tell = status

            async def last_said(request: Request) -> Response:
                try:
                    return Response(await asyncio.to_thread(tell), media_type="application/json")
                except OSError:
                    return JSONResponse({"error": "It has not said anything yet."}, 503)

            routes.append(Route("/status", last_said))
        app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _refused},
        )
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="probes", daemon=True
        )

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and close the port. Idempotent."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._listener.close()
