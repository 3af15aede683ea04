"""Builds stores and records for the tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from stream_ft.events import (
    Example,
    Feedback,
    LabelCorrection,
    LabelledEvent,
    Origin,
    Prediction,
    Reject,
    TextCorrection,
    to_json,
)
from stream_ft.ingest.validate import parse
from stream_ft.ports import Headers, Record
from stream_ft.replay.store import Applied, Item, Store
from stream_ft.replay.watermark import PREDICTIONS_WINDOW, WINDOW

START = 1_700_000_000.0
DAY = 86_400.0
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def open_store(path: Path | str = ":memory:", **settings: Any) -> Store:
    """A store that holds nothing out and keeps everything, unless told otherwise."""
    values: dict[str, Any] = {
        "capacity": 10_000, "sampler": "balanced", "holdout_share": 0.0, "holdout_after": 20, "holdout_capacity": 1_000,
        "orphan_limit_s": 3_600.0, "horizon_days": 30, "contradictions": 3, "similarity": 0.8, "seed": 0, "model": "m",
    }  # fmt: skip
    return Store(path, **(values | settings))


def sentence(number: int) -> str:
    """A text that is like no other: its words are drawn by the number."""
    rng = np.random.Generator(np.random.PCG64(number))
    return " ".join("".join(rng.choice(list(LETTERS), 7)) for _ in range(6))


def vector(*values: float, dim: int = 8) -> bytes:
    """An embedding."""
    full = np.zeros(dim, "<f2")
    full[: len(values)] = values
    return full.tobytes()


class Feeder:
    """Publishes to the topics of one model and applies at once: offsets and append times grow by one."""

    def __init__(self, store: Store, *, start: float = START) -> None:
        self.store = store
        self.at = start
        self.applied: list[Applied] = []
        self._next: dict[str, int] = {}

    def record(self, kind: str, value: bytes, *, at: float | None = None, headers: Headers = ()) -> Record:
        self.at = self.at + 1 if at is None else at
        topic = f"stream_ft.m.{kind}"
        offset = self._next.get(topic, 0)
        self._next[topic] = offset + 1
        return Record(
            topic=topic, partition=0, offset=offset, value=value, key=b"k", headers=headers, appended_at=self.at
        )

    def item(self, kind: str, event: Struct | bytes, *, at: float | None = None, **answer: Any) -> Item:
        record = self.record(kind, event if isinstance(event, bytes) else to_json(event), at=at)
        return Item(record=record, event=parse(record, now=self.at), **answer)

    def apply(self, *items: Item) -> Applied:
        self.applied.append(self.store.apply(items, now=self.at))
        return self.applied[-1]

    def pass_time(self, at: float) -> Applied:
        """The log comes to a time: as many records as it takes to be believed, none of which teaches anything."""
        said = LabelledEvent(input="hm", correction=LabelCorrection(label="x"), source="model")
        self.apply(*(self.item("labels", said, at=at) for _ in range(WINDOW)))
        return self.apply(*(self.item("labels", said, at=at) for _ in range(WINDOW)))

    def pass_predictions(self, at: float) -> list[Applied]:
        """The predictions come to a time."""
        return [self.predict(f"at-{at}-{n}", sentence(900 + n), at=at) for n in range(2 * PREDICTIONS_WINDOW)]

    def predict(self, id: str, text: str, output: str = "old", *, at: float | None = None, **more: Any) -> Applied:
        event = Prediction(
            id=id, time=at or self.at, model="m", version="v0.1.0", base="b", input=text, output=output, **more
        )
        return self.apply(self.item("predictions", event, at=at))

    def say(
        self, prediction: str, kind: str = "correct", label: str | None = None, *, at: float | None = None, **more: Any
    ) -> Applied:
        correction = None if label is None else LabelCorrection(label=label)
        event = Feedback(prediction_id=prediction, kind=kind, correction=correction, **more)  # type: ignore[arg-type]
        return self.apply(self.item("feedback", event, at=at))

    def label(
        self,
        text: str,
        label: str,
        *,
        at: float | None = None,
        origin: Origin = "label_topic",
        answer: dict[str, Any] | None = None,
        **more: Any,
    ) -> Applied:
        event = LabelledEvent(input=text, correction=LabelCorrection(label=label), origin=origin, **more)
        return self.apply(self.item("labels", event, at=at, **(answer or {})))

    def translate(self, text: str, right: str, **more: Any) -> Applied:
        return self.apply(self.item("labels", LabelledEvent(input=text, correction=TextCorrection(text=right), **more)))


def labels(examples: list[Example]) -> dict[str, str]:
    """Label by text."""
    return {example.input: example.label for example in examples}


def reasons(applied: Applied) -> list[str]:
    """Slugs of the rejects."""
    assert all(isinstance(reject, Reject) for reject in applied.rejects)
    return [reject.reason for reject in applied.rejects]
