from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving

from stream_ft.events import Feedback, LabelledEvent
from stream_ft.ingest.validate import parse
from stream_ft.topics import topic


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        made.genesis("yes", "no")
        yield made


def predict(serving: Serving, text: str = "hello") -> str:
    name: str = serving.post("/predict", {"inputs": text}).json()["predictions"][0]["id"]
    return name


def stored(serving: Serving, kind: str) -> list[Any]:
    """What ingest reads."""
    serving.appender.close()
    return [parse(record, now=2_000.0) for record in serving.log.read(topic("shop", kind), 0, 0, 1_000)]


def test_a_correction_is_acknowledged_with_its_offset_and_lies_in_the_log(serving: Serving) -> None:
    name = predict(serving)
    response = serving.post("/feedback", {"prediction_id": name, "label": "no"})
    assert (response.status_code, response.json()) == (202, {"accepted": 1, "offsets": [0]})
    (event,) = stored(serving, "feedback")
    assert isinstance(event, Feedback)
    assert (event.prediction_id, event.kind, event.correction.label) == (name, "correct", "no")
    assert serving.log.read(topic("shop", "feedback"), 0, 0, 1)[0].key == name.encode()


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "accept"},
        {"kind": "reject"},
        {"kind": "rating", "rating": 4},
        {"kind": "correct", "correction": {"kind": "label", "label": "no"}, "source": "ann", "id": "f-1"},
    ],
)
def test_every_kind_of_feedback_is_taken(serving: Serving, said: dict[str, Any]) -> None:
    response = serving.post("/feedback", {"prediction_id": predict(serving)} | said)
    assert response.status_code == 202
    (event,) = stored(serving, "feedback")
    assert event.kind == said["kind"]


def test_a_list_is_taken_in_order(serving: Serving) -> None:
    names = [predict(serving, f"text {i}") for i in range(3)]
    response = serving.post("/feedback", [{"prediction_id": name, "label": "no"} for name in names])
    assert response.json() == {"accepted": 3, "offsets": [0, 1, 2]}
    assert [event.prediction_id for event in stored(serving, "feedback")] == names


def test_a_list_with_one_bad_event_is_refused_as_a_whole(serving: Serving) -> None:
    good = {"prediction_id": predict(serving), "label": "no"}
    response = serving.post("/feedback", [good, good | {"kind": "shrug"}])
    assert response.status_code == 422
    assert "Event 1" in response.json()["error"]
    assert stored(serving, "feedback") == []


def test_feedback_on_a_prediction_that_was_never_issued_is_404(serving: Serving) -> None:
    name = predict(serving)
    for made_up in ("p-1", name[:-1] + ("0" if name[-1] != "0" else "1"), name.replace("p-", "q-")):
        response = serving.post("/feedback", {"prediction_id": made_up, "label": "no"})
        assert response.status_code == 404
        assert made_up not in response.text
    assert stored(serving, "feedback") == []


def test_the_label_topics_trust_cannot_be_claimed_by_feedback(serving: Serving) -> None:
    response = serving.post("/feedback", {"prediction_id": predict(serving), "label": "no", "origin": "label_topic"})
    events = stored(serving, "feedback")
    assert response.status_code == 202
    assert [event.origin for event in events] == ["user"]


def test_a_labelled_event_brings_its_own_input(serving: Serving) -> None:
    response = serving.post("/labels", {"input": "where is it?", "label": "delivery"})
    assert (response.status_code, response.json()) == (202, {"accepted": 1, "offsets": [0]})
    (event,) = stored(serving, "labels")
    assert isinstance(event, LabelledEvent)
    assert (event.input, event.correction.label, event.origin) == ("where is it?", "delivery", "label_topic")


@pytest.mark.parametrize("path", ["/feedback", "/labels"])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"label": NaN}', 400),
        (b"[" * 50_000, 400),
        (b'{"a": ' * 900 + b"1" + b"}" * 900, 422),
        (b"[]", 422),
        (b"null", 400),
        (b"1", 400),
        (b"[[]]", 400),
        (b'"text"', 400),
        (b"{}", 422),
        (b'{"type": "prediction", "label": "x"}', 422),
        (b'{"input": "", "label": "x", "prediction_id": ""}', 422),
        (b'{"input": "a", "prediction_id": "p", "label": ""}', 422),
        (b'{"input": "a", "prediction_id": "p", "label": "x", "schema_version": 99}', 422),
        (b"[" + b",".join([b"{}"] * 1_001) + b"]", 422),
        (b'{"input": "' + b"a" * 1_000_000 + b'"}', 413),
    ],
)
def test_fault_08_bad_events_get_one_sentence_and_are_not_stored(
    serving: Serving, path: str, content: bytes, status: int
) -> None:
    response = serving.post(path, content=content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert stored(serving, path[1:]) == []


def test_fault_04_nothing_is_acknowledged_that_the_disk_did_not_take(serving: Serving) -> None:
    name = predict(serving)
    serving.log.full = True
    for path, event in (
        ("/feedback", {"prediction_id": name, "label": "no"}),
        ("/labels", {"input": "a", "label": "b"}),
    ):
        response = serving.post(path, event)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
    assert serving.post("/predict", {"inputs": "hello"}).status_code == 200
    serving.log.full = False
    assert serving.post("/feedback", {"prediction_id": name, "label": "no"}).status_code == 202
    assert len(stored(serving, "feedback")) == 1
    assert serving.metrics.registry.get_sample_value("stream_ft_feedback_accepted_total") == 1


def test_feedback_survives_a_restart_of_the_service(serving: Serving, tmp_path: Path) -> None:
    name = predict(serving)
    with Serving(tmp_path, log=serving.log) as again:
        assert again.post("/feedback", {"prediction_id": name, "label": "no"}).status_code == 202
