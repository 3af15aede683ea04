"""Both drivers over a transport that is a function: what they send, how they wait, and what they make of failures."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from stream_ft.client import (
    Accepted,
    Answer,
    AsyncClient,
    Client,
    CommandRefusedError,
    DeadlineError,
    InForce,
    RefusedError,
    UnavailableError,
)
from stream_ft.errors import ConfigError, StreamFTError
from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, SpanCorrection
from stream_ft.testing import ManualClock

Handler = Callable[[httpx.Request], httpx.Response]


class Talk:
    """One client of either kind on a clock that only its waits move.

    Args:
        asynchronous: which kind.
        handler: answers.
    """

    def __init__(self, asynchronous: bool, handler: Handler, **settings: Any) -> None:
        self.clock = ManualClock(1_000.0)
        self.waits: list[float] = []
        self.requests: list[httpx.Request] = []
        self._asynchronous = asynchronous
        self._handler = handler
        self._settings = {"url": "http://shop", "clock": self.clock, "draw": lambda: 0.5} | settings

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the client."""
        transport = httpx.MockTransport(self._answer)
        if not self._asynchronous:
            with Client(transport=transport, sleep=self._wait, **self._settings) as client:
                return getattr(client, method)(*arguments, **named)

        async def wait(seconds: float) -> None:
            self._wait(seconds)

        async def main() -> Any:
            async with AsyncClient(transport=transport, sleep=wait, **self._settings) as client:
                return await getattr(client, method)(*arguments, **named)

        return asyncio.run(main())

    def bodies(self) -> list[Any]:
        """What was sent."""
        return [json.loads(request.content) for request in self.requests]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.advance(seconds)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def talk(request: pytest.FixtureRequest) -> Callable[..., Talk]:
    return lambda handler, **settings: Talk(request.param, handler, **settings)


def good(request: httpx.Request) -> httpx.Response:
    """A server to which all is right."""
    path = request.url.path
    if path == "/predict":
        rows = [{"id": f"p-{text}", "label": "x", "score": 0.5} for text in json.loads(request.content)["inputs"]]
        return httpx.Response(200, json={"model": "m", "version": "v1.1.0", "predictions": rows, "new": 1})
    if path in ("/feedback", "/labels"):
        count = len(json.loads(request.content))
        return httpx.Response(202, json={"accepted": count, "offsets": list(range(count))})
    if path == "/control":
        told = {"version": "v0.2.0", "epoch": 2, "before": "v1.1.0", "pinned": False, "paused": True}
        return httpx.Response(200, json=told)
    if path.endswith("/status"):
        return httpx.Response(200, json={"model": "m", "serve": {"version": "v1.1.0"}, "learn": None})
    return httpx.Response(200, json={"model": "m", "active": "", "wanted": "", "versions": []})


def first(*answers: httpx.Response | int | Exception) -> Handler:
    """A server that meets the first requests so, and then all is right."""
    waiting = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        if not waiting:
            return good(request)
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer)

    return handler


# --- what goes over the wire ------------------------------------------------------------------------------------


