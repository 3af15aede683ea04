"""A real server on a free port, for clients that need one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stream_ft.wiring.serve import HttpServer


def listener(port: int = 0) -> socket.socket:
    """A bound socket that does not listen yet."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


@contextmanager
def running(app: Any, port: int = 0) -> Iterator[str]:
    """The URL at which ``app`` answers."""
    with listener(port) as bound:
        bound.listen()
        server = HttpServer(app, bound, drain_s=10)
        server.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.close()
