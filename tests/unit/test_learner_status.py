"""What the learner says of itself, from its file or from its port."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from stream_ft.config import ConfigError, load
from stream_ft.wiring.learner_status import FRESH_S, reader


def test_from_the_file_where_it_is_here(tmp_path: Path) -> None:
    read = reader(tmp_path / "learn.status.json", "")
    with pytest.raises(OSError):
        read()
    (tmp_path / "learn.status.json").write_bytes(b"{}")
    assert read() == b"{}"


def test_from_its_port_and_not_more_often_than_it_changes(tmp_path: Path) -> None:
    asked: list[str] = []
    now = [100.0]

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"lag": len(asked)})

    read = reader(tmp_path / "x", "http://learn:8081", transport=httpx.MockTransport(handler), monotonic=lambda: now[0])
    assert read() == read() == b'{"lag":1}'
    now[0] += FRESH_S
    assert read() == b'{"lag":2}'
    assert asked == ["http://learn:8081/status"] * 2


@pytest.mark.parametrize("status", [404, 503])
def test_what_it_does_not_say_is_not_known(tmp_path: Path, status: int) -> None:
    read = reader(tmp_path / "x", "http://learn:8081", transport=httpx.MockTransport(lambda _: httpx.Response(status)))
    with pytest.raises(OSError, match="does not answer"):
        read()


def test_a_learner_that_is_away_is_not_known(tmp_path: Path) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(OSError, match="ConnectError"):
        reader(tmp_path / "x", "http://learn:8081", transport=httpx.MockTransport(away))()


@pytest.mark.parametrize("url", ["learn:8081", "http://learn:8081/status", "file:///etc/passwd"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be a URL"):
        load(flags={"serve.learner_url": url})