def test_predict_takes_a_text_or_a_list(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    assert made("predict", "hi") == [Answer(id="p-hi", label="x", score=0.5, version="v1.1.0")]
    assert [answer.id for answer in made("predict", ("a", "退货"))] == ["p-a", "p-退货"]
    assert made.bodies() == [{"inputs": ["hi"]}, {"inputs": ["a", "退货"]}]
    assert made.requests[0].headers["content-type"] == "application/json"


def test_a_key_goes_in_a_header_and_only_if_there_is_one(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    for key in ("user 4711", "客户", "", None):
        made("predict", "hi", key=key)
    sent = [dict(request.headers.raw).get(b"stream-ft-key") for request in made.requests]
    assert sent == [b"user 4711", "客户".encode(), None, None]
    assert len({request.content for request in made.requests}) == 1


@pytest.mark.parametrize("key", ["a\r\nauthorization: x", " a", "a\t", "\x00", "\ud800"])
def test_a_key_that_no_header_can_carry_is_not_sent(talk: Callable[..., Talk], key: str) -> None:
    made = talk(good)
    with pytest.raises(RefusedError, match="no header can carry") as raised:
        made("predict", "hi", key=key)
    assert (raised.value.status, made.requests) == (None, [])


def test_a_command_sends_what_was_given_and_an_id(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    assert made("control", "pause") == InForce(version="v0.2.0", epoch=2, pinned=False, paused=True)
    made("control", "rollback", to=2, reason="wrong on refunds", id="mine")
    made("control", "canary", version="v2.2.0", share=0.1)
    made("control", "shadow", share=0.0)
    made("control", "label_add", label="refund")
    bodies = made.bodies()
    ids = [body.pop("id") for body in bodies]
    assert bodies == [
        {"type": "pause"},
        {"type": "rollback", "to": "2", "reason": "wrong on refunds"},
        {"type": "canary", "version": "v2.2.0", "share": 0.1},
        {"type": "shadow", "share": 0.0},
        {"type": "label_add", "label": "refund"},
    ]
    assert ids[1] == "mine"
    assert len(set(ids)) == 5
    assert {(request.method, request.url.path) for request in made.requests} == {("POST", "/control")}


def test_an_empty_place_to_go_back_to_is_not_the_previous_one(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    made("control", "rollback", to="")
    assert made.bodies()[0]["to"] == ""


def test_feedback_sends_what_was_given_and_an_id(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    taken = made("feedback", "p-1", label="refund", source="ann")
    assert taken == Accepted(topic="feedback", ids=taken.ids, offsets=(0,))
    made("feedback", "p-1", kind="reject", id="e-7", time=5.0)
    made("feedback", "p-1", rating=4, origin="model")
    made("feedback", "p-1", correction=SpanCorrection(start=1, end=3))
    (one,), (two,), (three,), (four,) = made.bodies()
    assert one == {"id": taken.ids[0], "prediction_id": "p-1", "label": "refund", "source": "ann"}
    assert two == {"id": "e-7", "prediction_id": "p-1", "kind": "reject", "time": 5.0}
    assert (three["rating"], three["origin"]) == (4, "model")
    assert four["correction"] == {"kind": "span", "start": 1, "end": 3}


def test_lists_go_in_one_request_each_event_with_its_id(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    taken = made("labels", [("a", "x"), LabelledEvent(id="t-1", input="b", correction=LabelCorrection(label="y"))])
    assert taken.topic == "labels"
    assert taken.offsets == (0, 1)
    assert taken.ids[1] == "t-1"
    made("labels", [("a", "x")], source="crm")
    made("feedback_all", [Feedback(prediction_id="p-1", kind="accept"), Feedback(prediction_id="p-2", kind="reject")])
    (pair, event), (told,), judged = made.bodies()
    assert (pair["input"], pair["correction"], pair["source"]) == ("a", {"kind": "label", "label": "x"}, "labels")
    assert (pair["id"], event["id"]) == taken.ids
    assert told["source"] == "crm"
    assert [row["kind"] for row in judged] == ["accept", "reject"]
    assert len({row["id"] for row in judged}) == 2


def test_status_and_versions(talk: Callable[..., Talk]) -> None:
    made = talk(good)
    assert made("status").serve["version"] == "v1.1.0"
    assert made("versions", limit=7).versions == ()
    assert str(made.requests[-1].url) == "http://shop/versions?limit=7"


def test_a_token_is_sent_only_where_there_is_one(talk: Callable[..., Talk]) -> None:
    made = talk(good, token="s3cret", url="https://shop/behind/")
    made("status")
    assert made.requests[0].headers["authorization"] == "Bearer s3cret"
    assert str(made.requests[0].url) == "https://shop/behind/status"
    bare = talk(good)
    bare("status")
    assert "authorization" not in bare.requests[0].headers


def test_a_redirect_does_not_carry_the_token_away(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.Response(307, headers={"location": "http://elsewhere/status"})), token="s3cret")
    with pytest.raises(UnavailableError, match="answered 307"):
        made("status")
    assert len(made.requests) == 1


# --- tries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        429,
        503,
        504,
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("left"),
        httpx.ReadTimeout("slow"),
    ],
    ids=lambda trouble: str(trouble) if isinstance(trouble, int) else type(trouble).__name__,
)
def test_trouble_that_passes_is_not_seen(talk: Callable[..., Talk], trouble: int | Exception) -> None:
    made = talk(first(trouble, trouble))
    assert made("predict", "hi")[0].label == "x"
    assert made.waits == pytest.approx([0.05, 0.1])


def test_each_try_of_an_event_sends_the_same_bytes(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.ReadError("reset"), httpx.Response(503)))
    taken = made("feedback", "p-1", label="refund")
    assert len({request.content for request in made.requests}) == 1
    assert len(made.requests) == 3
    assert made.bodies()[0][0]["id"] == taken.ids[0]
    made = talk(first(httpx.ReadError("reset")))
    made("labels", [("a", "x"), ("b", "y")])
    assert made.requests[0].content == made.requests[1].content


@pytest.mark.parametrize("trouble", [httpx.ReadError("reset"), 503, 504])
def test_each_try_of_a_command_sends_the_same_id(talk: Callable[..., Talk], trouble: int | Exception) -> None:
    made = talk(first(trouble, trouble))
    assert made("control", "rollback").version == "v0.2.0"
    assert len({request.content for request in made.requests}) == 1
    assert len(made.requests) == 3


def test_a_command_that_was_not_answered_can_be_given_again_under_its_id(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.Response(500, json={"error": "The log cannot be read."})))
    with pytest.raises(UnavailableError, match="sent again with the same id it counts once") as raised:
        made("control", "rollback")
    assert raised.value.ids == (made.bodies()[0]["id"],)


def test_what_the_log_refuses_is_an_error_of_its_own(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.Response(409, json={"error": "Refused: Epoch 77 is not in the history."})))
    with pytest.raises(CommandRefusedError, match="Epoch 77 is not in the history"):
        made("control", "rollback", to=77)
    made = talk(first(httpx.Response(422, json={"error": "There is no version before."})))
    with pytest.raises(RefusedError, match="no version before"):
        made("control", "rollback")


