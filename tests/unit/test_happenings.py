"""What the learner tells: once, at the time it happened, in the words of the messages; and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from learning_parts import DIM, START, Learning, names, text

from stream_ft import control
from stream_ft.events import Feedback, LabelCorrection, Prediction, to_json
from stream_ft.learn.gate import judge
from stream_ft.learn.job import Job
from stream_ft.learn.learner import Refuse
from stream_ft.logs import JsonLines
from stream_ft.model.heads import Head
from stream_ft.wiring.happening import Happening

Start = Callable[..., Learning]


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as opened:

        def start(**settings: Any) -> Learning:
            learning = Learning(tmp_path, files=True, **settings)
            opened.callback(learning.close)
            return learning

        yield start


def status(learning: Learning) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((learning.folder / "a.status.json").read_bytes())
    return found


def promote(learning: Learning, base: str) -> None:
    """An operator's promotion of a base that the fake engine takes."""
    state = learning.core.state
    learning.issue(
        control.Promote,
        base=learning.registry.put({"base.json": base.encode()}),
        start_head=learning.registry.put_head(Head.empty(DIM).to_bytes()),
        parent=state.base,
        expected_epoch=state.epoch,
    )
    learning.step()


# --- a restart -----------------------------------------------------------------------------------------------------


def test_a_restart_tells_nothing_anew_and_the_status_keeps_what_was_told(learner: Start) -> None:
    first = learner()
    first.step(2)
    promote(first, "better")
    first.issue(control.Pause)
    first.step()
    before = status(first)["happenings"]
    assert [row["kind"] for row in before] == ["promotion", "note"]
    first.close()

    again = learner()
    again.clock.set(START + 1_000)
    again.step()
    assert again.happenings == []
    assert status(again)["happenings"] == before
    again.issue(control.Resume)
    again.step()
    assert [happening.text for happening in again.happenings] == ["resume by operator/test"]


def test_what_came_while_it_was_away_is_told_with_the_time_at_which_it_happened(learner: Start) -> None:
    first = learner()
    first.step(2)
    first.issue(control.Pause)
    came = first.clock.now()
    first.close()

    again = learner(follow=False)
    again.clock.set(START + 1_000)
    again.step()
    (told,) = again.happenings
    assert (told.text, told.time) == ("pause by operator/test", came)
    again.close()
    assert learner().happenings == []


def test_what_the_status_says_of_it_is_short_and_reads_back() -> None:
    numbers = {"difference": 1 / 3, "size": None, "n": 7, "scale": "accuracy"}
    told = Happening(kind="refusal", text="no", time=1_700_000_000.123, numbers=numbers, seconds=2 / 3).told()
    assert told == {
        "kind": "refusal", "text": "no", "time": 1_700_000_000.123, "seconds": 0.666667,
        "numbers": {"difference": 0.333333, "n": 7, "scale": "accuracy"},
    }  # fmt: skip
    assert msgspec.convert(told, Happening).version == ""


WITHOUT = {"champion": [0.0] * 100 + [1.0] * 40 + [0.0] * 60, "candidate": [1.0] * 100 + [0.0] * 100}
CLASS = {"champion": [1.0] * 20 + [0.0] * 180, "candidate": [0.0] * 20 + [1.0] * 180}


@pytest.mark.parametrize(
    ("scores", "by", "name", "told"),
    [
        (WITHOUT, "sources", "mrs o'hara", "Only the examples of one source speak for it: -40.0 points on the 100 of"),
        (CLASS, "classes", "my card\n4711", "Recall of a class falls by 100 points on 20 examples;"),
    ],
)
def test_a_refusal_names_a_class_or_a_source_in_the_status_and_not_in_the_log(
    learner: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scores: dict[str, list[float]],
    by: str,
    name: str,
    told: str,
) -> None:
    of = [name if (b > a if by == "sources" else a > b) else "other" for a, b in zip(*scores.values(), strict=True)]
    groups: dict[str, Any] = {"classes": None} | {by: of}
    verdict = judge(
        **scores, **groups, margin=0.02, confidence=0.95, class_floor=0.2, class_support=10, min_examples=100
    )
    job = Job(kind="head", base_model="m", champion_base="b", examples_upto=50, epoch=1)
    learning = learner()
    learning.step(2)
    refusal = Refuse(job=job, verdict=verdict, reason=verdict.reason)
    monkeypatch.setattr(learning.core.learner, "step", lambda facts, now: [refusal])
    with caplog.at_level("INFO", "stream_ft.learn"):
        learning.core.perform([], START)
    (record,) = [record for record in caplog.records if record.getMessage().startswith("refusal: ")]
    line = JsonLines().format(record)
    assert told in record.getMessage()
    assert not any(word in line for word in (name, "o'hara", "4711"))
    assert msgspec.json.decode(line)["worst_class_drop"] == verdict.worst_class_drop
    assert repr(name) in learning.said("refusal")[0]
    assert name in learning.happenings[-1].told()["numbers"].values()  # type: ignore[attr-defined]


