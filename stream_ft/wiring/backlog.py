"""What a fast tier that was brought back, or is built anew, has to learn before its lessons go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from stream_ft.events import Example
from stream_ft.learn.fast.tier import learnable
from stream_ft.release.fold import Quarantined
from stream_ft.replay.store import Store

LEFT = "fast_undone"
"""Under which the store remembers what a rollback has left."""


class Left(Struct, frozen=True, kw_only=True):
    """What a rollback went back to, and ``newest``: up to which sequence number what was learned is left."""

    epoch: int
    base: str
    start_head: str
    examples_upto: int
    newest: int


class Again(Struct, frozen=True, kw_only=True):
    """To be learned again after a rollback, once what it blames is set aside.

    Attributes:
        blamed: what the rollback puts in quarantine.
        after: sequence number up to which all is learned.
        sure: up to which it is learned in any case.
        upto: up to which it is learned if the quarantine holds anything. Where it holds nothing, its name was a slip:
            nobody has said what is to blame, and what came since may be it.
    """

    blamed: Quarantined
    after: int
    sure: int
    upto: int


class Backlog:
    """Examples that come before the lessons.

    Args:
        store: that retains them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: deque[Example] = deque()
        self._lessons: set[int] = set()
        """Which of them are lessons: those need not be retained."""
        self._again: Again | None = None

    def __bool__(self) -> bool:
        return bool(self._queue) or self._again is not None

    def clear(self) -> None:
        """Nothing is to be learned."""
        self._queue.clear()
        self._lessons = set()
        self._again = None

    def retained(self, *, after: int = -1, upto: int | None = None) -> list[Example]:
        """What the store retains and can be learned, with sequence numbers ``(after, upto]``, ascending."""
        return [
            example
            for example in self._store.training()
            if example.seq > after and (upto is None or example.seq <= upto) and learnable(example)
        ]

    def add(self, *, after: int = -1, upto: int | None = None) -> None:
        """All of :meth:`retained`."""
        self._queue.extend(self.retained(after=after, upto=upto))

    def add_missing(self, lessons: Sequence[Example], *, after: int) -> int | None:
        """What is retained and is no lesson, together with the lessons, if there is any.

        Returns:
            The sequence number up to which all is in the backlog; ``None`` if there is nothing but lessons.
        """
        known = {lesson.seq for lesson in lessons}
        missing = [example for example in self.retained(after=after) if example.seq not in known]
        if not missing:
            return None
        self._lessons = known
        self._queue.extend(sorted([*lessons, *missing], key=lambda example: example.seq))
        return self._queue[-1].seq

    def add_again(self, again: Again) -> None:
        """What is to be learned once a quarantine was carried out."""
        self._again = again

    def ready(self) -> bool:
        """False while a quarantine is to be carried out first."""
        if (again := self._again) is None:
            return True
        found = self._store.set_aside(again.blamed.source, again.blamed.since, again.blamed.until)
        if found is None:
            return False
        self.add(after=again.after, upto=again.upto if found else again.sure)
        self._again = None
        return True

    def take(self, limit: int) -> list[Example]:
        """The next of them, up to ``limit``; without those that were quarantined or evicted since they were queued."""
        taken: list[Example] = []
        while self._queue and len(taken) < limit:
            each = self._queue.popleft()
            if each.seq in self._lessons or self._store.example(each.id) is not None:
                taken.append(each)
        return taken


def remembered(store: Store, left: Left) -> Left:
    """What a rollback has left: the same after a restart in its middle, though another release may have begun since."""
    saved = store.load(LEFT)
    before = msgspec.msgpack.decode(saved, type=Left) if saved else None
    if before is not None and (before.epoch, before.base) == (left.epoch, left.base):
        return before
    store.save(LEFT, msgspec.msgpack.encode(left))
    return left
