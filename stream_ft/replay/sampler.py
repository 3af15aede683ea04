"""Which training examples stay when there are more than fit. One interface, three policies, all seeded.

A sampler is restored from the retained ids with their labels and from its own small ``state``; together they fix every
later choice. Without the state (``b""``) the number of examples seen before is taken to be the number retained: the
choices stay valid, but the past counts for less than it should.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

Name = Literal["reservoir", "balanced", "recent"]


class Sampler(Protocol):
    """Decides what is retained. Ids are unique and never offered again after they were evicted or discarded."""

    def offer(self, id: int, label: str) -> int | None:
        """Offer a new example: the id that must go, which may be the offered one; ``None`` while there is room."""
        ...

    def discard(self, id: int) -> None:
        """Forget a retained id that left for another reason; unknown ids are ignored."""
        ...

    def state(self) -> bytes:
        """What, beside the retained ids, fixes the next choices."""
        ...

    def restore(self, members: Iterable[tuple[int, str]], state: bytes) -> None:
        """Start again from the retained ``(id, label)`` in the order they were offered, and a state."""
        ...


def sampler(name: Name, capacity: int, seed: int) -> Sampler:
    """The sampler of that name.

    Args:
        name: ``reservoir``, ``balanced`` or ``recent``.
        capacity: most ids retained.
        seed: fixes the choices.
    """
    if name == "reservoir":
        return Reservoir(capacity, seed)
    if name == "balanced":
        return BalancedReservoir(capacity, seed)
    return RecentWindow(capacity)


def _draw(seed: int, step: int, below: int) -> int:
    """A uniform integer in ``[0, below)`` from a seed and a step: no generator whose state would have to be kept.

    SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xD1342543DE82EF95) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) * below) >> 64


class _Members:
    """Ids in a list, each with its place: O(1) to add, remove and draw."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._place: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: int) -> bool:
        return id in self._place

    def add(self, id: int) -> None:
        self._place[id] = len(self.ids)
        self.ids.append(id)

    def remove(self, id: int) -> None:
        place = self._place.pop(id)
        last = self.ids.pop()
        if last != id:
            self.ids[place] = last
            self._place[last] = place


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a sampler, and the order of its ids: a draw names a place, so places must survive."""

    steps: int = 0
    seen: dict[str, int] = {}
    order: dict[str, list[int]] = {}


class Reservoir:
    """Every example seen so far is retained with the same probability: Algorithm R (Vitter 1985).

    Ids that left for another reason make room, which the next offers fill.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity = capacity
        self._seed = seed
        self._steps = 0
        self._seen = 0
        self._members = _Members()

    def offer(self, id: int, label: str) -> int | None:
        """See :class:`Sampler`."""
        self._seen += 1
        if len(self._members) < self._capacity:
            self._members.add(id)
            return None
        self._steps += 1
        place = _draw(self._seed, self._steps, self._seen)
        if place >= self._capacity:
            return id
        evicted = self._members.ids[place]
        self._members.remove(evicted)
        self._members.add(id)
        return evicted

    def discard(self, id: int) -> None:
        """See :class:`Sampler`."""
        if id in self._members:
            self._members.remove(id)

    def state(self) -> bytes:
        """See :class:`Sampler`."""
        return msgspec.msgpack.encode(_State(steps=self._steps, seen={"": self._seen}))

    def restore(self, members: Iterable[tuple[int, str]], state: bytes) -> None:
        """See :class:`Sampler`."""
        self._members = _Members()
        for id, _ in members:
            self._members.add(id)
        kept = msgspec.msgpack.decode(state, type=_State) if state else _State()
        self._steps = kept.steps
        self._seen = max(kept.seen.get("", 0), len(self._members))
