"""Commands over HTTP: who may give them, what they must look like, and what becomes of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import LEARNER, StateFolder
from serving_parts import Serving

from stream_ft import config
from stream_ft.serve.body import RefusedError
from stream_ft.serve.operate import ControlBody
from stream_ft.wiring.commanding import give
from stream_ft.wiring.operator import look


def ask(serving: Serving, *, address: str, host: str, token: str = "", body: Any = None) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(serving.app, client=(address, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            headers = {"host": host} | ({"authorization": f"Bearer {token}"} if token else {})
            return await client.post("/control", json=body or {"type": "pin"}, headers=headers)

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1", "localhost:8080"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]:8080")]
)
def test_without_a_token_this_machine_commands(tmp_path: Path, address: str, host: str) -> None:
    with Serving(tmp_path) as serving:
        serving.genesis("yes")
        response = ask(serving, address=address, host=host)
        assert response.status_code == 200
        expected = {"version": "v0.0.0", "epoch": 0, "before": "v0.0.0", "pinned": True, "paused": False}
        assert response.json() == expected


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.7", "localhost"),
        ("127.0.0.1", "evil.example"),  # a site whose name was made to point here
        ("127.0.0.1", "localhost.evil.example"),
        ("testclient", "localhost"),
        ("127.0.0.1", ""),
    ],
)
def test_without_a_token_nobody_else_does(tmp_path: Path, address: str, host: str) -> None:
    with Serving(tmp_path) as serving:
        serving.genesis("yes")
        response = ask(serving, address=address, host=host)
        assert response.status_code == 403
        assert "Without a token" in response.json()["error"]
        assert not serving.follower.state.pinned


def test_with_a_token_it_counts_and_not_the_place(tmp_path: Path) -> None:
    with Serving(tmp_path, token="sesame") as serving:
        serving.genesis("yes")
        assert ask(serving, address="127.0.0.1", host="localhost").status_code == 401
        assert ask(serving, address="10.0.0.7", host="models.example", token="sesame").status_code == 200
        assert serving.follower.state.pinned


@pytest.mark.parametrize(
    "body",
    [
        {"type": "promote"},
        {"type": "erase"},
        {},
        [],
        {"type": "pin", "too": "x"},
        {"type": "rollback", "to": ""},
        {"type": "canary", "share": 1.5},
        {"type": "pin", "id": ""},
    ],
)
def test_another_body_is_refused(tmp_path: Path, body: Any) -> None:
    with Serving(tmp_path) as serving:
        serving.genesis("yes")
        end = serving.follower.offset
        assert serving.post("/control", body).status_code == 400
        serving.follower.step()
        assert serving.follower.offset == end


# --- what the serving process does with them ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "state")
    made.genesis()
    made.promote(1)
    return made


def settings(folder: StateFolder) -> config.Settings:
    return config.load(flags={"state_dir": str(folder.path), "operator": "console"})


def test_a_rollback_goes_on_the_log_in_the_operators_name(folder: StateFolder) -> None:
    told = give(settings(folder), ControlBody(type="rollback", reason="  wrong on refunds "))
    assert (told.before, told.version, told.epoch) == ("v2.2.0", "v0.3.0", 3)
    state = look(settings(folder)).state
    assert state.version == "v0.3.0"
    assert folder.bases[1] in state.denied


def test_flags_are_set_and_taken_back(folder: StateFolder) -> None:
    kinds = ("pin", "pause", "unpin", "resume")
    seen = [give(settings(folder), ControlBody(type=kind)) for kind in kinds]  # type: ignore[arg-type]
    assert [(told.pinned, told.paused) for told in seen] == [(True, False), (True, True), (False, True), (False, False)]


def test_train_now_and_a_label_reach_the_fold(folder: StateFolder) -> None:
    give(settings(folder), ControlBody(type="train_now"))
    give(settings(folder), ControlBody(type="label_add", label="invoice"))
    state = look(settings(folder)).state
    assert (state.train_now, state.labels_added) == (1, ("invoice",))


def test_a_command_that_comes_twice_under_one_id_counts_once(folder: StateFolder) -> None:
    folder.promote(2)
    asked = ControlBody(type="rollback", id="once")
    told = give(settings(folder), asked)
    assert (told.version, told.epoch) == ("v2.4.0", 4)
    again = give(settings(folder), asked)  # `previous` would be another version now
    assert (again.version, again.epoch) == ("v2.4.0", 4)
    last = ControlBody(type="rollback", id="twice")
    for _ in range(2):  # the second time there would be none to go back to
        assert give(settings(folder), last).version == "v0.5.0"
    assert len(look(settings(folder)).verdicts) == 6, "what came again is not on the log"


def test_what_was_refused_once_is_refused_again_under_the_same_id(folder: StateFolder) -> None:
    for _ in range(2):
        with pytest.raises(RefusedError, match="Epoch 77 is not in the history") as refused:
            give(settings(folder), ControlBody(type="rollback", to="77", id="once"))
        assert refused.value.status == 409
    assert len(look(settings(folder)).verdicts) == 4


def test_a_trial_is_begun_changed_and_ended(folder: StateFolder) -> None:
    def trial() -> tuple[str, str, float] | None:
        found = look(settings(folder)).state.trial
        return None if found is None else (found.kind, found.base, found.share)

    give(settings(folder), ControlBody(type="canary", version="v0.0.0", share=0.1))
    assert trial() == ("canary", folder.bases[0], 0.1)
    give(settings(folder), ControlBody(type="shadow", version="0"))
    assert trial() == ("shadow", folder.bases[0], 1.0)
    give(settings(folder), ControlBody(type="canary", share=0.0))
    assert trial() is None


def test_what_the_log_refuses_is_a_409(folder: StateFolder) -> None:
    give(settings(folder), ControlBody(type="rollback"))
    with pytest.raises(RefusedError, match="Refused") as refused:
        give(settings(folder), ControlBody(type="rollback", to="2"))
    assert refused.value.status == 409


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "rollback", "to": "v9.9.0"},
        {"type": "label_add"},
        {"type": "canary", "version": "v0.0.0"},
        {"type": "canary", "version": "v9.9.0", "share": 0.1},
        {"type": "shadow"},
        {"type": "canary", "share": 0.0},
    ],
)
def test_what_cannot_be_issued_is_a_422_and_appends_nothing(folder: StateFolder, asked: dict[str, Any]) -> None:
    before = look(settings(folder)).state
    with pytest.raises(RefusedError) as refused:
        give(settings(folder), ControlBody(**asked))  # type: ignore[arg-type]
    assert refused.value.status == 422
    assert look(settings(folder)).state == before
    assert before.leader == LEARNER
