"""The nouns that travel: what is published, what is learned from, what is refused.

Everything is a frozen msgspec struct, decoded strictly. On the wire they are JSON objects; ``type`` names the struct.
Times are seconds since the epoch, UTC. An embedding is ``dim`` little-endian fp16 values (base64 in JSON), exactly
as the served head read it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION = 1
MAX_TEXT = 20_000
"""Longest text accepted in an event, in characters. A longer one is a dead letter, not a slow request."""

Identifier = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
LabelName = Annotated[str, Meta(min_length=1, max_length=200)]
Version = Annotated[int, Meta(ge=1)]


class LabelCorrection(Struct, frozen=True, kw_only=True, tag_field="kind", tag="label", forbid_unknown_fields=True):
    """The right answer is this label."""

    label: LabelName


class TextCorrection(Struct, frozen=True, kw_only=True, tag_field="kind", tag="text", forbid_unknown_fields=True):
    """The right answer is this text."""

    text: Text


class SpanCorrection(Struct, frozen=True, kw_only=True, tag_field="kind", tag="span", forbid_unknown_fields=True):
    """The right answer is characters ``[start, end)`` of the input."""

    start: Annotated[int, Meta(ge=0)]
    end: Annotated[int, Meta(ge=0)]


Correction = LabelCorrection | TextCorrection | SpanCorrection

Origin = Literal["label_topic", "user", "model"]
TRUST: dict[str, int] = {"label_topic": 2, "user": 1, "model": 0}
"""``label_topic`` > ``user`` > ``model``; what comes from a model never trains."""


class Prediction(Struct, frozen=True, kw_only=True, tag_field="type", tag="prediction"):
    """One answer that was given, as it was given."""

    id: Identifier
    time: float
    model: str
    version: str
    base: str
    """sha256 of the base that produced ``embedding``."""
    input: Text
    output: str
    """The predicted label (or text)."""
    score: float | None = None
    embedding: bytes | None = None
    latency_s: float = 0.0
    source: str = ""
    schema_version: Version = SCHEMA_VERSION


class Feedback(Struct, frozen=True, kw_only=True, tag_field="type", tag="feedback"):
    """What somebody says of a prediction that was issued. ``correction`` is required when ``kind`` is ``correct``."""

    id: Identifier | None = None
    prediction_id: Identifier
    kind: Literal["accept", "reject", "rating", "correct"]
    correction: Correction | None = None
    rating: Annotated[float, Meta(ge=-1e6, le=1e6)] | None = None
    source: Annotated[str, Meta(max_length=200)] = "user"
    origin: Literal["user", "model"] = "user"
    time: float | None = None
    schema_version: Version = SCHEMA_VERSION


class LabelledEvent(Struct, frozen=True, kw_only=True, tag_field="type", tag="labelled"):
    """An input with its right answer, from a back office or a label topic. Brings its own input."""

    id: Identifier | None = None
    input: Text
    correction: Correction
    source: Annotated[str, Meta(max_length=200)] = "labels"
    origin: Origin = "label_topic"
    time: float | None = None
    schema_version: Version = SCHEMA_VERSION


Event = Prediction | Feedback | LabelledEvent


class Reject(Struct, frozen=True, kw_only=True):
    """Why an event was not used. It goes to the dead letters with the original bytes."""

    stage: Literal["decode", "validate", "identity", "join", "store"]
    reason: str
    """A short slug, safe as a metric label: ``invalid_json``, ``unknown_schema_version`` ..."""
    detail: str
    """One sentence for a person."""


class Example(Struct, frozen=True, kw_only=True):
    """What is learned from: one per prediction or labelled event, revised in place when its label is."""

    seq: int
    """Store sequence number: grows with every new example *and* every revision."""
    id: int
    """Stable row id."""
    input: str
    correction: Correction
    source: str
    trust: int
    weight: float = 1.0
    time: float = 0.0
    """Event time, clamped to the append time."""
    accepted_at: float = 0.0
    """Append time of the event that gave the label: when the feedback was acknowledged."""
    holdout: bool = False
    embedding: bytes | None = None
    embedding_base: str = ""
    predicted: str | None = None
    predicted_version: str = ""
    covers: bool = False
    """True if the label arrived regardless of whether the prediction was right (label topic): fit for accuracy."""

    @property
    def label(self) -> str:
        """The label, or the text of a text correction: the key by which the sampler balances."""
        if isinstance(self.correction, LabelCorrection):
            return self.correction.label
        if isinstance(self.correction, TextCorrection):
            return self.correction.text
        return f"{self.correction.start}:{self.correction.end}"


def to_json(event: Struct) -> bytes:
    """Encode an event or message as one JSON object."""
    return msgspec.json.encode(event)