# --- words ---------------------------------------------------------------------------------------------------------


def test_a_deny_of_what_is_not_active_is_a_note_and_no_rollback(learner: Start) -> None:
    learning = learner()
    learning.step(2)
    learning.issue(control.Deny, sha256="f" * 64, reason="suspect")
    learning.step()
    assert learning.said("rollback") == []
    assert learning.said("note") == ["deny of base ffffffffffff by operator/test: suspect"]


def test_a_deny_of_what_is_active_is_a_rollback(learner: Start) -> None:
    learning = learner()
    learning.step(2)
    promote(learning, "worse")
    learning.issue(control.Deny, sha256=learning.core.state.base, reason="bad")
    learning.step()
    assert learning.said("rollback") == ["v2.2.0 -> v0.3.0, by operator/test: bad"]


def test_messages_are_called_by_the_names_that_they_have_on_the_log(learner: Start) -> None:
    learning = learner()
    learning.step(2)
    learning.issue(control.TrainNow)
    learning.issue(control.LabelAdd, label="new")
    learning.issue(control.LabelAdd, label="new", by="learner/a")
    learning.step()
    assert learning.said("note") == [
        "train_now by operator/test",
        "label_add by operator/test",
        "label_add was refused: Only an operator adds a label.",
    ]


# --- what users say ------------------------------------------------------------------------------------------------


def say(learning: Learning, number: int, kind: str, label: str | None = None, **more: Any) -> None:
    """A prediction of ``a`` and feedback of it."""
    prediction = Prediction(
        id=f"p{number}", time=START, model="default", version="v0.0.0", base="b", input=text(number), output="a"
    )
    correction = None if label is None else LabelCorrection(label=label)
    said = Feedback(prediction_id=f"p{number}", kind=kind, correction=correction, **more)  # type: ignore[arg-type]
    learning.publish("predictions", to_json(prediction))
    learning.publish("feedback", to_json(said))


def gauge(learning: Learning, name: str, **labels: str) -> float | None:
    return learning.loop._series.registry.get_sample_value(name, labels)


def test_feedback_makes_the_rate_of_corrections_and_no_accuracy(learner: Start) -> None:
    learning = learner()
    for number, (kind, label) in enumerate(
        [("accept", None), ("accept", None), ("reject", None), ("correct", "b"), ("correct", "a")]
    ):
        say(learning, number, kind, label)
    learning.step(2)
    assert gauge(learning, "stream_ft_correction_ratio", window="last") == 2 / 5
    assert gauge(learning, "stream_ft_live_accuracy_ratio", base="v0", tier="slow") is None
    told = status(learning)
    assert (told["correction_ratio"], told["corrections_over"], told["accuracy_over"]) == (2 / 5, 5, 0)

    learning.label(100, 104)
    learning.step(2)
    assert status(learning)["accuracy_over"] == 4
    assert gauge(learning, "stream_ft_correction_ratio", window="last") == 2 / 5


def test_a_label_that_a_quorum_brings_in_is_a_decision_that_is_told_without_the_label(learner: Start) -> None:
    learning = learner()
    for number, source in enumerate(["ann", "bob", "bob", "cy"]):
        say(learning, number, "correct", "my secret", source=source)
        learning.step()
        expected = ["A label that was new is learned: enough sources named it."] if source == "cy" else []
        assert learning.said("note") == expected
    assert "my secret" in learning.core.store.labels()


def test_the_rate_is_of_the_last_answers(learner: Start) -> None:
    learning = learner()
    for number in range(10):
        say(learning, number, "reject")
    for number in range(10, 310):
        say(learning, number, "accept")
    learning.step(3)
    assert gauge(learning, "stream_ft_correction_ratio", window="last") == 0.0
    assert status(learning)["corrections_over"] == 300


def test_ratings_are_a_metric_and_nothing_else(learner: Start) -> None:
    learning = learner()
    for number, rating in enumerate([1.0, 4.0, 4.0]):
        say(learning, number, "rating", rating=rating)
    say(learning, 3, "rating", rating=100.0, source="model")
    learning.publish("feedback", to_json(Feedback(prediction_id="later", kind="rating", rating=7.0)))
    learning.step(2)
    assert gauge(learning, "stream_ft_rating_mean", window="last") == 3.0
    assert learning.store.count().train == 0
    assert status(learning)["corrections_over"] == 0
    prediction = Prediction(id="later", time=START, model="default", version="v", base="b", input="a text", output="a")
    learning.publish("predictions", to_json(prediction))
    learning.step(2)
    assert gauge(learning, "stream_ft_rating_mean", window="last") == 4.0
    assert learning.log.read(names("dlq"), 0, 0, 9) == []
