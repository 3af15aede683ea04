"""What was said last, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving

from stream_ft.ports import Outgoing
from stream_ft.topics import topic


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        made.genesis("yes", "no")
        yield made


def predict(serving: Serving, text: str = "hello") -> str:
    id: str = serving.post("/predict", {"inputs": text}).json()["predictions"][0]["id"]
    return id


def said(serving: Serving, query: str = "") -> list[dict[str, Any]]:
    response = serving.get(f"/feedback{query}")
    assert response.status_code == 200
    statements: list[dict[str, Any]] = response.json()["statements"]
    return statements


def test_nothing_was_said(serving: Serving) -> None:
    assert said(serving) == []


def test_newest_first_of_both_topics(serving: Serving) -> None:
    one = predict(serving)
    serving.post("/feedback", {"prediction_id": one, "label": "no", "source": "ann", "id": "f-1"})
    serving.clock.advance(1)
    serving.post("/labels", {"input": "good day", "label": "yes", "id": "e-1", "source": "crm"})
    serving.clock.advance(1)
    serving.post("/feedback", [{"prediction_id": one, "kind": "rating", "rating": 4}])
    rating, label, correction = said(serving)
    assert (rating["kind"], rating["rating"], rating["prediction_id"]) == ("rating", 4.0, one)
    assert (label["topic"], label["kind"], label["said"], label["id"], label["source"]) == (
        "labels",
        "labelled",
        "yes",
        "e-1",
        "crm",
    )
    assert (correction["kind"], correction["said"], correction["id"], correction["time"]) == (
        "correct",
        "no",
        "f-1",
        1_000.0,
    )
    assert {row["became"] for row in (rating, label, correction)} == {"unknown"}


def test_by_the_id_of_a_prediction_or_of_an_event(serving: Serving) -> None:
    one, other = predict(serving), predict(serving, "another")
    for id in (one, other, one):
        serving.post("/feedback", {"prediction_id": id, "kind": "accept"})
    serving.post("/labels", {"input": "good day", "label": "yes", "id": "e-1"})
    assert [row["prediction_id"] for row in said(serving, f"?id={one}")] == [one, one]
    assert [row["id"] for row in said(serving, "?id=e-1")] == ["e-1"]
    assert said(serving, "?id=none") == []


def test_only_so_many(serving: Serving) -> None:
    one = predict(serving)
    serving.post("/feedback", [{"prediction_id": one, "kind": "accept", "id": f"f-{n}"} for n in range(50)])
    assert [row["id"] for row in said(serving)] == [f"f-{n}" for n in range(49, 29, -1)]
    assert [row["id"] for row in said(serving, "?limit=2")] == ["f-49", "f-48"]


def test_what_others_wrote_on_the_topic_is_shown_as_refused(serving: Serving) -> None:
    serving.log.append([Outgoing(topic=topic("shop", "feedback"), value=b"{no json")])
    (row,) = said(serving)
    assert row["became"] == "dead_letter"
    assert row["refused"].startswith("invalid_json")


def test_what_retention_has_removed_is_passed_over(serving: Serving) -> None:
    one = predict(serving)
    serving.post("/feedback", [{"prediction_id": one, "kind": "accept", "id": f"f-{n}"} for n in range(10)])
    serving.log.trim(topic("shop", "feedback"), 0, 8)
    assert [row["id"] for row in said(serving)] == ["f-9", "f-8"]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "201", "9999", "²", ""])
def test_a_limit_that_is_none_is_refused(serving: Serving, limit: str) -> None:
    assert serving.get("/feedback", params={"limit": limit}).status_code == 400
