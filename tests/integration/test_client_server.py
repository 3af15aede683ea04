"""The client over real connections: answers, a server that starts late, one that hangs, one that is gone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import listener, running
from serving_parts import Commanded, Serving

from stream_ft.client import AsyncClient, Client, CommandRefusedError, DeadlineError, RefusedError, UnavailableError
from stream_ft.serve.trial import chosen

Ask = Callable[..., Any]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Commanded(tmp_path, token="s3cret") as made:
        made.genesis("yes", "no")
        yield made


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Call one method of a client of either kind."""

    def sync(url: str, method: str, *arguments: Any, **named: Any) -> Any:
        with Client(url, token="s3cret") as client:
            return getattr(client, method)(*arguments, **named)

    def asynchronous(url: str, method: str, *arguments: Any, **named: Any) -> Any:
        async def main() -> Any:
            async with AsyncClient(url, token="s3cret") as client:
                return await getattr(client, method)(*arguments, **named)

        return asyncio.run(main())

    return sync if request.param == "sync" else asynchronous


def test_ask_correct_and_look(serving: Serving, ask: Ask) -> None:
    with running(serving.app) as url:
        (answer,) = ask(url, "predict", "hello")
        taken = ask(url, "feedback", answer.id, label="no")
        assert taken.offsets == (0,)
        assert ask(url, "labels", [("bye", "no")]).offsets == (0,)
        assert ask(url, "status").serve["version"] == answer.version
        (version,) = ask(url, "versions").versions
        assert version.active
        assert not version.covers(taken)
        with pytest.raises(RefusedError, match="not issued"):
            ask(url, "feedback", "p-made-up", label="no")


def test_a_rollback_by_http(serving: Serving, ask: Ask) -> None:
    for name in ("better", "best"):
        serving.promote(name, "yes", "no", name)
        serving.follower.step()
    with running(serving.app) as url:
        assert ask(url, "predict", "hello")[0].version == "v2.2.0"
        now = ask(url, "control", "rollback", reason="wrong on refunds", id="once")
        assert (now.version, now.epoch) == ("v1.3.0", 3)
        assert ask(url, "predict", "hello")[0].version == "v1.3.0"
        assert ask(url, "control", "rollback", id="once") == now, "it counts once"
        assert ask(url, "control", "pin").pinned
        with pytest.raises(CommandRefusedError, match="not in the history"):
            ask(url, "control", "rollback", to=77)
        with pytest.raises(RefusedError, match="is no epoch") as raised:
            ask(url, "control", "rollback", to="v9.9.0")
        assert raised.value.status == 422
        with Client(url, token="other") as stranger, pytest.raises(RefusedError) as refused:
            stranger.control("rollback")
        assert refused.value.status == 401
    assert serving.follower.state.epoch == 3


def test_a_canary_by_http_is_sticky_by_the_key(serving: Serving, ask: Ask) -> None:
    serving.promote("better", "yes", "no", "maybe")
    serving.follower.step()
    with running(serving.app) as url:
        ask(url, "control", "canary", version="v0.0.0", share=0.5)
        trial = serving.follower.state.trial
        assert trial is not None
        assert (trial.kind, trial.share) == ("canary", 0.5)
        keys = [f"user {number}" for number in range(12)] + ["客户", "Zoë"]
        seen = {
            key: {ask(url, "predict", f"{key} says {number}", key=key)[0].version for number in range(4)}
            for key in keys
        }
        assert all(len(versions) == 1 for versions in seen.values())
        assert set.union(*seen.values()) == {"v1.1.0", trial.version}
        for key in keys[:12]:
            assert (seen[key] == {trial.version}) == chosen(key, trial.base, 0.5)
        without = {ask(url, "predict", f"user 0 says {number}")[0].version for number in range(24)}
        assert len(without) == 2, "without a key the text decides"
        ask(url, "control", "shadow", version=0)
        assert serving.follower.state.trial.kind == "shadow"
        ask(url, "control", "canary", share=0)
        assert serving.follower.state.trial is None


def test_a_server_that_starts_late_is_waited_for(serving: Serving, ask: Ask) -> None:
    with listener() as reserved:
        port = reserved.getsockname()[1]
    done = threading.Event()

    def serve() -> None:
        time.sleep(0.3)
        with running(serving.app, port):
            done.wait(20)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ask(f"http://127.0.0.1:{port}", "predict", "hello")[0].version == "v0.0.0"
    finally:
        done.set()
        thread.join(20)


def test_a_server_that_hangs_does_not_hold_a_call_beyond_its_deadline(ask: Ask) -> None:
    with listener() as bound:
        bound.listen()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        before = time.monotonic()
        with pytest.raises(DeadlineError, match=r"/labels within 0\.3 s") as raised:
            ask(url, "labels", [("bye", "no")], deadline_s=0.3)
        assert 0.2 < time.monotonic() - before < 2
        assert len(raised.value.ids) == 1


def test_a_server_that_drops_connections_gets_the_same_event_again(ask: Ask) -> None:
    bodies = []

    def drop() -> None:
        for number in range(3):
            connection, _ = bound.accept()
            with connection:
                data = b""
                while not data.endswith(b"]"):
                    data += connection.recv(65_536)
                bodies.append(data.partition(b"\r\n\r\n")[2])
                if number == 2:
                    answer = b'{"accepted": 1, "offsets": [5]}'
                    head = f"HTTP/1.1 202 Accepted\r\ncontent-length: {len(answer)}\r\n\r\n".encode()
                    connection.sendall(head + answer)
                    connection.shutdown(socket.SHUT_WR)

    with listener() as bound:
        bound.listen()
        thread = threading.Thread(target=drop)
        thread.start()
        taken = ask(f"http://127.0.0.1:{bound.getsockname()[1]}", "labels", [("bye", "no")])
        thread.join(20)
    assert taken.offsets == (5,)
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


def test_nobody_there(ask: Ask) -> None:
    with listener() as reserved:
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    before = time.monotonic()
    with pytest.raises(UnavailableError, match="cannot be reached") as raised:
        ask(url, "status", deadline_s=0.5)
    assert raised.value.status is None
    assert time.monotonic() - before < 2