def test_retry_after_is_honoured(talk: Callable[..., Talk]) -> None:
    date = "Thu, 01 Jan 1970 00:16:44 GMT"  # 4 s after the clock's start
    made = talk(first(httpx.Response(429, headers={"retry-after": "2"})))
    made("status")
    assert made.waits == [pytest.approx(2.05)]
    made = talk(first(httpx.Response(503, headers={"retry-after": date})))
    made("status")
    assert made.waits == [pytest.approx(4.05)]


@pytest.mark.parametrize("draw", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("deadline_s", [0.01, 0.3, 10.0])
def test_no_call_waits_beyond_its_deadline(talk: Callable[..., Talk], draw: float, deadline_s: float) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        made.clock.advance(0.02)
        raise httpx.ConnectError("Connection refused")

    made = talk(handler, draw=lambda: draw)
    with pytest.raises(UnavailableError, match="http://shop cannot be reached: Connection refused"):
        made("predict", "hi", deadline_s=deadline_s)
    assert made.clock.monotonic() - 1_000 <= max(deadline_s, 0.02) + 0.02
    assert (made.waits == []) == (deadline_s == 0.01)


def test_a_call_that_hangs_ends_with_the_deadline(talk: Callable[..., Talk]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        made.clock.advance(3.0)
        raise httpx.ReadTimeout("")

    made = talk(handler, deadline_s=3.0)
    with pytest.raises(
        DeadlineError, match=r"did not answer /labels within 3 s.*sent again with the same id"
    ) as raised:
        made("labels", [("a", "x")])
    assert raised.value.ids == (made.bodies()[0][0]["id"],)
    assert isinstance(raised.value, StreamFTError)


def test_what_is_refused_says_why_and_is_sent_once(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.Response(422, json={"error": "Input 0 is empty: it has no visible character."})))
    with pytest.raises(RefusedError, match=r"^Input 0 is empty: it has no visible character\.$") as raised:
        made("predict", " ")
    assert (raised.value.status, len(made.requests), made.waits) == (422, 1, [])


def test_what_cannot_be_decoded_is_not_asked_for_again(talk: Callable[..., Talk]) -> None:
    made = talk(first(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))))
    with pytest.raises(UnavailableError):
        made("status")
    assert len(made.requests) == 1


