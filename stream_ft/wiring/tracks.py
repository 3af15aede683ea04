"""The learner's part of a trace: what was said of an answer is taken in, and some version learns it.

A correction's spans go into the trace of the prediction that it names: ``predict`` (serving), ``take`` (here) and
``learn``, which ends when a version that covers it comes into force. ``in force`` is in the trace of the first of those
that it learned, and the others link to it. A correction that is read before its prediction has begun a trace of its own
by then, and links to the prediction. What is needed for that is in memory, bounded, and not kept over a restart: a
trace is a sample, the store is the record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_ft import tracing
from stream_ft.events import Event, Feedback, LabelledEvent, Prediction, Reject
from stream_ft.ports import Record
from stream_ft.replay.fate import Fate
from stream_ft.tracing import Traces

PREDICTIONS = 10_000
"""Predictions whose traces are remembered."""
WAITING = 256
"""Statements of traces that are kept, followed until a version has learned them."""
STILL = frozenset({"unread", "waits_for_prediction", "waits_for_label"})
"""Fates that something may yet become of."""

Said = tuple[Record, Feedback | LabelledEvent]


@dataclass(frozen=True, kw_only=True)
class _Followed:
    said: Said
    context: str
    since: float
    late: str
    """The prediction that it names, if that was not there yet; else empty."""


class Tracks:
    """Follows traced statements to the version that learns them.

    Args:
        traces: where spans go.
        receive: the record and its event, as the learner takes them.
        fates: what became of statements, by the store's file.
    """

    def __init__(
        self,
        traces: Traces,
        *,
        receive: Callable[[Record, float], tuple[Record, Event | Reject]],
        fates: Callable[[Sequence[Said]], Sequence[Fate]],
    ) -> None:
        self._traces = traces
        self._receive = receive
        self._fates = fates
        self._predictions: OrderedDict[str, str] = OrderedDict()
        self._followed: list[_Followed] = []

    def taken(self, records: Sequence[Record], *, start: float, end: float) -> None:
        """The store has taken these in, between two times."""
        for record in records:
            if not (told := tracing.of(record.headers)):
                continue
            record, event = self._receive(record, end)
            if isinstance(event, Prediction):
                self._predictions[event.id] = told
                if len(self._predictions) > PREDICTIONS:
                    self._predictions.popitem(last=False)
            elif isinstance(event, Feedback | LabelledEvent):
                self._take((record, event), told, start, end)

    def in_force(self, version: str, examples_upto: int, *, at: float) -> None:
        """A version came into force that covers so many examples."""
        if not self._followed:
            return
        fates = self._fates([one.said for one in self._followed])
        learned, rest = [], []
        for one, fate in zip(self._followed, fates, strict=True):
            if fate.what == "trains" and fate.seq is not None and fate.seq <= examples_upto:
                learned.append((one, fate.seq))
            elif fate.what == "trains" or fate.what in STILL:
                rest.append(one)
            else:
                self._traces.span(
                    "pass over",
                    start=one.since,
                    end=at,
                    parent=one.context,
                    links=self._came_since(one),
                    attributes={"became": fate.what},
                )
        if learned:
            facts: dict[str, str | int | float | bool] = {
                "version": version,
                "examples_upto": examples_upto,
                "statements": len(learned),
            }
            first, *others = (one.context for one, _ in learned)
            promotion = self._traces.span("in force", start=at, end=at, parent=first, links=others, attributes=facts)
            for one, seq in learned:
                self._traces.span(
                    "learn",
                    start=one.since,
                    end=at,
                    parent=one.context,
                    links=[promotion, *self._came_since(one)],
                    attributes={"version": version, "example": seq},
                )
        self._followed = rest

    def _take(self, said: Said, told: str, start: float, end: float) -> None:
        record, event = said
        facts: dict[str, str | int | float | bool] = {"topic": record.topic, "offset": record.offset}
        parent, links, late = told, [], ""
        if isinstance(event, Feedback):
            facts |= {"prediction": event.prediction_id, "kind": event.kind}
            if (asked := self._predictions.get(event.prediction_id)) is not None:
                parent, links = asked, [told]
            else:
                late = event.prediction_id
        context = self._traces.span("take", start=start, end=end, parent=parent, links=links, attributes=facts)
        if tracing.sampled(context) and len(self._followed) < WAITING:
            self._followed.append(_Followed(said=said, context=context, since=end, late=late))

    def _came_since(self, one: _Followed) -> list[str]:
        """The prediction that was read after what was said of it."""
        asked = self._predictions.get(one.late)
        return [] if asked is None else [asked]
