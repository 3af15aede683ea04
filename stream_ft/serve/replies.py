"""What the service answers, as types: what is sent is what the OpenAPI description says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response


class ErrorReply(Struct, frozen=True, kw_only=True):
    """The form of every error."""

    error: Annotated[str, Meta(description="One sentence, and what to do.")]


class PlainAnswer(Struct, frozen=True, kw_only=True):
    """The answer to one input."""

    id: Annotated[str, Meta(description="Names this answer in feedback.")]
    label: Annotated[str, Meta(description="Empty from a model that knows no label yet.")]
    score: Annotated[float, Meta(description="Probability of the label.")]


class PlainReply(Struct, frozen=True, kw_only=True):
    """Answers in the order of the inputs, all of one version."""

    model: str
    version: str
    predictions: list[PlainAnswer]


class AcceptedReply(Struct, frozen=True, kw_only=True):
    """The events are durable."""

    accepted: Annotated[int, Meta(ge=0, description="How many.")]
    offsets: Annotated[list[int], Meta(description="Their positions in the log.")]


class LiveReply(Struct, frozen=True, kw_only=True):
    """Whether the process works."""

    live: bool


class ReadyReply(Struct, frozen=True, kw_only=True):
    """Whether some version answers."""

    ready: bool
    reason: Annotated[str, Meta(description="Why not.")] | UnsetType = UNSET


class IndexReply(Struct, frozen=True, kw_only=True):
    """What there is."""

    service: str
    model: str
    endpoints: Annotated[list[str], Meta(description="Method and path of each.")]
    example: Annotated[str, Meta(description="A command that asks for an answer.")]


class VersionReply(Struct, frozen=True, kw_only=True):
    """One release. What it was trained on is there while its head is kept."""

    version: Annotated[str, Meta(description="The name that it serves under.")]
    epoch: int
    base: Annotated[str, Meta(description="sha256 of what it changes in the encoder.")]
    start_head: Annotated[str, Meta(description="sha256 of its head.")]
    active: Annotated[bool, Meta(description="It answers now.")]
    denied: Annotated[bool, Meta(description="Its base cannot come back.")]
    kept: Annotated[bool, Meta(description="Its head is still on disk, and readable.")]
    missing: Annotated[str, Meta(description="Why what follows is not told.")] | UnsetType = UNSET
    kind: Annotated[str, Meta(description="genesis, head, or the method that trained the encoder.")] | UnsetType = UNSET
    examples_upto: Annotated[int, Meta(description="Examples up to this one were there to train on.")] | UnsetType = (
        UNSET
    )
    offsets: (
        Annotated[dict[str, int], Meta(description="By topic, the position before which all is covered.")] | UnsetType
    ) = UNSET
    train_examples: int | UnsetType = UNSET
    verdict: Annotated[dict[str, Any], Meta(description="The gate's numbers.")] | UnsetType = UNSET
    created: Annotated[float, Meta(description="Seconds since the epoch.")] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    manifest: (
        Annotated[dict[str, Any], Meta(description="Of its base's folder; only told of a version by its name.")]
        | UnsetType
    ) = UNSET


class HeadReply(Struct, frozen=True, kw_only=True):
    """A head of the fast tier."""

    version: Annotated[str, Meta(description="The name that it serves under.")]
    examples_upto: Annotated[int, Meta(description="It has learned from every example up to this one.")]
    offsets: Annotated[dict[str, int], Meta(description="By topic, the position before which all is covered.")]
    train_examples: int
    created: Annotated[float, Meta(description="Seconds since the epoch.")]


class VersionsReply(Struct, frozen=True, kw_only=True):
    """The newest releases, oldest first."""

    model: str
    active: Annotated[str, Meta(description="The version that answers; empty for none.")]
    wanted: Annotated[str, Meta(description="The version that should.")]
    versions: list[VersionReply]
    head: Annotated[HeadReply, Meta(description="The fast tier's head that answers, where one does.")] | UnsetType = (
        UNSET
    )


class StatusReply(Struct, frozen=True, kw_only=True):
    """What is in force."""

    model: str
    serve: Annotated[dict[str, Any], Meta(description="The serving process of itself.")]
    learn: Annotated[Any, Meta(description="What the learner last said of itself; null if it never did.")]


def reply(content: Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``content`` as an answer. What JSON has no number for (NaN) becomes null."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")
