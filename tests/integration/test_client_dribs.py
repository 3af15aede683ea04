"""A server that never stops sending, a byte at a time, or reads as slowly, holds nobody beyond the deadline."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from stream_ft.client import AsyncClient, Client, DeadlineError

STARTS = {
    "in the status line": b"HTTP/1.1 200 O",
    "in a header": b"HTTP/1.1 200 OK\r\nx-long: ",
    "before a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=",
    "in the body": b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n",
}


@pytest.fixture(params=STARTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server that begins an answer so and goes on with one byte every 20 ms."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                connection.sendall(STARTS[request.param])
                while not over.wait(0.02):
                    connection.sendall(b"a")
            except OSError:
                return  # the client has had enough

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    over.set()
    listening.close()


def asked(url: str) -> None:
    with Client(url, deadline_s=0.4) as client:
        client.status()


def asked_under_asyncio(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url, deadline_s=0.4) as client:
            await client.status()

    asyncio.run(main())


@pytest.mark.parametrize("ask", [asked, asked_under_asyncio])
def test_a_call_is_over_at_its_deadline(url: str, ask: Callable[[str], None]) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineError, match=r"within 0\.4 s"):
        ask(url)
    assert 0.3 < time.monotonic() - begun < 5


@pytest.fixture
def slow_reader() -> Iterator[str]:
    """Of a server that takes some of a request every 10 ms, and so never leaves the client without progress."""
    over = threading.Event()
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
    listening.bind(("127.0.0.1", 0))
    listening.listen()

    def take() -> None:
        connection, _ = listening.accept()
        with connection:
            while not over.wait(0.01) and connection.recv(131_072):
                pass

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    over.set()
    thread.join(10)
    listening.close()


def publish(url: str) -> None:
    with Client(url, deadline_s=0.6) as client:
        client.labels([("a" * 20_000, "x")] * 3_000)


def publish_under_asyncio(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url, deadline_s=0.6) as client:
            await client.labels([("a" * 20_000, "x")] * 3_000)

    asyncio.run(main())


@pytest.mark.parametrize("send", [publish, publish_under_asyncio])
def test_a_request_that_is_taken_slowly_is_over_at_its_deadline(slow_reader: str, send: Callable[[str], None]) -> None:
    begun = time.monotonic()
    with pytest.raises(DeadlineError, match=r"within 0\.6 s"):
        send(slow_reader)
    assert 0.3 < time.monotonic() - begun < 3


def test_a_connection_that_is_used_again_has_the_time_of_the_next_call() -> None:
    """A call must not inherit the deadline of the one before it on the same connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    body = b'{"model": "m", "serve": {}, "learn": null}'
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    connections = []

    def serve() -> None:
        connection, _ = listening.accept()
        connections.append(connection)
        for pause in (0.0, 0.5):
            connection.recv(65_536)
            time.sleep(pause)
            connection.sendall(whole)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            client.status(deadline_s=0.4)
            assert client.status(deadline_s=10).model == "m"
        thread.join(10)
        assert len(connections) == 1, "it was not used again"
    finally:
        listening.close()
        for connection in connections:
            connection.close()
