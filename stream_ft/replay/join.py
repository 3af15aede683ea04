"""What several statements about one answer amount to. Pure: no order of arrival changes the result.

A **claim** is what one prediction's feedback, or one labelled event, says of one text. A prediction has one claim, the
greatest by (trust, event time, id) of all feedback that names it, so a correction of a correction is a revision. Of all
claims about the same normalised text, the greatest says what the label is.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from stream_ft.events import (
    TRUST,
    Correction,
    Feedback,
    LabelCorrection,
    LabelledEvent,
    Prediction,
    TextCorrection,
)
from stream_ft.ports import Record
from stream_ft.replay.identity import place_of, place_text

Rank = tuple[int, float, str]


class Claim(Struct, frozen=True, kw_only=True):
    """One statement about one text. Without a correction it says only that the answer was wrong."""

    id: int = 0
    """Row of the store; 0 before it has one."""
    key: str
    digest: bytes
    input: str
    correction: Correction | None
    source: str
    trust: int
    time: float
    tie: str
    appended_at: float
    predicted: str | None = None
    version: str = ""
    covers: bool = False
    quarantined: bool = False
    dropped: str = ""
    """Why its example was evicted; empty if it was not."""
    dropped_by: int | None = None
    """The claim that contradicted it."""

    @property
    def rank(self) -> Rank:
        """By what claims are compared: trust, event time, id."""
        return (self.trust, self.time, self.tie)


def tie_of(event: Feedback | LabelledEvent, record: Record) -> str:
    """What decides between statements of the same trust and time: the event's id, else its place."""
    return event.id if event.id is not None else place_text(*place_of(record))


def time_of(event: Prediction | Feedback | LabelledEvent, record: Record) -> float:
    """Event time, never after the append time."""
    return record.appended_at if event.time is None else min(event.time, record.appended_at)


def trust_of(event: Feedback | LabelledEvent) -> int:
    """Trust of a statement; what comes from a model has none and never trains."""
    return TRUST["model"] if event.source == "model" else TRUST[event.origin]


def value_of(correction: Correction) -> str:
    """A correction in the form in which an answer is given: what a prediction's output is compared with."""
    if isinstance(correction, LabelCorrection):
        return correction.label
    if isinstance(correction, TextCorrection):
        return correction.text
    return f"{correction.start}:{correction.end}"


def judged(event: Feedback, output: str) -> bool | None:
    """Was the answer right, by this feedback? ``None`` if it does not say (a rating, or a model's own words)."""
    if trust_of(event) == 0 or event.kind == "rating":
        return None
    if event.correction is not None:
        return value_of(event.correction) == output
    return event.kind == "accept"


def rated(event: Feedback) -> float | None:
    """The number that somebody gave to an answer, if that is what the feedback is; a model's own does not count."""
    return event.rating if event.kind == "rating" and trust_of(event) > 0 else None


def pack(correction: Correction | None) -> bytes | None:
    """A correction as the store keeps it."""
    return None if correction is None else msgspec.json.encode(correction)


def unpack(data: bytes | None) -> Correction | None:
    """Undo of :func:`pack`."""
    return None if data is None else msgspec.json.decode(data, type=Correction)
