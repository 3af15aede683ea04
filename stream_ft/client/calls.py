"""Calls without a network: what to send, and how to read what comes. Pure but for fresh event ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Struct

from stream_ft.client.errors import RefusedError
from stream_ft.client.results import Accepted, Answer, InForce, Status, Versions
from stream_ft.events import Correction, Feedback, LabelCorrection, LabelledEvent

T = TypeVar("T")
Kind = Literal["accept", "reject", "rating", "correct"]
CommandType = Literal["rollback", "pin", "unpin", "pause", "resume", "train_now", "label_add", "canary", "shadow"]

JSON = {b"content-type": b"application/json"}
KEY_HEADER = b"stream-ft-key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One call. Every try of it sends the same bytes, and may: each call of this client is safe to repeat.

    A prediction changes nothing; an event and a command carry an id, under which they count once.
    """

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[bytes], T]
    """The result in a body.

    Raises ``msgspec.MsgspecError`` or ``ValueError`` for what is none.
    """
    body: bytes | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    """Of the events, or of the command, in the body."""
    command: bool = False
    """True if 409 means that the control log refuses it."""


class _Row(Struct, frozen=True):
    id: str
    label: str
    score: float


class _Predictions(Struct, frozen=True):
    version: str
    predictions: list[_Row]


class _Taken(Struct, frozen=True):
    offsets: tuple[int, ...]


def predict(texts: str | Sequence[str], key: str | None = None) -> Call[list[Answer]]:
    """``POST /predict``.

    Raises:
        RefusedError: the key cannot be sent.
    """
    inputs = [texts] if isinstance(texts, str) else list(texts)

    def read(body: bytes) -> list[Answer]:
        found = msgspec.json.decode(body, type=_Predictions)
        if len(found.predictions) != len(inputs):
            raise ValueError(f"{len(found.predictions)} answers to {len(inputs)} texts")
        return [Answer(id=r.id, label=r.label, score=r.score, version=found.version) for r in found.predictions]

    headers = JSON | ({KEY_HEADER: _header(key)} if key else {})
    return Call(method="POST", path="/predict", body=_json({"inputs": inputs}), headers=headers, read=read)


def feedback(
    prediction_id: str,
    *,
    label: str | None,
    kind: Kind | None,
    correction: Correction | None,
    rating: float | None,
    source: str | None,
    origin: Literal["user", "model"] | None,
    time: float | None,
    id: str | None,
) -> Call[Accepted]:
    """``POST /feedback`` of one event. What is ``None`` is not sent, and the server's rules fill it in."""
    given = {
        "id": uuid4().hex if id is None else id,
        "prediction_id": prediction_id,
        "kind": kind,
        "label": label,
        "correction": correction,
        "rating": rating,
        "source": source,
        "origin": origin,
        "time": time,
    }
    return _events("feedback", [{name: value for name, value in given.items() if value is not None}])


def feedback_all(events: Iterable[Feedback]) -> Call[Accepted]:
    """``POST /feedback`` of a list."""
    return _events("feedback", [_named(event) for event in events])


def labels(examples: Iterable[tuple[str, str] | LabelledEvent], *, source: str | None) -> Call[Accepted]:
    """``POST /labels``."""
    events = []
    for example in examples:
        if not isinstance(example, LabelledEvent):
            text, label = example
            example = LabelledEvent(input=text, correction=LabelCorrection(label=label))
            if source is not None:
                example = msgspec.structs.replace(example, source=source)
        events.append(_named(example))
    return _events("labels", events)


def status() -> Call[Status]:
    """``GET /status``."""
    return Call(method="GET", path="/status", read=lambda body: msgspec.json.decode(body, type=Status))


def versions(limit: int) -> Call[Versions]:
    """``GET /versions``."""
    return Call(
        method="GET", path=f"/versions?limit={limit}", read=lambda body: msgspec.json.decode(body, type=Versions)
    )


def control(
    type: CommandType,
    *,
    to: str | int,
    reason: str,
    label: str,
    version: str | int,
    share: float | None,
    head: str,
    id: str | None,
) -> Call[InForce]:
    """``POST /control``. What is empty is not sent, and the server's rules fill it in; but an empty ``to`` is none."""
    id = id or uuid4().hex
    given = {
        "type": type,
        "id": id,
        "reason": reason,
        "label": label,
        "version": str(version),
        "share": share,
        "head": head,
    }
    told = {name: value for name, value in given.items() if value not in ("", None)}
    if type == "rollback":
        told["to"] = str(to)
    return Call(
        method="POST",
        path="/control",
        body=_json(told),
        headers=JSON,
        ids=(id,),
        command=True,
        read=lambda body: msgspec.json.decode(body, type=InForce),
    )


def _named(event: Feedback | LabelledEvent) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return fields | {"id": uuid4().hex if event.id is None else event.id}


def _events(topic: Literal["feedback", "labels"], events: list[dict[str, Any]]) -> Call[Accepted]:
    ids = tuple(event["id"] for event in events)

    def read(body: bytes) -> Accepted:
        offsets = msgspec.json.decode(body, type=_Taken).offsets
        if len(offsets) != len(ids):
            raise ValueError(f"{len(offsets)} offsets of {len(ids)} events")
        return Accepted(topic=topic, ids=ids, offsets=offsets)

    return Call(method="POST", path=f"/{topic}", body=_json(events), headers=JSON, ids=ids, read=read)


def _header(value: str) -> bytes:
    """As bytes of a header.

    Raises:
        RefusedError: it has a character that no header can carry.
    """
    if not value.isprintable() or value != value.strip():
        raise RefusedError(
            "The key has a character that no header can carry.",
            "Is there a line break or a space around it?",
            status=None,
        )
    return value.encode()


def _json(value: Any) -> bytes:
    """As bytes.

    Raises:
        RefusedError: a text has half of a surrogate pair.
    """
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise RefusedError(
            "A text has half of a surrogate pair, which is no character.", "Send whole characters.", status=None
        ) from error
