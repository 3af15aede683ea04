"""A real ``stream-ft up`` sends its spans to a collector: one trace from an answer to the version that learned it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny
from house import WORDS, House, wait_for

service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="no opentelemetry-exporter-otlp-proto-http"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self, name: str) -> list[tuple[str, Any]]:
        """Service and span of all that have this name."""
        found = []
        for body in list(self.bodies):
            for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                facts = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(facts["service.name"], span) for span in scope.spans if span.name == name]
        return found

    def by_id(self, name: str) -> dict[bytes, tuple[str, Any]]:
        return {span.span_id: (of, span) for of, span in self.spans(name)}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.bodies.append(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not on the terminal of the tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attribute(span: Any, name: str) -> str:
    return str(next(one.value.string_value for one in span.attributes if one.key == f"stream_ft.{name}"))


def test_one_trace_leads_from_an_answer_to_the_version_that_learned_its_correction(tmp_path: Path) -> None:
    texts = [(sorted(WORDS)[i % 3], text) for i, (text, _) in enumerate(tiny.texts(24))]
    settings = {
        "MODEL__BASE": str(tiny.bert(tmp_path / "bert").path),
        "MODEL__MAX_TOKENS": "32",
        "TRACE__SHARE": "1.0",
        "REPLAY__CONTRADICTIONS": "1000",  # to a model that was never trained all texts are alike
    }
    with collecting() as collector, House(tmp_path, TRACE__ENDPOINT=collector.url, **settings) as house:
        house.start("up")
        house.ready()
        house.ready("learn")
        asked = {}
        for name, text in texts:
            answer: Any = house.predict(text)
            asked[answer["predictions"][0]["id"]] = name
        wait_for("the predictions in the store", house.caught_up)
        for prediction, name in asked.items():
            assert house._post("/feedback", {"prediction_id": prediction, "label": name}) is not None
        wait_for("the corrections in the store", house.caught_up)
        house.send(60)  # enough to judge a version by
        wait_for("a version that learned", lambda: collector.spans("learn"))
        assert house.stop("up") == 143
        sent = b"".join(collector.bodies)

    of, promotion = collector.spans("in force")[0]
    takes, predictions = collector.by_id("take"), collector.by_id("predict")
    learned = [span for _, span in collector.spans("learn") if promotion.span_id in {x.span_id for x in span.links}]
    first = takes[promotion.parent_span_id][1]
    asker, predict = predictions[first.parent_span_id]
    assert (of, asker) == ("stream_ft.learn", "stream_ft.serve")
    assert attribute(predict, "prediction") in asked
    assert attribute(first, "prediction") == attribute(predict, "prediction")
    learn = next(span for span in learned if span.parent_span_id == first.span_id)
    assert {span.trace_id for span in (predict, first, learn, promotion)} == {predict.trace_id}
    assert attribute(learn, "version") == attribute(promotion, "version") != attribute(predict, "version")
    # And so it is with each of the corrections that it learned, though it is in the trace of the first alone.
    corrections = [span for span in learned if takes[span.parent_span_id][1].parent_span_id in predictions]
    assert len(corrections) > 1
    for span in corrections:
        assert predictions[takes[span.parent_span_id][1].parent_span_id][1].trace_id == span.trace_id
    assert not [text for _, text in texts if text.encode() in sent]
