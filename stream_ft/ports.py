"""Every port in one place. Adapters live in ``connectors/``, fakes in :mod:`stream_ft.testing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

Headers = tuple[tuple[str, bytes], ...]


class Original(Struct, frozen=True, kw_only=True):
    """Where a record lay before it was forwarded to another topic, so that it is known however often it comes."""

    topic: str
    partition: int
    offset: int
    appended_at: float
    """Append time of the original: when its publisher was told that it is there."""
    digest: bytes
    """16 bytes that stand for the bytes of the original: see :func:`stream_ft.original.digest_of`."""


class Record(Struct, frozen=True, kw_only=True):
    """One entry of an event log, as it lies there."""

    topic: str
    partition: int
    offset: int
    value: bytes
    key: bytes | None = None
    headers: Headers = ()
    appended_at: float = 0.0
    """Append time, seconds since the epoch: given by the log, not by the publisher."""
    original: Original | None = None
    """Set when the record was forwarded; then ``appended_at`` is that of the original."""


class Outgoing(Struct, frozen=True, kw_only=True):
    """A message to append."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: Headers = ()


class EventLog(Protocol):
    """An append-only log of topics.

    Order holds within a partition. A reader owns its position: ``read`` never moves anything. Offsets grow (by one
    per record, unless the topic is compacted) and are never given twice, even when retention has emptied the topic or
    the process was killed. Where the log is a broker's, every method may raise :class:`LogAwayError`.
    """

    def append(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append durably (on return the records survive a kill -9 and a power cut) and return their offsets.

        All messages of one call are appended in their order; messages of one topic atomically.

        Raises:
            StoreFullError: the disk is full or failed; nothing of the topic was appended.
            LogAwayError: a broker did not confirm in time; it may have appended all, some or none.
            MessageTooLargeError: one message exceeds the log's limit; nothing was appended.
        """
        ...

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """Up to ``limit`` records from ``offset`` on, in order; empty at the end.

        Raises:
            LogTruncatedError: ``offset`` was removed by retention, or lies beyond the end by more than zero
                (the log was replaced, deleted or cut): never skip silently.
        """
        ...

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """``(first, next)``: the first offset still there, and the one the next append gets. ``(0, 0)`` when new."""
        ...

    def partitions(self, topic: str) -> list[int]:
        """Partitions of a topic, ascending. ``[0]`` for a topic nobody has written yet."""
        ...

    def log_id(self, topic: str) -> str:
        """Identity of the log behind a topic: differs once the log was replaced."""
        ...

    def changed(self) -> bool:
        """True if anything may have been appended since the last call (cheap: for polling)."""
        ...

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Retention: remove records with ``offset < before``."""
        ...

    def close(self) -> None:
        """Release files and connections. Idempotent."""
        ...


class Flaw(Struct, frozen=True, kw_only=True):
    """What is wrong with a topic that somebody made."""

    topic: str
    serious: bool
    """Events or commands would be lost or misread: nothing may start on it."""
    text: str
    remedy: str


@runtime_checkable
class Brokered(Protocol):
    """What a log that is a broker's can do besides: an :class:`EventLog` may be one of these too."""

    def connect(self) -> None:
        """Begin to connect, in the background: whoever asks later waits less."""
        ...

    def expect(self, known: Mapping[str, str]) -> None:
        """Topics that this process has used before, with the ``log_id`` of each.

        One that is gone is an error from now on, and is not made again.
        """
        ...

    def prepare(self, topics: Sequence[str]) -> list[Flaw]:
        """Create the topics that are missing and are not expected, and say what is wrong with the others."""
        ...

    def examine(self, topics: Sequence[str]) -> list[Flaw]:
        """Say what is wrong with topics, those that are missing included; change nothing."""
        ...


class AdapterStore(Protocol):
    """Immutable folders of bytes, each named by its sha256."""

    def put(self, files: dict[str, bytes]) -> str:
        """Write a folder (temp, fsync, rename) and return its sha256. Writing the same twice is harmless."""
        ...

    def get(self, sha256: str) -> dict[str, bytes]:
        """All files of a folder, verified against the name.

        Raises:
            ArtifactError: missing, or the bytes do not hash to the name.
        """
        ...

    def list(self) -> list[str]:
        """Names of the folders that are complete."""
        ...

    def delete(self, sha256: str) -> None:
        """Remove a folder; unknown names are ignored."""
        ...


class Clock(Protocol):
    """Time, passed in."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        ...
