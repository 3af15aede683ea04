"""Fault 8: bytes that are no event go to the dead letters as they came, and hold nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from learning_parts import Learning, labelled, names, text

from stream_ft.events import MAX_TEXT
from stream_ft.metrics.labels import DEAD_LETTERS

BAD = {
    b"": "invalid_json",
    b"\xff\xfe{}": "invalid_utf8",
    b'{"input": "a", "label": "b"': "invalid_json",
    b'{"input": "a", "label": NaN}': "invalid_json",
    b'{"input": "a", "label": "b", "time": ' + b"9" * 5_000 + b"}": None,
    b"[" * 100_000: None,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000: None,
    b'{"input": "a", "label": "b", "schema_version": 99}': "unknown_schema_version",
    b'{"input": "' + b"x" * (MAX_TEXT + 1) + b'", "label": "b"}': "too_long",
    b'{"input": "' + b"y" * 1_000_000 + b'", "label": "b"}': "too_long",
    b'{"input": "   ", "label": "b"}': "empty_text",
    b"null": None,
}


@pytest.mark.parametrize("kind", ["labels", "feedback", "predictions"])
def test_fault_08_what_is_no_event_is_a_dead_letter_with_its_bytes_and_a_reason(
    learner: Callable[..., Learning], kind: str
) -> None:
    learning = learner(files=True)
    learning.publish(kind, *BAD)
    learning.publish("labels", labelled(0, "a"))
    before = time.process_time()
    learning.step(2)
    assert time.process_time() - before < 2.0
    letters = learning.log.read(names("dlq"), 0, 0, 100)
    assert [record.value for record in letters] == list(BAD)
    for record, wanted in zip(letters, BAD.values(), strict=True):
        headers = dict(record.headers)
        reason = headers["__connect.errors.exception.class.name"].decode()
        assert reason in DEAD_LETTERS
        assert headers["__connect.errors.topic"].decode() == names(kind)
        assert headers["__connect.errors.exception.message"].decode().endswith(".")
        if kind == "labels":
            assert wanted in (None, reason)
    assert learning.applied() == [text(0)], "what follows is read"
    assert learning.store.offsets()[names(kind), 0] == len(BAD) + (kind == "labels")
    assert learning.loop.ready() == (True, "")
