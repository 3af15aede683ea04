"""The control messages: what a learner or an operator may say on the control log.

Everything is a frozen msgspec struct, decoded strictly (``"0"`` is not an epoch). On the wire they are JSON objects
whose ``type`` names the struct; a field that is not known is ignored, so that an older reader goes on folding a newer
log. What a message does is decided in :mod:`stream_ft.release.fold` alone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from stream_ft.events import Identifier, LabelName

MAX_NESTING = 32
"""Deepest JSON accepted. A fixed bound: the recursion limit of a process would let two replicas disagree."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
Issuer = Annotated[str, Meta(pattern="^(learner|operator)/.+$", max_length=200)]
Moment = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with an offset."""
Epoch = Annotated[int, Meta(ge=0, le=2**53)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Command(Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """What all messages have."""

    id: Identifier
    """A second message of the same id is refused."""
    issued_by: Issuer
    """``learner/NAME`` or ``operator/NAME``."""
    issued_at: Moment
    expires_at: Moment | None = None
    """Compared with the append time, never with a clock."""
    signature: str | None = None
    """Carried, not yet checked."""


class Genesis(Command, frozen=True, kw_only=True, tag="genesis"):
    """The first message of a log: the release everything starts from."""

    log_id: Annotated[str, Meta(min_length=1)]
    base: Sha256
    start_head: Sha256
    keys: Any = None
    """Keys of issuers; not interpreted yet."""


class Lead(Command, frozen=True, kw_only=True, tag="lead"):
    """A learner takes the lead; every other one is fenced off."""

    expected_epoch: Epoch


class Promote(Command, frozen=True, kw_only=True, tag="promote"):
    """Put a release into force."""

    base: Sha256
    start_head: Sha256
    parent: Sha256
    """The base that must be active."""
    expected_epoch: Epoch


class Quarantine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Examples that must not train: of a source, of a span of time, or of a source within a span.

    ``None`` is open. One that names nothing at all quarantines nothing.
    """

    source: str | None = None
    since: float | Moment | None = None
    """Seconds since the epoch, or RFC 3339."""
    until: float | Moment | None = None


class Rollback(Command, frozen=True, kw_only=True, tag="rollback"):
    """Back to the release of an earlier epoch, or to a kept head of one."""

    to_epoch: Epoch
    reason: str
    automatic: bool = False
    expected_epoch: Epoch | None = None
    quarantine: Quarantine | None = None
    checkpoint: Sha256 | None = None
    """A kept head that becomes the start head."""


class Deny(Command, frozen=True, kw_only=True, tag="deny"):
    """A base that must never be active (again)."""

    sha256: Sha256
    reason: str


class Pin(Command, frozen=True, kw_only=True, tag="pin"):
    """No learner promotes until ``unpin``."""

    checkpoint: Sha256 | None = None


class Unpin(Command, frozen=True, kw_only=True, tag="unpin"):
    """End of a pin."""

    checkpoint: Sha256 | None = None


class Pause(Command, frozen=True, kw_only=True, tag="pause"):
    """No rounds and no promotions until ``resume``."""

    checkpoint: Sha256 | None = None


class Resume(Command, frozen=True, kw_only=True, tag="resume"):
    """End of a pause."""

    checkpoint: Sha256 | None = None


class TrainNow(Command, frozen=True, kw_only=True, tag="train_now"):
    """Start a round without waiting for the schedule."""


class LabelAdd(Command, frozen=True, kw_only=True, tag="label_add"):
    """Users may introduce this label."""

    label: LabelName


class Erase(Command, frozen=True, kw_only=True, tag="erase"):
    """Forget a subject, named by a keyed hash only. Recorded; carried out by a later version."""

    subject_hmac: Identifier


class Shadow(Command, frozen=True, kw_only=True, tag="shadow"):
    """Let a release score a share of the requests beside the champion, its answers unused; share 0 ends it.

    One that names no release, or half of one, and does not end anything, changes nothing.
    """

    base: Sha256 | None = None
    start_head: Sha256 | None = None
    share: Share = 1.0


class Canary(Command, frozen=True, kw_only=True, tag="canary"):
    """Let a release answer a share of the requests; share 0 ends the trial that runs, whatever it names."""

    base: Sha256
    start_head: Sha256
    share: Share


Message = (
    Genesis
    | Lead
    | Promote
    | Rollback
    | Deny
    | Pin
    | Unpin
    | Pause
    | Resume
    | TrainNow
    | LabelAdd
    | Erase
    | Shadow
    | Canary
)


class Malformed(Struct, frozen=True, kw_only=True):
    """Bytes that are no control message, and why."""

    reason: str
    id: str | None = None
    """The message's id where that much can be read: it counts as seen."""


class _Named(Struct):
    id: Identifier


_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_named = msgspec.json.Decoder(_Named)
_C = TypeVar("_C", bound=Command)
_STRING = re.compile(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)', re.DOTALL)


def new(cls: type[_C], *, by: str, now: float, **fields: Any) -> _C:
    """A message with a fresh id.

    Args:
        cls: its type.
        by: ``learner/NAME`` or ``operator/NAME``.
        now: when it is issued, seconds since the epoch.
        fields: the type's own, and ``id``, ``expires_at`` where wanted.

    Raises:
        msgspec.ValidationError: a field is missing, unknown or of the wrong kind.
    """
    known = {name: value for name, value in fields.items() if name in cls.__struct_fields__}
    if unknown := fields.keys() - known.keys():
        raise msgspec.ValidationError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
    header = {"id": uuid4().hex, "issued_by": by, "issued_at": datetime.fromtimestamp(now, UTC)}
    # Through JSON, so that what is published is exactly what every reader will accept.
    return msgspec.json.decode(msgspec.json.encode({"type": cls.__struct_config__.tag, **header, **known}), type=cls)


def decode(value: bytes) -> Message | Malformed:
    """The message in ``value``; :class:`Malformed` for anything else. The same bytes give the same answer anywhere."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Malformed(reason="The message is not UTF-8.")
    if _nesting(text) > MAX_NESTING:
        return Malformed(reason=f"The message is nested deeper than {MAX_NESTING} levels.")
    try:
        return _message.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        return Malformed(reason=f"The message cannot be read: {error}.", id=_id_of(value))


def _id_of(value: bytes) -> str | None:
    try:
        return _named.decode(value).id
    except (msgspec.DecodeError, RecursionError):
        return None


def _nesting(text: str) -> int:
    """Depth of brackets outside strings."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return 0
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest
