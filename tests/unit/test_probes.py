"""The learner's own port: probes and metrics, and a sentence in JSON for everything else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from stream_ft import metrics
from stream_ft.wiring.probes import ProbeServer


@pytest.fixture
def get() -> Iterator[httpx.Client]:
    server = ProbeServer("127.0.0.1", 0, metrics.new_registry(), lambda: (False, "It is still reading."))
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client
    server.stop()


def test_probes_and_metrics(get: httpx.Client) -> None:
    assert get.get("/livez").json() == {"live": True}
    assert (get.get("/readyz").status_code, get.get("/readyz").json()["error"]) == (503, "It is still reading.")
    assert get.get("/metrics").status_code == 200


def test_what_it_last_said_of_itself() -> None:
    said: list[bytes] = []

    def status() -> bytes:
        if not said:
            raise FileNotFoundError
        return said[-1]

    server = ProbeServer("127.0.0.1", 0, metrics.new_registry(), lambda: (True, ""), status=status)
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
            assert client.get("/status").status_code == 503
            said.append(b'{"lag": 3}')
            assert client.get("/status").json() == {"lag": 3}
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/status", 404), ("POST", "/predict", 404), ("POST", "/livez", 405)]
)
def test_what_is_not_there_is_told_in_json(get: httpx.Client, method: str, path: str, status: int) -> None:
    response = get.request(method, path)
    assert response.status_code == status
    assert "stream-ft serve" in response.json()["error"]
