"""The demo's client counts honestly, and its traffic tells the right answer of every message exactly once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from stream_ft.connectors.files import Row
from stream_ft.demo import client as client_module
from stream_ft.demo import traffic as traffic_module
from stream_ft.demo.client import Acknowledged, Client, feedback_to_live
from stream_ft.demo.traffic import Traffic, spoiled

Handler = Callable[[httpx.Request], httpx.Response]


def answer(request: httpx.Request, label: str = "stock") -> httpx.Response:
    """A server that answers everything, always with one label."""
    body = json.loads(request.content) if request.content else None
    if request.url.path == "/predict":
        text = body["inputs"][0]
        found = [{"id": f"p-{text}", "label": label, "score": 0.5}]
        return httpx.Response(200, json={"model": "default", "version": "v0.2.0", "predictions": found})
    if request.url.path in ("/feedback", "/labels"):
        return httpx.Response(202, json={"accepted": len(body), "offsets": list(range(len(body)))})
    return httpx.Response(200, json={"versions": [{"version": "v0.2.0"}], "learn": None})


def using(handler: Handler, work: Callable[[Client], Any]) -> Any:
    async def main() -> Any:
        client = Client("http://test", transport=httpx.MockTransport(handler))
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def test_an_answer_comes_with_its_version_and_time():
    async def work(client: Client) -> None:
        found = await client.predict("hello")
        assert found is not None
        assert (found.label, found.version, found.id) == ("stock", "v0.2.0", "p-hello")
        assert list(client.first_seen) == ["v0.2.0"]
        assert (client.sent, len(client.dropped), len(client.latencies)) == (1, 0, 1)

    using(answer, work)


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_whatever_is_not_a_2xx_is_dropped(status: int):
    async def work(client: Client) -> None:
        assert await client.predict("hello") is None
        assert await client.labels([{"input": "a", "label": "b"}]) is False
        assert (client.sent, len(client.dropped)) == (2, 2)
        assert str(status) in client.last_error
        assert client.acknowledged == []

    using(lambda request: httpx.Response(status, json={"error": "no"}), work)


def test_no_connection_and_no_json_are_dropped():
    def broken(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/predict":
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, content=b"<html>")

    async def work(client: Client) -> None:
        assert await client.predict("hello") is None
        assert "ConnectError" in client.last_error
        assert await client.versions() == []
        assert len(client.dropped) == 2

    using(broken, work)


def test_a_late_answer_is_dropped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "TIMELY_S", -1.0)

    async def work(client: Client) -> None:
        assert await client.predict("hello") is None
        assert len(client.dropped) == 1

    using(answer, work)


def test_acknowledged_events_keep_topic_and_offset():
    async def work(client: Client) -> None:
        assert await client.feedback([{"prediction_id": "p", "label": "a"}] * 2)
        assert await client.labels([{"input": "x", "label": "a"}])
        assert [(a.topic, a.offset) for a in client.acknowledged] == [("feedback", 0), ("feedback", 1), ("labels", 0)]

    using(answer, work)


def version(name: str, **offsets: int) -> dict[str, Any]:
    return {"version": name, "offsets": {f"stream_ft.default.{kind}": offset for kind, offset in offsets.items()}}


def test_feedback_is_live_at_the_first_answer_that_covers_it():
    events = [Acknowledged(topic="labels", offset=offset, at=10.0) for offset in (4, 5, 99)]
    versions = [version("v0.2.0", labels=5), version("v0.3.0", labels=6)]
    assert feedback_to_live(events, {"v0.2.0": 12.0, "v0.3.0": 20.0}, versions) == [2.0, 10.0]


def test_a_version_that_never_answered_does_not_count():
    events = [Acknowledged(topic="labels", offset=0, at=10.0)]
    assert feedback_to_live(events, {}, [version("v0.2.0", labels=5)]) == []
    assert feedback_to_live(events, {"v0.2.0": 11.0}, [version("v0.2.0", feedback=5)]) == []


def play(handler: Handler, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> Traffic:
    monkeypatch.setattr(traffic_module, "DELAY_S", 0.0)
    monkeypatch.setattr(traffic_module, "FLUSH_S", 0.001)

    async def work(client: Client) -> Traffic:
        traffic = Traffic(client, rows, rate=1e6)
        await traffic.run()
        return traffic

    found: Traffic = using(handler, work)
    return found


ROWS = [Row(text=f"message {i}", label="stock" if i % 2 else "invoice", phase="1") for i in range(200)]


def test_every_message_is_answered_and_told_of_once(monkeypatch: pytest.MonkeyPatch):
    told: Counter[str] = Counter()
    kinds: Counter[str] = Counter()

    def server(request: httpx.Request) -> httpx.Response:
        if request.url.path in ("/feedback", "/labels"):
            for event in json.loads(request.content):
                text = event.get("input") or event["prediction_id"].removeprefix("p-")
                told[text] += 1
                row = ROWS[int(text.split()[1])]
                if "input" in event:
                    kinds["labels"] += 1
                    assert event["label"] == row.label
                elif event.get("kind") == "accept":
                    kinds["accept"] += 1
                    assert row.label == "stock"
                else:
                    kinds["correct"] += 1
                    assert event["label"] == row.label == "invoice"
        return answer(request)

    traffic = play(server, ROWS, monkeypatch)
    assert traffic.outputs == ["stock"] * 200
    assert told == Counter({row.text: 1 for row in ROWS})
    assert traffic.labelled == set(range(200))
    assert kinds["labels"] > 120
    assert kinds["accept"] > 5
    assert kinds["correct"] > 5


def test_labels_that_were_not_taken_are_told_again(monkeypatch: pytest.MonkeyPatch):
    refused = iter([True, True])
    told: Counter[str] = Counter()

    def server(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/labels":
            if next(refused, False):
                return httpx.Response(503, json={"error": "not now"})
            told.update(event["id"] for event in json.loads(request.content))
        return answer(request)

    play(server, ROWS, monkeypatch)
    assert told
    assert set(told.values()) == {1}


def test_a_dropped_prediction_is_still_labelled(monkeypatch: pytest.MonkeyPatch):
    def server(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if request.url.path == "/predict" else answer(request)

    traffic = play(server, ROWS[:20], monkeypatch)
    assert traffic.outputs == [None] * 20
    assert traffic.labelled == set(range(20))


def test_rows_added_while_it_runs_are_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(traffic_module, "DELAY_S", 0.0)

    async def work(client: Client) -> None:
        traffic = Traffic(client, ROWS[:5], rate=1e6)
        run = asyncio.create_task(traffic.run())
        await asyncio.sleep(0)
        traffic.extend(ROWS[5:9])
        await run
        assert traffic.outputs == ["stock"] * 9
        assert len(traffic.sent_at) == 9

    using(answer, work)


def test_the_import_is_spoiled():
    events = spoiled(ROWS, 100, seed=0)
    assert len({event["id"] for event in events}) == 100
    assert {event["source"] for event in events} == {"bulk-import"}
    right = {row.text: row.label for row in ROWS}
    firsts = [" ".join(event["input"].split()[:2]) for event in events]
    wrong = sum(right[text] != event["label"] for text, event in zip(firsts, events, strict=True))
    assert wrong == 100, "each under a label that is not its own"
    assert spoiled(ROWS, 100, seed=0) == events


def test_what_the_fast_tier_covers_is_live_as_soon_as_its_head_answers():
    release = version("v0.2.0", labels=5) | {"active": True}
    heads = iter([None, version("v0.2.1", labels=7), version("v0.2.2", labels=9)])

    def told(request: httpx.Request) -> httpx.Response:
        head = next(heads)
        return httpx.Response(200, json={"versions": [release]} | ({} if head is None else {"head": head}))

    async def work(client: Client) -> None:
        covered = []
        for _ in range(3):
            assert await client.versions() == [release]
            covered.append(client.covered["labels"])
        assert covered == [5, 7, 9]
        events = [Acknowledged(topic="labels", offset=offset, at=10.0) for offset in (4, 6, 8)]
        seen = {"v0.2.0": 11.0, "v0.2.1": 11.5, "v0.2.2": 12.0}
        assert feedback_to_live(events, seen, [release, *client.heads.values()]) == [1.0, 1.5, 2.0]

    using(told, work)
