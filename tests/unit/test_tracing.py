"""Traces: what is told, what travels, and that a correction is followed to the version that learned it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving
from store_kit import open_store

from stream_ft import config, tracing
from stream_ft.events import LabelCorrection, LabelledEvent, to_json
from stream_ft.ingest.forward import outcome
from stream_ft.ingest.receive import received
from stream_ft.ingest.validate import parse
from stream_ft.ports import Record
from stream_ft.replay.fate import Fate, fates
from stream_ft.replay.store import Item, Store
from stream_ft.topics import topic
from stream_ft.tracing import NoTraces
from stream_ft.wiring.otel import MOST_LINKS, OtelTraces, open_traces
from stream_ft.wiring.tracks import WAITING, Tracks

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="no opentelemetry-sdk")

THEIRS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
SECRET = "my card is 4711"


class Kept:
    """Traces of one process, kept in memory."""

    def __init__(self, role: str, share: float = 1.0) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        self.exporter = export.InMemorySpanExporter()
        self.traces = OtelTraces(SimpleSpanProcessor(self.exporter), role=role, model="shop", share=share)

    def spans(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.spans(name)
        return span


def statement(offset: int, context: str) -> Record:
    event = LabelledEvent(input=f"text number {offset}", correction=LabelCorrection(label="refund"), source="ann")
    return Record(
        topic=topic("shop", "labels"), partition=0, offset=offset, key=None, value=to_json(event),
        appended_at=2_000.0, headers=tracing.headers(context),
    )  # fmt: skip


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept("serve")
    yield made
    made.traces.close()


@pytest.mark.parametrize(
    "value",
    [
        None, "", "x", THEIRS[:-1], THEIRS.upper(), "ff" + THEIRS[2:],
        THEIRS.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        THEIRS.replace("b7ad6b7169203331", "0" * 16), f"{THEIRS}-more", b"\xff\x00", "a" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_none(value: str | bytes | None) -> None:
    assert tracing.checked(value) == ""


def test_a_traceparent_is_taken_from_text_and_bytes() -> None:
    assert tracing.checked(f" {THEIRS} ") == tracing.checked(THEIRS.encode()) == THEIRS
    assert tracing.of(tracing.headers(THEIRS)) == THEIRS
    assert tracing.headers("") == ()
    assert tracing.of((("other", b"x"),)) == ""
    assert [tracing.sampled(one) for one in (THEIRS, UNSAMPLED, f"{THEIRS[:-2]}03", "")] == [True, False, True, False]


def test_a_span_has_its_times_its_parent_and_its_links(kept: Kept) -> None:
    facts = {"version": "v1.2.0"}
    told = kept.traces.span(
        "predict", start=10.0, end=10.5, attributes=facts, parent=THEIRS, links=[UNSAMPLED, THEIRS, "x"]
    )
    span = kept.one("predict")
    assert tracing.checked(told) == told
    assert told.split("-")[1] == THEIRS.split("-")[1] == f"{span.context.trace_id:032x}"
    assert f"{span.parent.span_id:016x}" == THEIRS.split("-")[2]
    assert (span.start_time, span.end_time) == (10_000_000_000, 10_500_000_000)
    assert dict(span.attributes) == {"stream_ft.version": "v1.2.0"}
    assert len(span.links) == 1
    assert span.resource.attributes["service.name"] == "stream_ft.serve"
    kept.traces.span("many", start=0, end=0, attributes={}, links=[THEIRS] * (MOST_LINKS + 9))
    assert len(kept.one("many").links) == MOST_LINKS


def test_who_asks_decides_whether_a_trace_is_kept(kept: Kept) -> None:
    kept.traces.span("predict", start=0, end=1, attributes={}, parent=UNSAMPLED)
    assert kept.spans("predict") == []
    never = Kept("serve", share=0.0)
    told = never.traces.span("predict", start=0, end=1, attributes={})
    assert never.spans("predict") == []
    assert int(told[-2:], 16) & 1 == 0, "the next process is told so"
    never.traces.span("predict", start=0, end=1, attributes={}, parent=THEIRS)
    assert len(never.spans("predict")) == 1


def test_without_an_endpoint_there_are_none(tmp_path: Path) -> None:
    traces = open_traces(config.load(flags={"state_dir": str(tmp_path)}), "serve")
    assert isinstance(traces, NoTraces)
    assert traces.span("predict", start=0, end=1, attributes={}) == ""
    with pytest.raises(config.ConfigError, match="must be a URL"):
        config.load(flags={"trace.endpoint": "localhost:4318"})


def test_what_ingest_forwards_goes_on_in_its_trace() -> None:
    for told in (THEIRS, UNSAMPLED, ""):
        message, _ = outcome(statement(7, told), now=2_000.0, events="stream_ft.shop.events", dlq="stream_ft.shop.dlq")
        assert (message.topic, tracing.of(message.headers)) == ("stream_ft.shop.events", told)


# --- from an answer to the version that learned it ---------------------------------------------------------------


class Learning:
    """The learner's part: a store and the tracks, fed from a serving process' log."""

    def __init__(self, serving: Serving, path: Path) -> None:
        self.kept = Kept("learn")
        self.store: Store = open_store(path, model="shop")
        self.store.allow_label("refund")
        self._serving = serving
        self.tracks = Tracks(
            self.kept.traces,
            receive=lambda record, now: received(record, now=now),
            fates=lambda said: fates(path, said),
        )

    def take(self, *kinds: str) -> None:
        """What is new on the log, of all topics or of some."""
        offsets = self.store.offsets()
        records: list[Record] = []
        for kind in kinds or ("predictions", "feedback", "labels"):
            name = topic("shop", kind)
            records += self._serving.log.read(name, 0, offsets.get((name, 0), 0), 1_000)
        items = [Item(record=record, event=parse(record, now=record.appended_at)) for record in records]
        self.store.apply(items, now=2_000.0)
        self.tracks.taken(records, start=2_000.0, end=2_000.5)


@pytest.fixture
def serving(tmp_path: Path, kept: Kept) -> Iterator[Serving]:
    with Serving(tmp_path / "serve", traces=kept.traces) as made:
        made.genesis("yes", "no")
        yield made


def ask(serving: Serving, text: str = SECRET, **headers: str) -> str:
    answer = serving.post("/predict", {"inputs": text}, headers=headers)
    return str(answer.json()["predictions"][0]["id"])


def correct(serving: Serving, prediction: str, label: str = "refund") -> None:
    said = {"prediction_id": prediction, "label": label, "source": "ann"}
    assert serving.post("/feedback", said).status_code == 202


def test_a_correction_is_one_trace_from_the_answer_to_the_version(serving: Serving, kept: Kept, tmp_path: Path) -> None:
    correct(serving, ask(serving, traceparent=THEIRS))
    serving.appender.close()
    learning = Learning(serving, tmp_path / "store.db")
    learning.take()
    learning.tracks.in_force("v0.1.0", 0, at=2_010.0)
    assert learning.kept.spans("learn") == [], "that version does not cover it"
    learning.tracks.in_force("v0.2.0", 1, at=2_020.0)
    learning.tracks.in_force("v0.3.0", 1, at=2_030.0)

    predict, feedback, take, learn = (
        kept.one("predict"), kept.one("feedback"), learning.kept.one("take"), learning.kept.one("learn"),
    )  # fmt: skip
    traces = {f"{span.context.trace_id:032x}" for span in (predict, take, learn)}
    assert traces == {THEIRS.split("-")[1]}, "the caller's own trace"
    assert take.parent.span_id == predict.context.span_id
    assert [link.context.span_id for link in take.links] == [feedback.context.span_id]
    assert learn.parent.span_id == take.context.span_id
    assert (learn.attributes["stream_ft.version"], learn.attributes["stream_ft.example"]) == ("v0.2.0", 1)
    assert (learn.start_time, learn.end_time) == (2_000_500_000_000, 2_020_000_000_000)
    in_force = learning.kept.one("in force")
    assert [link.context.span_id for link in learn.links] == [in_force.context.span_id]
    assert in_force.attributes["stream_ft.statements"] == 1
    everything = [*kept.exporter.get_finished_spans(), *learning.kept.exporter.get_finished_spans()]
    assert not any(word in span.to_json() for span in everything for word in (SECRET, "refund", "ann"))
    learning.store.close()


def test_a_labelled_event_is_a_trace_of_its_own(serving: Serving, tmp_path: Path) -> None:
    headers = {"traceparent": THEIRS}
    assert serving.post("/labels", {"input": SECRET, "label": "refund"}, headers=headers).status_code == 202
    serving.appender.close()
    learning = Learning(serving, tmp_path / "store.db")
    learning.take()
    learning.tracks.in_force("v0.2.0", 5, at=2_020.0)
    assert f"{learning.kept.one('learn').context.trace_id:032x}" == THEIRS.split("-")[1]
    learning.store.close()


def test_what_trains_nothing_says_what_became_of_it_and_what_waits_is_kept(serving: Serving, tmp_path: Path) -> None:
    prediction = ask(serving)
    assert serving.post("/feedback", {"prediction_id": prediction, "kind": "accept"}).status_code == 202
    correct(serving, ask(serving, "another"), label="novelty")
    serving.appender.close()
    learning = Learning(serving, tmp_path / "store.db")
    learning.take()
    learning.tracks.in_force("v0.2.0", 9, at=2_020.0)
    assert learning.kept.one("pass over").attributes["stream_ft.became"] == "not_trained"
    assert learning.kept.spans("learn") == []
    learning.store.allow_label("novelty")
    learning.tracks.in_force("v0.3.0", 9, at=2_030.0)
    assert learning.kept.one("learn").attributes["stream_ft.version"] == "v0.3.0"
    learning.store.close()


def test_what_is_followed_is_bounded(serving: Serving, tmp_path: Path) -> None:
    events = [{"input": f"text number {n} of many", "label": "refund"} for n in range(WAITING + 20)]
    assert serving.post("/labels", events).status_code == 202
    serving.appender.close()
    learning = Learning(serving, tmp_path / "store.db")
    learning.take()
    assert len(learning.kept.spans("take")) == WAITING + 20
    learning.tracks.in_force("v0.2.0", 10_000, at=2_020.0)
    ended = len(learning.kept.spans("learn")) + len(learning.kept.spans("pass over"))
    assert 0 < ended <= WAITING
    learning.store.close()


def test_of_a_tenth_that_is_kept_all_are_followed_to_a_version_that_is_there() -> None:
    learner = Kept("learn", share=0.1)
    tracks = Tracks(
        learner.traces,
        receive=lambda record, now: received(record, now=now),
        fates=lambda said: [Fate(what="trains", seq=record.offset) for record, _ in said],
    )
    many = [f"00-{n:032x}-{n:016x}-{'01' if n % 10 == 0 else '00'}" for n in range(1, 8 * WAITING + 1)]
    tracks.taken([statement(n, context) for n, context in enumerate(many, 1)], start=2_000.0, end=2_000.5)
    tracks.in_force("v0.2.0", 10_000, at=2_020.0)
    takes, learns, promotion = learner.spans("take"), learner.spans("learn"), learner.one("in force")
    assert len(takes) == len(learns) == promotion.attributes["stream_ft.statements"] == len(many) // 10
    assert {span.parent.span_id for span in learns} == {span.context.span_id for span in takes}
    assert {link.context.span_id for span in learns for link in span.links} == {promotion.context.span_id}
    assert promotion.parent.span_id == takes[0].context.span_id
    learner.traces.close()


def test_a_correction_that_is_read_before_its_prediction_links_to_it(
    serving: Serving, kept: Kept, tmp_path: Path
) -> None:
    correct(serving, ask(serving))
    correct(serving, ask(serving, "another", traceparent=UNSAMPLED))
    serving.appender.close()
    learning = Learning(serving, tmp_path / "store.db")
    learning.take("feedback")
    learning.take("predictions")
    learning.tracks.in_force("v0.2.0", 9, at=2_020.0)
    predict, feedback, promotion = kept.one("predict"), kept.spans("feedback"), learning.kept.one("in force")
    takes, learns = learning.kept.spans("take"), learning.kept.spans("learn")
    assert [span.parent.span_id for span in takes] == [span.context.span_id for span in feedback]
    assert [[link.context.span_id for link in span.links] for span in learns] == [
        [promotion.context.span_id, predict.context.span_id],
        [promotion.context.span_id],  # nobody keeps the other prediction's span
    ]
    learning.store.close()


def test_records_without_a_trace_are_passed_over(tmp_path: Path) -> None:
    with Serving(tmp_path / "serve") as serving:
        serving.genesis("yes")
        correct(serving, ask(serving))
        serving.appender.close()
        learning = Learning(serving, tmp_path / "store.db")
        learning.take()
        learning.tracks.in_force("v0.2.0", 9, at=2_020.0)
        assert learning.kept.exporter.get_finished_spans() == ()
        learning.store.close()
