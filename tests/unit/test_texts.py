"""One rule for texts and labels: what it lets through, ingest takes, and what it refuses, ingest refuses."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_ft.events import MAX_TEXT, LabelName, Reject
from stream_ft.ingest.texts import MAX_LABEL, half_pair, label_reject, text_reject
from stream_ft.ingest.validate import parse
from stream_ft.ports import Record
from stream_ft.serve.body import RefusedError, check_texts

ODD = [
    "",
    " ",
    "\t\n",
    "\u200b",
    "\u2060\u200d",
    "\x00",
    "\x07",
    "\ue000",
    "\ud800",
    "a\udc00",
    "a\x00",
    "a\u200b",
    "字",
]
ANY = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=20))


def ingested(text: str, label: str) -> bool:
    """Whether ingest takes this labelled text."""
    value = json.dumps({"input": text, "label": label}).encode()
    return not isinstance(
        parse(Record(topic="stream_ft.m.labels", partition=0, offset=0, value=value), now=1.0), Reject
    )


@given(text=ANY, label=ANY)
@example(text="a" * MAX_TEXT, label="b" * MAX_LABEL)
@example(text="a" * (MAX_TEXT + 1), label="b")
@example(text="a", label="b" * (MAX_LABEL + 1))
def test_the_rule_is_the_one_of_ingest(text: str, label: str) -> None:
    good = text_reject(text) is None and label_reject(label) is None
    assert good == ingested(text, label)


def answered(text: str) -> bool:
    """Whether the server answers this text."""
    try:
        check_texts([text], most=1)
    except RefusedError as error:
        return error.status != 422
    return True


@given(text=ANY)
def test_the_server_answers_only_what_ingest_takes(text: str) -> None:
    assert answered(text) == ingested(text, "label")


def test_the_longest_label_is_that_of_the_event() -> None:
    assert msgspec.convert("b" * MAX_LABEL, LabelName) == "b" * MAX_LABEL
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("b" * (MAX_LABEL + 1), LabelName)


@pytest.mark.parametrize(
    ("data", "half"),
    [
        (b'{"a": "\\ud800"}', True),
        (b'{"a": ["x\\udc00y"]}', True),
        (b'{"\\ud800\\ud800": 1}', True),
        (b'{"a": "\\ud83d\\ude00"}', False),
        (b'{"a": "\\\\ud800"}', False),
        (b'{"a": "cut', False),
        (b"[" * 100_000, False),
        (b"\xff", False),
        (b"9" * 10_000, False),
    ],
)
def test_half_a_surrogate_pair_is_told_from_other_damage(data: bytes, half: bool) -> None:
    assert half_pair(data) == half


def test_a_dead_letter_says_so_too() -> None:
    value = b'{"input": "\\ud800", "label": "x"}'
    found = parse(Record(topic="stream_ft.m.labels", partition=0, offset=0, value=value), now=1.0)
    assert isinstance(found, Reject)
    assert "surrogate" in found.detail
