"""A light HTTP client for closed loops, in a process of its own: what it costs is taken from the server's share of the
same cores, and a process that has much loaded stops for a third of a second now and then, to search it for garbage."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

READY_S = 120.0
HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(port: int, text: str) -> None:
    """Until a request is answered with 200."""
    import httpx

    end = time.monotonic() + READY_S
    while True:
        try:
            if httpx.post(f"http://127.0.0.1:{port}/predict", json={"inputs": text}, timeout=10).is_success:
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        if time.monotonic() > end:
            raise TimeoutError(f"nothing answers on port {port}")
        time.sleep(0.2)


def closed_loop(port: int, texts: list[str], clients: int) -> float:
    """Requests per second of ``clients`` connections, each of which asks again when it has its answer.

    Raises:
        RuntimeError: an answer was no 200.
    """
    asked = json.dumps({"port": port, "texts": texts, "clients": clients})
    ran = subprocess.run([sys.executable, __file__], input=asked, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2_000:])
    return float(ran.stdout)


async def _closed_loop(port: int, texts: list[str], clients: int) -> float:
    waiting = iter(texts)
    begun = time.perf_counter()
    await asyncio.gather(*(_client(port, waiting) for _ in range(clients)))
    return len(texts) / (time.perf_counter() - begun)


async def _client(port: int, texts: Iterator[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for text in texts:
            body = json.dumps({"inputs": text}).encode()
            writer.write(HEAD.format(len(body)).encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            status = answer[0].split(b" ", 2)[1]
            lengths = [line.partition(b":")[2] for line in answer if line.startswith(b"content-length")]
            content = await reader.readexactly(int(lengths[0]))
            if status != b"200":
                raise RuntimeError(f"{status.decode()}: {content[:200]!r}")
    finally:
        writer.close()


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    print(asyncio.run(_closed_loop(wanted["port"], wanted["texts"], wanted["clients"])))
