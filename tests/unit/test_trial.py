"""A challenger beside the champion, from the control log to the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_parts import Serving, head

from stream_ft import control
from stream_ft.serve.trial import MOST_PAIRS, Counts, chosen


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        made.genesis("yes", "no")
        yield made


def ask(serving: Serving, text: str = "hello", **headers: str) -> str:
    """The version that answered."""
    response = serving.post(
        "/predict", {"inputs": [text, "more"]}, headers={f"stream-ft-{k}": v for k, v in headers.items()}
    )
    assert response.status_code == 200
    assert response.headers["stream-ft-version"] == response.json()["version"]
    return str(response.json()["version"])


def value(serving: Serving, name: str, **labels: str) -> float:
    return serving.metrics.registry.get_sample_value(f"stream_ft_{name}", labels) or 0.0


def idle(serving: Serving) -> None:
    """Wait until the forward thread has nothing more to do."""
    for _ in range(50):
        serving.batcher.between(lambda: None).result(10)


def status(serving: Serving) -> dict[str, object]:
    told = serving.trials.status()
    assert told is not None
    return told


# --- canary ----------------------------------------------------------------------------------------------------


def test_a_canary_answers_its_keys_and_the_champion_all_others(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b", share=0.5)
    serving.follower.step()
    for number in range(40):
        key = f"user {number}"
        expected = "trial-1" if chosen(key, base, 0.5) else "v0.0.0"
        assert {ask(serving, "hello", key=key), ask(serving, "another text", key=key)} == {expected}
    assert value(serving, "slot_requests_total", slot="challenger") == status(serving)["answered"] > 0
    assert value(serving, "slot_requests_total", slot="champion") > 0


def test_without_a_header_the_first_text_is_the_key(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b", share=0.5)
    serving.follower.step()
    for number in range(20):
        assert ask(serving, f"text {number}") == ("trial-1" if chosen(f"text {number}", base, 0.5) else "v0.0.0")


def test_the_protocols_answers_are_dealt_like_the_others(serving: Serving) -> None:
    serving.challenge("new", "a", "b")
    serving.follower.step()
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
    assert serving.post("/v2/models/shop/infer", {"inputs": [tensor]}).json()["model_version"] == "trial-1"


def test_what_a_canary_answered_is_published_under_its_name_and_base(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b")
    serving.follower.step()
    ask(serving)
    event = serving.written("predictions")[0]
    assert (event["version"], event["base"]) == ("trial-1", base)
    assert event["output"] in {"a", "b"}


def test_the_share_grows_without_loading_anything_and_share_0_ends_it(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b", share=0.0001)
    serving.follower.step()
    assert ask(serving) == "v0.0.0"
    calls = serving.engine.calls.copy()
    start = serving.registry.put_head(head("a", "b"))
    serving.say(control.Canary, base=base, start_head=start, share=1)
    serving.follower.step()
    assert serving.engine.calls == calls
    assert ask(serving) == "trial-1"
    serving.say(control.Canary, base=base, start_head=start, share=0)
    serving.follower.step()
    assert ask(serving) == "v0.0.0"
    assert serving.trials.status() is None


def test_a_challenger_that_is_promoted_goes_on_as_the_champion(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b", share=0.5)
    serving.follower.step()
    serving.promote("new", "a", "b")
    serving.follower.step()
    assert (serving.version, serving.slots.challenger, serving.engine.held) == ("v1.1.0", None, {base})
    assert serving.engine.calls.count(("prepare", base)) == 1


def test_a_denied_challenger_answers_nobody_any_more(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b")
    serving.follower.step()
    assert ask(serving) == "trial-1"
    serving.say(control.Deny, sha256=base, reason="bad")
    serving.follower.step()
    assert ask(serving) == "v0.0.0"
    assert serving.slots.challenger is None


def test_a_new_champion_comes_beside_a_challenger_that_stays(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b")
    serving.follower.step()
    better = serving.promote("better", "yes")
    serving.follower.step()
    assert (serving.version, ask(serving)) == ("v1.1.0", "trial-1")
    assert set(serving.engine.bases) == {base, better}


def test_a_challenger_that_fails_at_a_request_leaves_it_to_the_champion(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b")
    serving.follower.step()
    serving.batcher.between(lambda: serving.engine.drop(base)).result(10)
    assert ask(serving) == "v0.0.0"


# --- a challenger that cannot be loaded ------------------------------------------------------------------------


def test_a_challenger_that_cannot_be_loaded_is_said_and_tried_again_and_the_champion_answers(serving: Serving) -> None:
    base = serving.challenge("new", "a", "b")
    serving.engine.refuse[base] = "keys"
    serving.follower.step()
    assert ask(serving) == "v0.0.0"
    assert serving.follower.failure is None
    assert serving.follower.ready() == (True, "")
    failure = serving.follower.challenger_failure
    assert failure is not None
    assert failure.step == "keys"
    assert (status(serving)["loaded"], value(serving, "challenger_ready")) == (False, 0)
    assert value(serving, "challenger_failures_total", step="keys") == 1
    serving.engine.refuse.clear()
    serving.follower.step()
    assert ask(serving) == "v0.0.0", "not before the pause is over"
    serving.clock.advance(1.0)
    serving.follower.step()
    assert (ask(serving), value(serving, "challenger_ready")) == ("trial-1", 1)
    assert serving.follower.challenger_failure is None
    acks = [(ack["ok"], ack["version"], ack["challenger"], ack["challenger_step"]) for ack in serving.written("acks")]
    assert acks == [(True, "v0.0.0", "", ""), (True, "v0.0.0", "", "keys"), (True, "v0.0.0", "trial-1", "")]


def test_a_head_of_another_width_is_found_by_the_golden_texts(serving: Serving) -> None:
    base = serving.registry.put({"base.json": b"{}"})
    serving.say(control.Canary, base=base, start_head=serving.registry.put_head(head("a", dim=7)), share=1)
    serving.follower.step()
    assert serving.follower.challenger_failure is not None
    assert ask(serving) == "v0.0.0"


def test_after_a_restart_the_trial_goes_on(serving: Serving, tmp_path: Path) -> None:
    serving.challenge("new", "a", "b")
    serving.follower.step()
    with Serving(tmp_path, log=serving.log) as again:
        again.follower.restore()
        again.follower.step()
        assert ask(again) == "trial-1"


# --- shadow ----------------------------------------------------------------------------------------------------


def test_a_shadow_scores_what_the_champion_answers_and_nothing_of_it_is_published(serving: Serving) -> None:
    serving.challenge("new", "yes", "no", kind="shadow")
    serving.follower.step()
    assert [ask(serving, f"text {number}") for number in range(10)] == ["v0.0.0"] * 10
    idle(serving)
    told = status(serving)
    assert told["kind"] == "shadow"
    assert told["answered"] + told["shed"] == 10  # type: ignore[operator]
    assert told["answered"] == value(serving, "shadow_seconds_count") > 0
    agreed, disagreed = (value(serving, "shadow_requests_total", result=r) for r in ("agreed", "disagreed"))
    assert (agreed, agreed + disagreed) == (told["agreed"], told["answered"])
    assert sum(pair["requests"] for pair in told["disagreements"]) == disagreed > 0  # type: ignore[attr-defined]
    assert value(serving, "slot_requests_total", slot="challenger") == 0
    assert {event["version"] for event in serving.written("predictions")} == {"v0.0.0"}


def test_the_commonest_disagreements_are_told_and_their_number_is_bounded() -> None:
    counts = Counts(version="trial-1", kind="shadow")
    for number in range(3 * MOST_PAIRS):
        assert not counts.compared("refund", f"label {number}")
    for _ in range(5):
        assert not counts.compared("refund", "label 7")
        assert counts.compared("refund", "refund")
    told = counts.disagreements()
    assert told[0] == {"champion": "refund", "challenger": "label 7", "requests": 6}
    assert len(told) == 10
    assert len(counts.pairs) == MOST_PAIRS
    assert (counts.answered, counts.agreed) == (3 * MOST_PAIRS + 10, 5)


def test_a_shadow_takes_its_share_only(serving: Serving) -> None:
    serving.challenge("new", "yes", "no", kind="shadow", share=0.3)
    serving.follower.step()
    for number in range(60):
        ask(serving, f"text {number}")
        idle(serving)
    told = status(serving)
    assert 3 < told["answered"] + told["shed"] < 40  # type: ignore[operator]


def test_a_shadow_is_shed_while_requests_wait_and_no_request_is_lost(serving: Serving) -> None:
    serving.challenge("new", "yes", "no", kind="shadow")
    serving.follower.step()
    serving.batcher.idle = lambda job: False  # type: ignore[method-assign]
    assert [ask(serving) for _ in range(3)] == ["v0.0.0"] * 3
    assert (status(serving)["answered"], status(serving)["shed"]) == (0, 3)
    assert value(serving, "shadow_requests_total", result="shed") == 3


def test_a_shadow_that_fails_is_counted_and_harms_nobody(serving: Serving) -> None:
    base = serving.challenge("new", "yes", "no", kind="shadow")
    serving.follower.step()
    serving.batcher.between(lambda: serving.engine.drop(base)).result(10)
    assert ask(serving) == "v0.0.0"
    idle(serving)
    assert ask(serving) == "v0.0.0"
    idle(serving)
    assert status(serving)["failed"] == 2


# --- by name ---------------------------------------------------------------------------------------------------

MODEL = "/v2/models/shop"


def infer(serving: Serving, version: str) -> tuple[int, str]:
    asked = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}
    response = serving.post(f"{MODEL}/versions/{version}/infer", asked)
    return response.status_code, response.json().get("model_version", "")


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_a_version_on_trial_can_be_asked_by_its_name(serving: Serving, kind: str) -> None:
    assert serving.get(f"{MODEL}/versions/trial-1").status_code == 404
    serving.challenge("new", "a", "b", "c", share=1e-9, kind=kind)
    serving.follower.step()
    told = serving.get(f"{MODEL}/versions/trial-1")
    assert (told.status_code, told.json()["versions"]) == (200, ["trial-1"])
    assert told.json()["outputs"][-1]["shape"] == [-1, 3], "the metadata are the champion's"
    assert serving.get(MODEL).json()["versions"] == ["v0.0.0", "trial-1"]
    assert serving.get(f"{MODEL}/versions/trial-1/ready").json() == {"name": "shop", "ready": True}
    assert infer(serving, "trial-1") == (200, "trial-1")
    assert infer(serving, "v0.0.0") == (200, "v0.0.0")
    assert infer(serving, "trial-2") == (404, "")


def test_a_trial_that_is_over_or_not_loaded_is_not_there(serving: Serving) -> None:
    serving.challenge("new", "a", share=0.5)
    assert serving.get(f"{MODEL}/versions/trial-1/ready").status_code == 404, "it has not been loaded yet"
    serving.follower.step()
    assert infer(serving, "trial-1") == (200, "trial-1")
    serving.challenge("new", "a", share=0)
    serving.follower.step()
    assert infer(serving, "trial-1") == (404, "")
    assert serving.get(f"{MODEL}/versions/trial-1").status_code == 404
    assert serving.get(MODEL).json()["versions"] == ["v0.0.0"]
