"""What goes into a transaction of the store, and what comes out."""

from __future__ import annotations

from msgspec import Struct

from stream_ft.events import Event, Example, Reject
from stream_ft.ports import Record
from stream_ft.replay.watermark import Watermark


class Item(Struct, frozen=True, kw_only=True):
    """A record with what became of it. The last four are the answer to a labelled event, made before it is learned."""

    record: Record
    event: Event | Reject
    output: str | None = None
    version: str = ""
    embedding: bytes | None = None
    embedding_base: str = ""


class Scored(Struct, frozen=True, kw_only=True):
    """One answer whose rightness became known."""

    version: str
    """The version that answered."""
    correct: bool
    covers: bool
    """True if the label came regardless of whether the answer was right: fit for accuracy and drift."""
    label: str | None = None
    """The right answer, where it is known."""
    output: str = ""
    input: str = ""
    embedding: bytes | None = None
    """As the head read it that answered; only where the label covers. ``embedding_base`` names the base."""
    embedding_base: str = ""


class Applied(Struct, frozen=True, kw_only=True):
    """What one transaction did."""

    examples: list[Example]
    """New and revised examples that are retained, ascending by ``seq``."""
    scored: list[Scored]
    evicted: list[int]
    """Ids of examples that left."""
    duplicates: int
    """Events absorbed because they had been applied."""
    rejects: list[Reject]
    """Dead letters, those included that had waited until now."""
    orphans: int
    """Feedback that began to wait for its prediction."""
    kinds: dict[str, int] = {}
    """Events taken in by kind (``prediction``, ``feedback``, ``labelled``), without duplicates and what was refused."""
    lessons: list[Example] = []
    """New and revised training examples, those included that were not retained, ascending by ``seq``."""
    ratings: list[float] = []
    """Numbers that users gave to answers. They are counted, never learned from."""
    admitted: int = 0
    """Labels that were new and that enough users named: from now on they are learned."""


class Memory(Struct, frozen=True, kw_only=True):
    """Counters that the store keeps beside its tables."""

    seq: int = 0
    last_id: int = 0
    events: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    log_time: Watermark = Watermark()
    """How far the log has come: by this, what is past its time is forgotten."""
    predictions_time: Watermark = Watermark()


class Composition(Struct, frozen=True, kw_only=True):
    """What the training examples are."""

    by_trust: dict[tuple[int, bool], int]
    """``(trust, fresh)`` to how many."""
    class_sizes: list[int]
    """Training examples of each class, in no order."""


class Counts(Struct, frozen=True, kw_only=True):
    """How much the store holds."""

    train: int
    holdout: int
    classes: int
    """Labels among the training examples."""
    events: int
    """Events ever applied, those that wait included. With duplicates and dead letters: every record taken in."""
    duplicates: int
    dead_letters: int
    waiting: int
    """Events that wait for a prediction or for their label to be allowed."""
    orphans: int
    """Of those, the ones that wait for a prediction."""
    outbox: int
