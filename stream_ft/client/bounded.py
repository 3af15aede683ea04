"""Reads that end with the call they are for. httpx gives every piece of an answer the whole timeout again."""

from __future__ import annotations

import math
import ssl
import threading
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from stream_ft.ports import Clock


class Until(threading.local):
    """When the call that this thread makes must be over, in monotonic seconds."""

    end: float = math.inf


def bound(http: httpx.Client, clock: Clock) -> Until:
    """Make all of a client's connections, through proxies too, stop reading at ``end``, which is to be set.

    httpx has no setting for it, so this reaches into its transports. A transport without connections is left alone.
    """
    until = Until()
    for transport in (http._transport, *http._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend(pool._network_backend, clock, until)
    return until


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, clock: Clock, until: Until) -> None:
        self._inner = inner
        self._clock = clock
        self._until = until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._clock, self._until)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, timeout, socket_options), self._clock, self._until)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, clock: Clock, until: Until) -> None:
        self._inner = inner
        self._clock = clock
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._until.end - self._clock.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the answer did not end in time")
        return self._inner.read(max_bytes, left if timeout is None else min(timeout, left))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._clock, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
