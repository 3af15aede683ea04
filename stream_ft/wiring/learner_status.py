"""What the learner says of itself, for the serving process: from its file, or from its port on another machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

WITHIN_S = 1.0
FRESH_S = 1.0
"""The learner writes its status this often; nobody asks it more often."""


def reader(
    path: Path,
    url: str,
    *,
    transport: httpx.BaseTransport | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Callable[[], bytes]:
    """A function that gives the learner's status as JSON, and raises ``OSError`` where it cannot be had.

    Args:
        path: the learner's file.
        url: of the learner's port; empty where the file is here.
        transport: replaces the network in tests.
        monotonic: time.
    """
    if not url:
        return path.read_bytes
    client = httpx.Client(base_url=url, timeout=WITHIN_S, trust_env=False, transport=transport)
    last: tuple[float, bytes] | None = None

    def ask() -> bytes:
        nonlocal last
        if last is not None and monotonic() - last[0] < FRESH_S:
            return last[1]
        try:
            response = client.get("/status")
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise OSError(f"the learner does not answer: {type(error).__name__}") from error
        last = (monotonic(), response.content)
        return response.content

    return ask
