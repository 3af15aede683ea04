"""The client and the real application agree: every field that one sends, the other takes, and the other way round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_parts import Serving
from store_kit import Feeder, labels, open_store

from stream_ft.client import AsyncClient, RefusedError, UnavailableError
from stream_ft.errors import StoreFullError
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, TextCorrection
from stream_ft.topics import topic

Work = Callable[[AsyncClient], Awaitable[Any]]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, token="s3cret") as made:
        yield made


@pytest.fixture
def ready(serving: Serving) -> Serving:
    serving.genesis("yes", "no")
    return serving


def talk(serving: Serving, work: Work, *, token: str = "s3cret", waits: list[float] | None = None) -> Any:
    """Run ``work`` with a client of this application; it waits by moving the application's clock."""

    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)
        serving.clock.advance(seconds)

    async def main() -> Any:
        transport = httpx.ASGITransport(serving.app, raise_app_exceptions=False)
        async with AsyncClient(
            "http://localhost", token=token, transport=transport, clock=serving.clock, sleep=sleep, draw=lambda: 0.5
        ) as client:
            return await work(client)

    return asyncio.run(main())


def test_answers_come_with_ids_that_feedback_may_name(ready: Serving) -> None:
    async def work(client: AsyncClient) -> None:
        answers = await client.predict(["hello", "good bye"])
        assert [answer.version for answer in answers] == ["v0.0.0"] * 2
        assert {answer.label for answer in answers} <= {"yes", "no"}
        assert all(0 <= answer.score <= 1 for answer in answers)
        taken = await client.feedback(answers[0].id, label="no", source="ann", time=5.0)
        assert taken.offsets == (0,)
        for kind in ("accept", "reject"):
            await client.feedback(answers[1].id, kind=kind)
        await client.feedback(answers[1].id, rating=4.5)
        await client.feedback(answers[1].id, correction=TextCorrection(text="no, thanks"), id="mine", origin="model")
        more = await client.feedback_all([Feedback(prediction_id=answer.id, kind="accept") for answer in answers])
        assert more.offsets == (5, 6)
        assert len(set(more.ids)) == 2

    talk(ready, work)
    events = ready.written("feedback")
    assert [(event.get("kind"), event.get("label"), event.get("rating")) for event in events[:4]] == [
        (None, "no", None), ("accept", None, None), ("reject", None, None), (None, None, 4.5),
    ]  # fmt: skip
    assert (events[4]["id"], events[4]["origin"]) == ("mine", "model")
    assert len({event["id"] for event in events}) == 7


def test_labels_are_taken_in_both_forms(ready: Serving) -> None:
    async def work(client: AsyncClient) -> None:
        event = LabelledEvent(
            id="ticket-1", input="b", correction=LabelCorrection(label="no"), source="crm", time=7.0, origin="user"
        )
        taken = await client.labels([("a", "yes"), event], source="import")
        assert (taken.offsets, taken.ids[1]) == ((0, 1), "ticket-1")

    talk(ready, work)
    first, second = ready.written("labels")
    assert (first["input"], first["correction"]["label"], first["source"]) == ("a", "yes", "import")
    assert (second["id"], second["source"], second["time"], second["origin"]) == ("ticket-1", "crm", 7.0, "user")


