"""Bytes to a typed event, or to the reason why not. Pure: never raises, whatever the bytes.

Accepted are plain JSON objects and CloudEvents 1.0, in binary and in structured mode: see
:mod:`stream_ft.ingest.cloudevents`. What the envelope says (id, source, time, type) fills what the event leaves out.

Shorthands: ``{"prediction_id": ..., "label": "x"}`` is feedback that corrects, ``{"input": ..., "label": "x"}`` a
labelled event.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import msgspec
import numpy as np

from stream_ft.events import (
    MAX_TEXT,
    SCHEMA_VERSION,
    Correction,
    Event,
    Feedback,
    LabelCorrection,
    LabelledEvent,
    Prediction,
    Reject,
    SpanCorrection,
    TextCorrection,
)
from stream_ft.ingest import cloudevents
from stream_ft.ingest.texts import blank, half_pair
from stream_ft.ports import Headers, Record
from stream_ft.topics import kind_of

MAX_BYTES = 1_000_000
"""Longest record that is decoded at all. The longest text, escaped, with an embedding, is below half of it."""
MAX_DIM = 16_384
"""Widest embedding accepted."""

_TYPES: dict[str, type[Event]] = {"prediction": Prediction, "feedback": Feedback, "labelled": LabelledEvent}
_ONLY = {"predictions": "prediction", "feedback": "feedback", "labels": "labelled"}
_OURS = frozenset({"control", "heads", "acks", "dlq"})
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_SHORT_TEXTS = ("id", "prediction_id", "source", "model", "version", "base", "output")


class _Refused(Exception):
    """Carries a Reject out of the helpers; never leaves this module."""

    def __init__(self, reason: str, detail: str, stage: Literal["decode", "validate"] = "validate") -> None:
        super().__init__(reason)
        self.reject = Reject(stage=stage, reason=reason, detail=detail)


def parse(record: Record, *, now: float) -> Event | Reject:
    """The event in a record.

    The result's ``time`` is always set: the event's own, or the append time where that is missing, negative or in
    the future. Whether it is too old is for the store to say.

    Args:
        record: as it lies on the log; its topic decides which types are legal.
        now: seconds since the epoch; stands in for the append time of a record that has none.
    """
    try:
        return _parse(record, record.appended_at if record.appended_at > 0 else now)
    except _Refused as refused:
        return refused.reject
    except cloudevents.EnvelopeError as error:
        return Reject(stage="decode", reason=error.reason, detail=error.detail)


def _parse(record: Record, appended_at: float) -> Event:
    topic_kind = kind_of(record.topic)
    if topic_kind in _OURS:
        raise _Refused("not_allowed_here", f"Events are not taken from the {topic_kind} topic.")
    body, ce = _opened(record.value, record.headers)
    kind = _kind(body, ce, topic_kind)
    _check_schema_version(body)
    fields = {name: value for name, value in body.items() if name != "type"}
    for name, value in ce.items():
        if name != "type" and fields.get(name) is None:
            fields[name] = value
    _expand(fields, kind)
    if kind != "prediction":
        _settle_origin(fields, kind, trusted=topic_kind in ("labels", "events"))
    given = fields.get("time")
    if kind == "prediction" and given is None:
        fields["time"] = appended_at
    event = _convert(fields, _TYPES[kind])
    return _check(event, appended_at)


def _opened(value: bytes, headers: Headers) -> tuple[dict[str, Any], dict[str, Any]]:
    """The event, and what its envelope says of it."""
    media = cloudevents.media_type(headers)
    if media.startswith(cloudevents.BATCHED):
        raise _Refused("cloudevents", "A batch of CloudEvents is not read: one record is one event.", "decode")
    body = _decode(value)
    if not cloudevents.is_structured(body, media):
        return body, cloudevents.binary(headers)
    said, data = cloudevents.structured(body)
    if isinstance(data, bytes):
        data = _decode(data)
    if not isinstance(data, dict):
        raise _Refused("not_an_object", "The data of a CloudEvent is a JSON object.", "decode")
    return data, said


def _decode(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_BYTES:
        raise _Refused("too_long", f"The record has {len(value)} bytes; at most {MAX_BYTES} are read.", "decode")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise _Refused("invalid_utf8", f"Byte {error.start} is not UTF-8.", "decode") from None
    try:
        body = msgspec.json.decode(value)
    except RecursionError:
        raise _Refused("invalid_json", "The JSON is nested too deeply.", "decode") from None
    except msgspec.MsgspecError as error:
        detail = "It has half of a surrogate pair, which is no character." if half_pair(value) else _plain(str(error))
        raise _Refused("invalid_json", detail, "decode") from None
    if not isinstance(body, dict):
        raise _Refused("not_an_object", "An event is a JSON object.", "decode")
    return body


def _kind(body: dict[str, Any], ce: dict[str, Any], topic_kind: str) -> str:
    said = ce.get("type")
    # A publisher may name its types as it likes; what we do not know leaves it to the topic and the fields.
    kind = body.get("type", said if said in _TYPES else None)
    only = _ONLY.get(topic_kind)
    if kind is None:
        kind = only or _guess(body)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _Refused("unknown_type", "type is none of prediction, feedback, labelled.")
    if only is not None and kind != only:
        raise _Refused("not_allowed_here", f"The {topic_kind} topic takes events of type {only} only, not {kind}.")
    return kind


def _guess(body: dict[str, Any]) -> str | None:
    if "prediction_id" in body:
        return "feedback"
    if "input" in body and ("label" in body or "correction" in body):
        return "labelled"
    return None


def _check_schema_version(body: dict[str, Any]) -> None:
    version = body.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int:
        raise _Refused("wrong_type", "schema_version must be an integer.")
    if version != SCHEMA_VERSION:
        raise _Refused("unknown_schema_version", f"Only schema version {SCHEMA_VERSION} is known.")


def _expand(fields: dict[str, Any], kind: str) -> None:
    """Write the shorthands out."""
    if kind == "prediction":
        return
    if (label := fields.pop("label", None)) is not None:
        if fields.get("correction") is not None:
            raise _Refused("conflict", "Give label or correction, not both.")
        fields["correction"] = {"kind": "label", "label": label}
    if kind != "feedback":
        return
    corrected = fields.get("correction") is not None
    if fields.get("kind") is None and (corrected or fields.get("rating") is not None):
        fields["kind"] = "correct" if corrected else "rating"
    elif fields.get("kind") == "reject" and corrected:
        # A rejection that says what is right teaches what is right.
        fields["kind"] = "correct"


def _settle_origin(fields: dict[str, Any], kind: str, *, trusted: bool) -> None:
    if fields.get("origin") is None:
        fields["origin"] = "label_topic" if kind == "labelled" and trusted else "user"
    elif fields["origin"] == "label_topic" and (kind == "feedback" or not trusted):
        fields["origin"] = "user"
    if fields.get("source") is None:
        fields.pop("source", None)
    elif fields["source"] == "model":
        fields["origin"] = "model"


def _convert(fields: dict[str, Any], kind: type[Event]) -> Event:
    try:
        return msgspec.convert(fields, kind, strict=True)
    except msgspec.ValidationError as error:
        detail = str(error)
    except RecursionError:
        raise _Refused("invalid_json", "The JSON is nested too deeply.", "decode") from None
    raise _Refused(_reason(detail), _plain(detail))


def _reason(detail: str) -> str:
    """The slug for a message of msgspec."""
    if "`$.embedding`" in detail:
        return "bad_embedding"
    if "`$.time`" in detail:
        return "bad_time" if "out of range" in detail else "wrong_type"
    if "missing required field" in detail:
        return "missing_field"
    if "length <=" in detail:
        return "too_long"
    if "length >=" in detail:
        return "empty_text" if "`$.input`" in detail or "`$.correction" in detail else "invalid_field"
    if detail.startswith("Expected `") and ", got `" in detail:
        return "wrong_type"
    return "invalid_field"


def _plain(detail: str) -> str:
    """One short sentence without values of the event: a detail may reach a log."""
    return _QUOTED.sub("...", detail)[:300].rstrip(".") + "."


def _check(event: Event, appended_at: float) -> Event:
    """What types cannot say."""
    for name in _SHORT_TEXTS:
        value = getattr(event, name, None)
        if isinstance(value, str) and "\x00" in value:
            raise _Refused("invalid_field", f"{name} has a NUL character.")
    if not isinstance(event, Feedback) and blank(event.input):
        raise _Refused("empty_text", "input has no visible character.")
    if isinstance(event, Prediction):
        _check_embedding(event.embedding)
    else:
        if isinstance(event, Feedback):
            _check_feedback(event)
        if event.correction is not None:
            _check_correction(event.correction, event.input if isinstance(event, LabelledEvent) else None)
    time = event.time
    if time is None or not math.isfinite(time) or not 0 <= time <= appended_at:
        return msgspec.structs.replace(event, time=appended_at)
    return event


def _check_feedback(event: Feedback) -> None:
    if event.kind == "correct" and event.correction is None:
        raise _Refused("missing_field", "Feedback of kind correct needs a correction.")
    if event.kind == "rating" and event.rating is None:
        raise _Refused("missing_field", "Feedback of kind rating needs a rating.")
    if event.kind in ("accept", "rating") and event.correction is not None:
        raise _Refused("conflict", f"Feedback of kind {event.kind} cannot carry a correction.")


def _check_correction(correction: Correction, text: str | None) -> None:
    if isinstance(correction, LabelCorrection):
        if blank(correction.label):
            raise _Refused("empty_text", "The label has no visible character.")
        if "\x00" in correction.label:
            raise _Refused("invalid_field", "The label has a NUL character.")
    elif isinstance(correction, TextCorrection):
        if blank(correction.text):
            raise _Refused("empty_text", "The corrected text has no visible character.")
    elif (reject := check_span(correction, text)) is not None:
        raise _Refused(reject.reason, reject.detail)


def check_span(span: SpanCorrection, text: str | None) -> Reject | None:
    """Why a span cannot be one of ``text``; ``None`` if it can. Without a text only its order is checked."""
    limit = MAX_TEXT if text is None else len(text)
    if span.start < span.end <= limit:
        return None
    return Reject(stage="validate", reason="invalid_field", detail="The span does not lie in the input.")


def _check_embedding(embedding: bytes | None) -> None:
    if embedding is None:
        return
    if not embedding or len(embedding) % 2 or len(embedding) > 2 * MAX_DIM:
        raise _Refused("bad_embedding", f"embedding has {len(embedding)} bytes, which is no vector of fp16.")
    if not np.isfinite(np.frombuffer(embedding, dtype="<f2")).all():
        raise _Refused("bad_embedding", "embedding holds a value that is not finite.")
