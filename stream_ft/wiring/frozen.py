"""A copy of the live version, taken once and never trained: what the live one is compared with, on the same events.

The copy costs nothing while it has the base that answers: the embeddings are there. Under another base each event is
encoded once more, by :meth:`Frozen.catch_up`, when the learner has nothing better to do; if it never has, the oldest
events are passed over, for both sides alike.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from stream_ft.errors import ArtifactError
from stream_ft.model.engines import Engine
from stream_ft.model.heads import Head
from stream_ft.model.mixture import AnyHead, read_head
from stream_ft.release.registry import Registry
from stream_ft.replay.store import Scored

log = logging.getLogger("stream_ft.learn")

WAITING = 256
"""Events that may wait to be encoded under the base of the copy."""


class Copy(Struct, frozen=True, kw_only=True):
    """What was frozen. Kept with its bytes: the registry forgets old heads."""

    version: str
    base: str
    head: bytes
    labels: int
    """Labels that had come by then."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Who was right about one event."""

    live: bool
    frozen: bool


class Frozen:
    """The copy, and how it and the live version did on the last events.

    Args:
        after: labels after which the copy is taken; 0 for never.
        window: events that the two accuracies are of.
        engine, registry: encode under the base of the copy.
    """

    def __init__(self, *, after: int, window: int, engine: Engine, registry: Registry) -> None:
        self.after = after
        self.copy: Copy | None = None
        self.lost = ""
        """Why the copy cannot be compared with any more; empty if it can."""
        self._engine = engine
        self._registry = registry
        self._head: AnyHead = Head.empty(engine.dim)
        self._pairs: deque[Pair] = deque(maxlen=window)
        self._waiting: deque[Scored] = deque(maxlen=WAITING)

    def restore(self, data: bytes | None) -> None:
        """Take the copy that :meth:`snapshot` gave."""
        if data is None:
            return
        self.copy = msgspec.msgpack.decode(data, type=Copy)
        self._head = read_head(self.copy.head)

    def snapshot(self) -> bytes:
        """What must survive a restart."""
        return msgspec.msgpack.encode(self.copy)

    def take(self, *, version: str, base: str, head: AnyHead, labels: int) -> bool:
        """Freeze a version once ``labels`` labels have come; true if it was done now."""
        if self.copy is not None or not self.after or labels < self.after or not head.labels:
            return False
        self.copy = Copy(version=version, base=base, head=head.to_bytes(), labels=labels)
        self._head = head
        return True

    def see(self, scored: Iterable[Scored]) -> None:
        """Compare on events whose labels cover what they sample."""
        if self.copy is None or self.lost:
            return
        some = [one for one in scored if one.covers and one.embedding is not None and one.label is not None]
        ready = 0
        if not self._waiting:  # in the order of their arrival: behind one that waits, all wait
            while ready < len(some) and some[ready].embedding_base == self.copy.base:
                ready += 1
        if ready:
            flat = np.frombuffer(b"".join(one.embedding or b"" for one in some[:ready]), "<f2")
            self._compare(some[:ready], flat.reshape(ready, -1))
        self._waiting.extend(some[ready:])

    def catch_up(self, limit: int) -> int:
        """Encode up to ``limit`` events that wait; how many that were."""
        if self.copy is None or not self._waiting:
            return 0
        some = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        try:
            if not self._engine.prepared(self.copy.base):
                self._engine.prepare(self.copy.base, self._registry.get(self.copy.base))
            rows = self._engine.trial(self.copy.base, [one.input for one in some])
        except ArtifactError as error:
            self.lost = f"The base of the frozen copy cannot be loaded: {error.message}"
            log.warning("%s It is compared with no more.", self.lost)
            self._waiting.clear()
            return 0
        self._compare(some, rows)
        return len(some)

    @property
    def over(self) -> int:
        """Events that the accuracies are of."""
        return len(self._pairs)

    @property
    def accuracy(self) -> float | None:
        """Of the copy; ``None`` before any event was compared."""
        return sum(pair.frozen for pair in self._pairs) / len(self._pairs) if self._pairs else None

    @property
    def live_accuracy(self) -> float | None:
        """Of the live version on the same events."""
        return sum(pair.live for pair in self._pairs) / len(self._pairs) if self._pairs else None

    def _compare(self, some: Sequence[Scored], rows: npt.NDArray[np.float16]) -> None:
        for one, (said, _) in zip(some, self._head.predict(rows), strict=True):
            self._pairs.append(Pair(live=one.correct, frozen=said == one.label))