@pytest.mark.parametrize(
    ("work", "status", "words"),
    [
        (lambda client: client.predict([]), 422, "There are no inputs"),
        (lambda client: client.predict(["a", " "]), 422, "Input 1 is empty"),
        (lambda client: client.predict("a\u0000" * 20_000), 422, "at most 20000"),
        (lambda client: client.feedback("p-made-up", label="x"), 404, "has not issued"),
        (lambda client: client.feedback("p-made-up"), 422, "kind"),
        (lambda client: client.feedback("p-made-up", kind="correct"), 422, "needs a correction"),
        (lambda client: client.feedback("p-made-up", label="x", time="now"), 422, "wrong_type"),
        (lambda client: client.labels([("a", "yes"), ("b", "")]), 422, "Event 1 was refused"),
        (lambda client: client.labels([]), 422, "The list is empty"),
        (lambda client: client.labels([("a", "x")] * 1_001), 422, "1001 events"),
        (lambda client: client.predict(["a" * 15_000] * 100), 413, "larger than 1000000 bytes"),
        (lambda client: client.versions(limit=0), 400, "limit must be a number"),
    ],
)
def test_what_the_server_refuses_is_said_in_its_words(ready: Serving, work: Work, status: int, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as raised:
        talk(ready, work)
    assert raised.value.status == status
    assert ready.written("labels") == ready.written("feedback") == []


def test_a_wrong_token_is_refused(ready: Serving) -> None:
    for token in ("", "other"):
        with pytest.raises(RefusedError, match="needs a token") as raised:
            talk(ready, lambda client: client.status(), token=token)
        assert raised.value.status == 401


def test_a_server_that_is_not_ready_yet_is_waited_for(serving: Serving) -> None:
    waits: list[float] = []
    with pytest.raises(UnavailableError, match="No version") as raised:
        talk(serving, lambda client: client.predict("hello"), waits=waits)
    assert raised.value.status == 503
    assert all(wait >= 1 for wait in waits), "the server says Retry-After: 1"
    assert 5 <= len(waits) <= 9

    async def work(client: AsyncClient) -> str:
        task = asyncio.create_task(client.predict("hello"))
        await asyncio.sleep(0)
        serving.genesis("yes", "no")
        return (await task)[0].version

    assert talk(serving, work) == "v0.0.0"


def test_events_that_the_disk_did_not_take_are_sent_again_under_their_id(tmp_path: Path) -> None:
    seen = []

    async def append(messages):
        seen.append(messages[0].value)
        if len(seen) < 3:
            raise StoreFullError("The disk is full.")
        return [11]

    with Serving(tmp_path, append=append) as serving:
        taken = talk(serving, lambda client: client.labels([("a", "yes")]))
    assert taken.offsets == (11,)
    assert len(seen) == 3
    assert len(set(seen)) == 1, "the store knows an event again by the same id with the same bytes"


class Losing(httpx.AsyncBaseTransport):
    """The application takes the request, and the first answer is lost on its way."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self.lost = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if not self.lost:
            self.lost += 1
            raise httpx.ReadError("reset by peer")
        return response


def test_an_event_whose_first_answer_was_lost_is_learned_once(ready: Serving) -> None:
    transport = Losing(ready.app)

    async def sleep(seconds: float) -> None:
        ready.clock.advance(seconds)

    async def main() -> None:
        async with AsyncClient(
            "http://localhost", token="s3cret", transport=transport, clock=ready.clock, sleep=sleep
        ) as client:
            assert (await client.labels([("some text", "yes"), ("another", "no")])).offsets == (2, 3)

    asyncio.run(main())
    ready.appender.close()
    records = ready.log.read(topic("shop", "labels"), 0, 0, 10)
    feeder = Feeder(open_store())
    applied = feeder.apply(*(feeder.item("labels", record.value) for record in records))
    assert (transport.lost, len(records), applied.duplicates, applied.rejects) == (1, 4, 2, [])
    assert labels(applied.examples) == {"some text": "yes", "another": "no"}


def test_versions_tell_what_they_cover(ready: Serving) -> None:
    ready.promote("better", "yes", "no", "maybe")
    ready.follower.step()
    found = talk(ready, lambda client: client.versions())
    assert (found.model, found.active, found.wanted) == ("shop", "v1.1.0", "v1.1.0")
    assert [(version.version, version.active, version.kept) for version in found.versions] == [
        ("v0.0.0", False, True), ("v1.1.0", True, True),
    ]  # fmt: skip
    assert found.versions[0].kind == "head"
    assert found.versions[0].offsets == {"feedback": 0}
    assert talk(ready, lambda client: client.versions(limit=1)).versions == found.versions[1:]


def test_a_version_whose_head_is_gone_says_so(ready: Serving) -> None:
    ready.registry.delete_head(ready.follower.state.start_head)
    (version,) = talk(ready, lambda client: client.versions()).versions
    assert (version.kept, version.kind, version.offsets) == (False, "", {})
    assert "is not in" in version.missing


def test_status_is_what_server_and_learner_say(ready: Serving) -> None:
    found = talk(ready, lambda client: client.status())
    assert (found.model, found.serve["version"], found.learn) == ("shop", "v0.0.0", None)
    (ready.folder / "learn.status.json").write_text('{"examples": 3}')
    assert talk(ready, lambda client: client.status()).learn == {"examples": 3}
