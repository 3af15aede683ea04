"""The talk at the end of the demo: type a message, correct it, see answer and version change."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from stream_ft.connectors.files import Row
from stream_ft.demo import talk as talk_module
from stream_ft.demo import traffic as traffic_module
from stream_ft.demo.client import Client
from stream_ft.demo.plan import Plan

ROWS = [Row(text=f"message {i}", label="stock", phase="") for i in range(5)]
PLAN = Plan(title="T", stream=ROWS, test=ROWS, more=ROWS, imported=[])


class Server:
    """Learns a correction as soon as it hears of it: by a head of the fast tier, by a new release, or not at all."""

    def __init__(self, learns: str = "head") -> None:
        self.told: list[dict[str, Any]] = []
        self._learns = learns

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        mine = [event for event in self.told if event.get("source") == "you" and "label" in event]
        learned = bool(mine) and self._learns != ""
        version = {"head": "v0.2.7", "release": "v0.3.0"}[self._learns] if learned else "v0.2.0"
        if request.url.path == "/predict":
            found = [{"id": "p-1", "label": mine[-1]["label"] if learned else "stock", "score": 0.5}]
            return httpx.Response(200, json={"model": "m", "version": version, "predictions": found})
        if request.url.path in ("/labels", "/feedback"):
            first = len(self.told)
            self.told += body
            offsets = list(range(first, first + len(body)))
            return httpx.Response(202, json={"accepted": len(body), "offsets": offsets})
        if request.url.path == "/versions":
            told = {"version": version, "offsets": {"stream_ft.m.labels": 10**6 if learned else 0}}
            head = told if self._learns == "head" else None
            row = {"version": "v0.2.0", "active": True, "offsets": {}} if head else told | {"active": True}
            return httpx.Response(200, json={"versions": [row], "head": head})
        return httpx.Response(200, json={"learn": {"next_round": {"reason": "Waiting for 3 more examples."}}})


def talk(monkeypatch: pytest.MonkeyPatch, lines: list[str], server: Callable[..., httpx.Response]) -> str:
    monkeypatch.setattr(talk_module, "POLL_S", 0.0)
    monkeypatch.setattr(talk_module, "TURN_S", 0.05)
    monkeypatch.setattr(traffic_module, "DELAY_S", 0.0)
    typed: Iterator[str] = iter(lines)

    async def read() -> str:
        return next(typed)

    async def main() -> str:
        console = Console(file=io.StringIO(), width=200, color_system=None)
        client = Client("http://test", transport=httpx.MockTransport(server))
        try:
            await talk_module.talk(console, "http://test", client, PLAN, read)
        finally:
            await client.close()
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return asyncio.run(main())


@pytest.mark.parametrize(("learns", "version"), [("head", "v0.2.7"), ("release", "v0.3.0")])
def test_a_correction_changes_answer_and_version(monkeypatch: pytest.MonkeyPatch, learns: str, version: str):
    server = Server(learns)
    said = talk(monkeypatch, ["where is it?", "order_status", ""], server)
    assert "v0.2.0 says stock (50%)" in said
    assert f"{version} says order_status (50%)" in said
    mine = [event for event in server.told if event["source"] == "you"]
    assert mine == [{"input": "where is it?", "label": "order_status", "source": "you"}]


@pytest.mark.parametrize("line", ["", "stock"])
def test_a_right_answer_is_accepted(monkeypatch: pytest.MonkeyPatch, line: str):
    server = Server()
    talk(monkeypatch, ["is it there?", line, ""], server)
    assert {"prediction_id": "p-1", "kind": "accept", "source": "you"} in server.told


def test_a_model_that_does_not_follow_says_why(monkeypatch: pytest.MonkeyPatch):
    said = talk(monkeypatch, ["where is it?", "order_status", ""], Server(learns=""))
    assert "Not yet: Waiting for 3 more examples." in said


def test_a_server_that_is_gone_is_no_traceback(monkeypatch: pytest.MonkeyPatch):
    said = talk(monkeypatch, ["hello", ""], lambda request: httpx.Response(503, json={}))
    assert "No answer: 503" in said


def test_an_empty_line_ends_it(monkeypatch: pytest.MonkeyPatch):
    said = talk(monkeypatch, [""], Server())
    assert "The system stays up at http://test" in said
