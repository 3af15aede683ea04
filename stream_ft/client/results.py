"""What calls return. Frozen; a field that a newer server adds is ignored."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class Answer(Struct, frozen=True, kw_only=True):
    """The answer to one text."""

    id: str
    """By which feedback names this answer."""
    label: str
    """Empty as long as the model has learned no label."""
    score: float
    """The model's confidence in the label."""
    version: str
    """What answered; the same for all answers of a call."""


class Accepted(Struct, frozen=True, kw_only=True):
    """Events that are durable in the log."""

    topic: Literal["feedback", "labels"]
    ids: tuple[str, ...]
    """Of the events, in the order in which they were given."""
    offsets: tuple[int, ...]
    """Where they lie on the topic, in the same order. Sent twice, an event lies there twice and counts once."""


class Version(Struct, frozen=True, kw_only=True):
    """One version that was in force, and how it came to be."""

    version: str
    epoch: int
    base: str
    """sha256 of the base."""
    start_head: str
    """sha256 of the head it started with."""
    active: bool
    """True for the version that answers."""
    denied: bool
    """True if its base must not come back."""
    kept: bool
    """False if its head is gone; what follows is then empty."""
    missing: str = ""
    """Why it cannot be had; empty if ``kept``."""
    kind: str = ""
    """``genesis``, ``head`` or the method that trained the encoder."""
    examples_upto: int = 0
    offsets: dict[str, int] = {}
    """Per topic, the offset before which every event is covered."""
    train_examples: int = 0
    verdict: dict[str, Any] = {}
    """The gate's numbers; empty for the first version."""
    created: float = 0.0
    """Seconds since the epoch."""
    seed: int = 0

    def covers(self, accepted: Accepted) -> bool:
        """True once these events were available to the training of this version."""
        covered = {name.rpartition(".")[2]: offset for name, offset in self.offsets.items()}
        return all(offset < covered.get(accepted.topic, 0) for offset in accepted.offsets)


class Versions(Struct, frozen=True, kw_only=True):
    """The newest versions."""

    model: str
    active: str
    """Name of the version that answers; empty if none does yet."""
    wanted: str
    """Name of the version that the control log puts into force. It differs for a moment, or if it cannot be loaded."""
    versions: tuple[Version, ...]
    """Oldest first."""


class Status(Struct, frozen=True, kw_only=True):
    """What server and learner say of themselves."""

    model: str
    serve: dict[str, Any]
    """``version``, ``wanted``, ``ready``, ``pinned``, ``paused`` and more."""
    learn: dict[str, Any] | None
    """What the learner wrote last; ``None`` if it never did."""


class InForce(Struct, frozen=True, kw_only=True):
    """What the control log puts into force."""

    version: str
    epoch: int
    pinned: bool
    paused: bool
