"""Each step of a call has what the call has left: each address, each piece of a request, each piece of an answer."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Any

import httpcore
import httpx
import pytest

from stream_ft.client.bounded import PIECE, Until, bound
from stream_ft.testing import ManualClock


class Network(httpcore.NetworkBackend):
    """Connects to no address but those it is told; every other takes all the time that it gets.

    Args:
        clock: passes with what is done.
        answers: the addresses that answer.
        drains_in: seconds in which a written piece is taken.
    """

    def __init__(self, clock: ManualClock, answers: tuple[str, ...] = (), drains_in: float = 0.0) -> None:
        self.tried: list[tuple[str, float | None]] = []
        self.stream = Stream(clock, drains_in)
        self._clock = clock
        self._answers = answers

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any) -> httpcore.NetworkStream:
        self.tried.append((host, timeout))
        if host not in self._answers:
            self._clock.advance(timeout or 0.0)
            raise httpcore.ConnectTimeout("nobody there")
        return self.stream


class Stream(httpcore.NetworkStream):
    def __init__(self, clock: ManualClock, drains_in: float) -> None:
        self.written: list[bytes] = []
        self.timeouts: list[float | None] = []
        self._clock = clock
        self._drains_in = drains_in

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.written.append(buffer)
        self.timeouts.append(timeout)
        self._clock.advance(self._drains_in)

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Stream:
        self.timeouts.append(timeout)
        return self


Bounded = Callable[[Network], tuple[httpcore.NetworkBackend, Until]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)


@pytest.fixture
def bounded(clock: ManualClock) -> Bounded:
    """The backend of a client in front of a network, and when its call must be over."""

    def make(network: Network) -> tuple[httpcore.NetworkBackend, Until]:
        pool = httpcore.ConnectionPool(network_backend=network)
        client = httpx.Client(trust_env=False)
        client._transport._pool = pool  # type: ignore[attr-defined]
        until = bound(client, clock)
        return pool._network_backend, until

    return make


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a name its addresses."""

    def name(*addresses: tuple[Any, ...]) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: found)

    return name


def test_addresses_that_do_not_answer_share_the_time_that_is_left(
    clock: ManualClock, bounded: Bounded, named: Callable[..., None]
) -> None:
    named(("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80))
    network = Network(clock)
    backend, until = bounded(network)
    until.end = 1_006.0
    with pytest.raises(httpcore.ConnectTimeout):
        backend.connect_tcp("shop", 80, timeout=6.0)
    assert network.tried == [("10.0.0.1", 2.0), ("10.0.0.2", 2.0), ("10.0.0.3", 2.0)]
    assert clock.monotonic() == 1_006.0


def test_an_address_that_answers_is_found_behind_one_that_does_not(
    clock: ManualClock, bounded: Bounded, named: Callable[..., None]
) -> None:
    named(("fe80::1", 80, 0, 2), ("10.0.0.2", 80))
    network = Network(clock, answers=("10.0.0.2",))
    backend, until = bounded(network)
    until.end = 1_006.0
    backend.connect_tcp("shop", 80, timeout=6.0)
    assert network.tried == [("fe80::1%2", 3.0), ("10.0.0.2", 3.0)]


def test_a_name_without_an_address_is_no_connection(
    clock: ManualClock, bounded: Bounded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*asked: Any, **how: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    backend, _ = bounded(Network(clock))
    with pytest.raises(httpcore.ConnectError, match="not known"):
        backend.connect_tcp("shop", 80)


def test_a_request_that_is_taken_slowly_ends_with_the_call(
    clock: ManualClock, bounded: Bounded, named: Callable[..., None]
) -> None:
    named(("10.0.0.1", 80))
    network = Network(clock, answers=("10.0.0.1",), drains_in=2.0)
    backend, until = bounded(network)
    until.end = 1_005.0
    stream = backend.connect_tcp("shop", 80, timeout=5.0)
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(b"a" * 10 * PIECE, timeout=5.0)
    assert network.stream.timeouts == [5.0, 3.0, 1.0]
    assert clock.monotonic() == 1_006.0


def test_a_request_is_sent_whole_and_in_order(clock: ManualClock, bounded: Bounded, named: Callable[..., None]) -> None:
    named(("10.0.0.1", 80))
    network = Network(clock, answers=("10.0.0.1",))
    backend, until = bounded(network)
    until.end = math.inf  # a call without an end
    request = bytes(range(256)) * 33
    backend.connect_tcp("shop", 80).write(request)
    assert b"".join(network.stream.written) == request
    assert max(map(len, network.stream.written)) <= PIECE
    assert set(network.stream.timeouts) == {None}


def test_a_handshake_has_what_the_connection_left(
    clock: ManualClock, bounded: Bounded, named: Callable[..., None]
) -> None:
    named(("10.0.0.1", 80))
    network = Network(clock, answers=("10.0.0.1",))
    backend, until = bounded(network)
    until.end = 1_005.0
    stream = backend.connect_tcp("shop", 80, timeout=5.0)
    clock.advance(4.0)
    stream.start_tls(None, "shop", timeout=5.0)  # type: ignore[arg-type]
    assert network.stream.timeouts == [1.0]
