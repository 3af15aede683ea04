"""What users and back offices say: ``POST /feedback`` and ``POST /labels``.

An event is checked by the same function that ingest uses, and acknowledged (202) only once it is durable in the log. A
list is taken as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft import tracing
from stream_ft.events import Event, Feedback, LabelledEvent, Reject
from stream_ft.metrics import ServeMetrics
from stream_ft.ports import Clock, Outgoing, Record
from stream_ft.serve import body
from stream_ft.serve.body import RefusedError
from stream_ft.serve.predictions_id import PredictionIds
from stream_ft.serve.replies import AcceptedReply, reply
from stream_ft.topics import topic
from stream_ft.tracing import Traces

MOST_EVENTS = 1_000
"""Events in one request."""


class Intake:
    """The routes that take events in.

    Args:
        model: name in topics.
        append: appends durably and returns the offsets.
        parse: ingest's check of one record's bytes.
        ids: recognises predictions that were issued.
        traces: where spans go.
        max_body_bytes, timeout_s: limits of the body.
    """

    def __init__(
        self,
        *,
        model: str,
        append: Callable[[Sequence[Outgoing]], Awaitable[list[int]]],
        parse: Callable[[Record, float], Event | Reject],
        ids: PredictionIds,
        metrics: ServeMetrics,
        traces: Traces,
        clock: Clock,
        max_body_bytes: int,
        timeout_s: float,
    ) -> None:
        self._append = append
        self._parse = parse
        self._ids = ids
        self._metrics = metrics
        self._traces = traces
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._feedback_topic = topic(model, "feedback")
        self._labels_topic = topic(model, "labels")

    def routes(self) -> list[Route]:
        """What to mount."""
        return [
            Route("/feedback", self.feedback, methods=["POST"]),
            Route("/labels", self.labels, methods=["POST"]),
        ]

    async def feedback(self, request: Request) -> Response:
        """One event or a list: ``{"prediction_id", "label"}``, or ``{"prediction_id", "kind", ...}``."""
        items = await self._items(request)
        messages = []
        for place, item in enumerate(items):
            event, value = self._check(self._feedback_topic, place, item)
            if not isinstance(event, Feedback):
                raise RefusedError(422, f"Event {place} is not feedback.")
            if not self._ids.issued(event.prediction_id):
                raise RefusedError(
                    404,
                    f"Event {place} names a prediction that this server has not issued.",
                    "Use the id that came with the prediction.",
                )
            messages.append(Outgoing(topic=self._feedback_topic, key=event.prediction_id.encode(), value=value))
        response = await self._accept(request, "feedback", messages)
        self._metrics.feedback.inc(len(messages))
        return response

    async def labels(self, request: Request) -> Response:
        """One event or a list: ``{"input", "label"}``, or a whole LabelledEvent."""
        items = await self._items(request)
        messages = []
        for place, item in enumerate(items):
            event, value = self._check(self._labels_topic, place, item)
            if not isinstance(event, LabelledEvent):
                raise RefusedError(422, f"Event {place} is not a labelled event.")
            messages.append(
                Outgoing(topic=self._labels_topic, key=None if event.id is None else event.id.encode(), value=value)
            )
        response = await self._accept(request, "labels", messages)
        self._metrics.labels.inc(len(messages))
        return response

    async def _accept(self, request: Request, name: str, messages: list[Outgoing]) -> Response:
        now = self._clock.now()
        # Before it is durable, for the records carry it: what failed is a span that nobody continues.
        trace = self._traces.span(
            name,
            start=now,
            end=now,
            parent=tracing.checked(request.headers.get(tracing.HEADER)),
            attributes={"events": len(messages)},
        )
        if trace:
            messages = [msgspec.structs.replace(message, headers=tracing.headers(trace)) for message in messages]
        offsets = await self._append(messages)
        return reply(AcceptedReply(accepted=len(offsets), offsets=offsets), 202)

    async def _items(self, request: Request) -> list[Any]:
        data = await body.read(request, limit=self._max_body_bytes, timeout_s=self._timeout_s)
        value: Any = body.decode(data, Any)
        items = value if isinstance(value, list) else [value]
        if not items:
            raise RefusedError(422, "The list is empty.")
        if len(items) > MOST_EVENTS:
            raise RefusedError(422, f"There are {len(items)} events; one request may have {MOST_EVENTS}.")
        return items

    def _check(self, name: str, place: int, item: Any) -> tuple[Event, bytes]:
        """The event and the bytes to append: the client's own fields, so that what is stored is what was checked."""
        try:
            value = msgspec.json.encode(item)
        except RecursionError as error:
            raise RefusedError(400, f"Event {place} is nested too deeply.") from error
        now = self._clock.now()
        event = self._parse(Record(topic=name, partition=0, offset=0, value=value, appended_at=now), now)
        if isinstance(event, Reject):
            status = 400 if event.stage == "decode" else 422
            raise RefusedError(status, f"Event {place} was refused ({event.reason}): {event.detail}")
        return event, value
