"""Steps that end with the call they are for: connect, write and read.

httpx gives every address of a name, every piece of a request and every piece of an answer the whole timeout again.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpcore
import httpx

from stream_ft.ports import Clock

PIECE = 2_048
"""Bytes of a request that a socket takes at once, if it takes any. More may go in several steps, each of which would
have the whole timeout again."""


class Until(threading.local):
    """When the call that this thread makes must be over, in monotonic seconds."""

    end: float = math.inf


def bound(http: httpx.Client, clock: Clock) -> Until:
    """Make all of a client's connections, through proxies too, stop at ``end``, which is to be set.

    httpx has no setting for it, so this reaches into its transports. A transport without connections is left alone.
    """
    until = Until()
    for transport in (http._transport, *http._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend(pool._network_backend, _Bounded(until, clock))
    return until


class TimeLeft(Mapping[str, float]):
    """httpx's timeouts, each what is left at the moment it is asked for.

    httpx would give every step (pool, connect, write, read) the whole of a fixed timeout, one after the other.
    """

    def __init__(self, clock: Clock, end: float) -> None:
        self._clock = clock
        self._end = end

    def __getitem__(self, name: str) -> float:
        return max(0.001, self._end - self._clock.monotonic())

    def __iter__(self) -> Iterator[str]:
        return iter(("pool", "connect", "write", "read"))

    def __len__(self) -> int:
        return 4


class _Bounded:
    """What a call has left, for one step of it.

    Args:
        until: when it must be over.
        clock: tells the time.
    """

    def __init__(self, until: Until, clock: Clock) -> None:
        self._until = until
        self._clock = clock

    def left(self, timeout: float | None, late: Exception) -> float | None:
        """Seconds for the next step, at most ``timeout``; ``None`` for any.

        Raises:
            Exception: ``late``, if none are left.
        """
        left = self._until.end - self._clock.monotonic()
        if left <= 0:
            raise late
        least = min(left, math.inf if timeout is None else timeout)
        return None if least == math.inf else least


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend, call: _Bounded) -> None:
        self._inner = inner
        self._call = call

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        # The inner backend would give each address of the name the whole timeout.
        addresses = _addresses(host, port)
        for number, address in enumerate(addresses, 1):
            left = self._call.left(timeout, httpcore.ConnectTimeout("no connection in time"))
            # One that does not answer leaves time for those after it.
            share = None if left is None else left / (len(addresses) - number + 1)
            try:
                stream = self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                return _Stream(stream, self._call)
        raise httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, timeout, socket_options), self._call)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, call: _Bounded) -> None:
        self._inner = inner
        self._call = call

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._call.left(timeout, httpcore.ReadTimeout("the answer did not end in time"))
        return self._inner.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            left = self._call.left(timeout, httpcore.WriteTimeout("the request was not taken in time"))
            self._inner.write(buffer[start : start + PIECE], left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._call.left(timeout, httpcore.ConnectTimeout("no connection in time"))
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._call)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _addresses(host: str, port: int) -> list[str]:
    """Of a name, in the order in which they are to be tried. Nothing bounds how long the lookup takes.

    Raises:
        httpcore.ConnectError: the name has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    # An IPv6 address of one link only is nothing without its link.
    return [f"{a[0]}%{a[3]}" if len(a) == 4 and a[3] else str(a[0]) for *_, a in found]
