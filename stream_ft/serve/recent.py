"""What was said last: ``GET /feedback``, read from the log, with what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft.errors import LogTruncatedError
from stream_ft.events import Event, Feedback, LabelCorrection, LabelledEvent, Reject, TextCorrection
from stream_ft.ports import EventLog, Record
from stream_ft.serve.body import RefusedError
from stream_ft.serve.replies import reply
from stream_ft.topics import topic

DEFAULT_LIMIT = 20
MOST = 200
KINDS = ("feedback", "labels")


class Became(Protocol):
    """What became of a statement: :class:`stream_ft.replay.fate.Fate`."""

    @property
    def what(self) -> str:
        """In a word."""
        ...

    @property
    def seq(self) -> int | None:
        """Store sequence number of its example."""
        ...

    @property
    def input(self) -> str | None:
        """The text that it is about."""
        ...

    @property
    def predicted(self) -> str | None:
        """What was answered."""
        ...

    @property
    def version(self) -> str:
        """Who answered it."""
        ...


Receive = Callable[[Record, float], tuple[Record, Event | Reject]]
Fates = Callable[[Sequence[tuple[Record, Feedback | LabelledEvent]]], Sequence[Became]]


class SaidReply(Struct, frozen=True, kw_only=True):
    """One statement, and what became of it."""

    topic: Annotated[str, Meta(description="feedback or labels.")]
    partition: int
    offset: int
    time: Annotated[float, Meta(description="When it was appended, seconds since the epoch.")]
    became: Annotated[
        str, Meta(description="trains, held_out, unread, waits_for_label ..., dead_letter; unknown without a store.")
    ]
    id: Annotated[str, Meta(description="Its own, where it has one.")] | UnsetType = UNSET
    prediction_id: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    said: Annotated[str, Meta(description="The right answer, by this statement.")] | UnsetType = UNSET
    rating: float | UnsetType = UNSET
    source: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    predicted: Annotated[str, Meta(description="What was answered.")] | UnsetType = UNSET
    version: Annotated[str, Meta(description="The version that answered.")] | UnsetType = UNSET
    seq: Annotated[int, Meta(description="A version with examples_upto from here on has learned it.")] | UnsetType = (
        UNSET
    )
    refused: Annotated[str, Meta(description="Why it is a dead letter.")] | UnsetType = UNSET


class FeedbackReply(Struct, frozen=True, kw_only=True):
    """What was said last, newest first."""

    statements: list[SaidReply]


class Recent:
    """The route of what was said last.

    Args:
        model: name in topics.
        log: is read from the end.
        receive: the record and its event, as ingest takes them: checked, and personal data replaced where that is on.
        fates: what became of statements; called off the event loop.
    """

    def __init__(self, *, model: str, log: EventLog, receive: Receive, fates: Fates) -> None:
        self._topics = {topic(model, kind): kind for kind in KINDS}
        self._log = log
        self._receive = receive
        self._fates = fates

    def routes(self) -> list[Route]:
        """What to mount."""
        return [Route("/feedback", self.feedback, methods=["GET"])]

    async def feedback(self, request: Request) -> Response:
        """The newest statements of both topics; by ``?id=``, those on one prediction or of one event among them."""
        text = request.query_params.get("limit", str(DEFAULT_LIMIT))
        if not (text.isascii() and text.isdigit()) or len(text) > 3 or not 1 <= int(text) <= MOST:
            raise RefusedError(400, f"limit must be a number from 1 to {MOST}.")
        wanted = request.query_params.get("id", "")
        return reply(FeedbackReply(statements=await asyncio.to_thread(self._newest, int(text), wanted)))

    def _newest(self, limit: int, wanted: str) -> list[SaidReply]:
        records = [
            record
            for name in self._topics
            for partition in self._log.partitions(name)
            for record in self._tail(name, partition, MOST if wanted else limit)
        ]
        records.sort(key=lambda record: (record.appended_at, record.offset), reverse=True)
        read = [self._receive(record, record.appended_at) for record in records]
        if wanted:
            read = [(record, event) for record, event in read if wanted in _ids(event)]
        read = read[:limit]
        said = [(record, event) for record, event in read if isinstance(event, Feedback | LabelledEvent)]
        fates = iter(self._fates(said))
        return [
            self._told(record, event, next(fates))
            if isinstance(event, Feedback | LabelledEvent)
            else self._refused(record, event)
            for record, event in read
        ]

    def _tail(self, name: str, partition: int, limit: int) -> list[Record]:
        for _ in range(2):  # retention may remove the beginning between the two questions
            first, after = self._log.bounds(name, partition)
            try:
                return self._log.read(name, partition, max(first, after - limit), limit) if after > first else []
            except LogTruncatedError:
                continue
        return []

    def _told(self, record: Record, event: Feedback | LabelledEvent, fate: Became) -> SaidReply:
        feedback = event if isinstance(event, Feedback) else None
        return SaidReply(
            topic=self._topics[record.topic],
            partition=record.partition,
            offset=record.offset,
            time=record.appended_at,
            became=fate.what,
            id=_or_unset(event.id),
            prediction_id=UNSET if feedback is None else feedback.prediction_id,
            kind="labelled" if feedback is None else feedback.kind,
            said=_said(event),
            rating=UNSET if feedback is None or feedback.rating is None else feedback.rating,
            source=event.source,
            input=_or_unset(fate.input),
            predicted=_or_unset(fate.predicted),
            version=fate.version or UNSET,
            seq=UNSET if fate.seq is None else fate.seq,
        )

    def _refused(self, record: Record, event: Event | Reject) -> SaidReply:
        why = f"{event.reason}: {event.detail}" if isinstance(event, Reject) else "It is on the wrong topic."
        return SaidReply(
            topic=self._topics[record.topic],
            partition=record.partition,
            offset=record.offset,
            time=record.appended_at,
            became="dead_letter",
            refused=why,
        )


def _ids(event: Event | Reject) -> tuple[str | None, ...]:
    if isinstance(event, Feedback):
        return (event.id, event.prediction_id)
    return (event.id,) if isinstance(event, LabelledEvent) else ()


def _or_unset(value: str | None) -> str | UnsetType:
    return UNSET if value is None else value


def _said(event: Feedback | LabelledEvent) -> str | UnsetType:
    correction = event.correction
    if correction is None:
        return UNSET
    if isinstance(correction, LabelCorrection):
        return correction.label
    if isinstance(correction, TextCorrection):
        return correction.text
    return f"characters {correction.start} to {correction.end}"
