"""The fast tier in the real processes: a label is answered by within a second or two, a killed learner goes on."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from house import WORDS, House, wait_for

from stream_ft.release.heads import seq_of

pytestmark = [pytest.mark.slow, pytest.mark.alone]
FAST = {"FAST__ENABLED": "true", "SCHEDULE__MIN_EVALUATION": "100000"}


def teach(house: House, said: str, label: str) -> None:
    assert house._post("/labels", {"id": label, "input": said, "label": label}) is not None


def answer(house: House, said: str) -> tuple[str, str]:
    reply = house.http.post("/predict", json={"inputs": said})
    reply.raise_for_status()
    return reply.json()["predictions"][0]["label"], reply.json()["version"]


@pytest.mark.timeout(240)
def test_a_correction_is_answered_by_at_once_and_a_killed_learner_goes_on(tmp_path: Path) -> None:
    texts = {word: WORDS[word].format(1) for word in sorted(WORDS)} | {"complaint": "this is a disgrace, I complain"}
    with House(tmp_path, **FAST) as house:
        house.start("serve")
        house.start("learn")
        house.ready("serve")
        house.ready("learn")
        waits = []
        for word in sorted(WORDS):
            teach(house, texts[word], word)
            began = time.monotonic()
            wait_for(f"the answer {word}", lambda word=word: answer(house, texts[word])[0] == word, 20)
            waits.append(time.monotonic() - began)
        assert sorted(waits)[1] <= 3.0
        _, version = answer(house, "hello")
        assert seq_of(version) >= 1
        assert house.version() == f"{version.rpartition('.')[0]}.0", "the release that it goes on from is listed"
        epoch = version.split(".")[1]
        house.kill("learn")
        assert answer(house, texts["refund"]) == ("refund", version)
        house.start("learn")
        house.ready("learn")
        wait_for("the new epoch", lambda: answer(house, "hello")[1].split(".")[1] > epoch, 30)
        label, after = answer(house, texts["refund"])
        assert (label, seq_of(after)) == ("refund", 1), "it begins with the head that it had"
        teach(house, texts["complaint"], "complaint")
        wait_for("a new label", lambda: answer(house, texts["complaint"])[0] == "complaint", 20)
        status = httpx.get(f"http://127.0.0.1:{house.learn_port}/status").json()
        assert status["version"].startswith(f"v0.{int(epoch) + 1}.")