# --- deadlines of one try ---------------------------------------------------------------------------------------


def test_the_sync_client_gives_each_step_what_is_left() -> None:
    clock = ManualClock(1_000.0)
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        for step in ("pool", "connect", "read"):
            seen.append(request.extensions["timeout"].get(step))
            clock.advance(2.0)
        return good(request)

    with Client("http://shop", transport=httpx.MockTransport(handler), clock=clock, deadline_s=7.0) as client:
        client.status()
    assert seen == [7.0, 5.0, 3.0]


def test_the_sync_client_stops_reading_an_answer_that_does_not_end() -> None:
    clock = ManualClock(1_000.0)

    class Drip(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                clock.advance(1.0)
                yield b" "

    with (
        Client(
            "http://shop",
            transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=Drip())),
            clock=clock,
            deadline_s=3.0,
        ) as client,
        pytest.raises(DeadlineError),
    ):
        client.status()
    assert clock.monotonic() == 1_003.0


def test_the_async_client_is_cut_off_at_its_deadline_and_can_be_cancelled() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        async with AsyncClient("http://shop", transport=httpx.MockTransport(never)) as client:
            with pytest.raises(DeadlineError):
                await client.status(deadline_s=0.01)
            task = asyncio.create_task(client.status())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_threads_may_share_a_client() -> None:
    with Client("http://shop", transport=httpx.MockTransport(good)) as client:
        found: list[str] = []
        threads = [threading.Thread(target=lambda n=n: found.append(client.predict(str(n))[0].id)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(found) == [f"p-{number}" for number in range(8)]


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "localhost:8080"}, "no http or https URL"),
        ({"url": ""}, "no http or https URL"),
        ({"url": "ftp://shop"}, "no http or https URL"),
        ({"url": "http://[::1"}, "no URL"),
        ({"token": "a\nb"}, "no header can carry"),
        ({"token": "ключ"}, "no header can carry"),
        ({"deadline_s": 0}, "deadline_s is 0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"deadline_s": float("inf")}, "deadline_s is inf"),
    ],
)
def test_settings_that_cannot_be_used(kind: type[Client], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        kind(**settings)
    assert "ключ" not in str(raised.value)


def test_a_deadline_of_a_call_is_checked(talk: Callable[..., Talk]) -> None:
    with pytest.raises(ConfigError, match="deadline_s is -1"):
        talk(good)("status", deadline_s=-1.0)


def test_a_password_in_the_url_is_in_no_message() -> None:
    with (
        Client("http://ann:s3cret@shop", transport=httpx.MockTransport(lambda request: httpx.Response(500))) as client,
        pytest.raises(UnavailableError, match="http://shop answered 500") as raised,
    ):
        client.status()
    assert "s3cret" not in str(raised.value)


def test_importing_the_client_loads_no_model_no_server_and_no_settings() -> None:
    heavy = "torch transformers onnxruntime peft scipy numpy starlette uvicorn pydantic typer stream_ft.config"
    code = f"import sys, stream_ft.client; print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
