"""Which training examples stay when there are more than fit. One interface, three policies, all seeded.

No policy has a state beside the retained ids and their labels: the chance is in a key that the seed gives to each id.
So a sampler is restored exactly by :meth:`Sampler.restore` with what is retained, in any order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Literal, Protocol

Name = Literal["reservoir", "balanced", "recent"]


class Sampler(Protocol):
    """Decides what is retained. Ids grow, and one that left is never offered again."""

    def offer(self, id: int, label: str) -> int | None:
        """Offer a new example: the id that must go, which may be the offered one; ``None`` while there is room."""
        ...

    def discard(self, id: int) -> None:
        """Forget a retained id that left for another reason; unknown ids are ignored."""
        ...

    def restore(self, members: Iterable[tuple[int, str]]) -> None:
        """Start again from the retained ``(id, label)``, in any order."""
        ...


def sampler(name: Name, capacity: int, seed: int) -> Sampler:
    """The sampler of that name.

    Args:
        name: ``reservoir``, ``balanced`` or ``recent``.
        capacity: most ids retained, at least 1.
        seed: fixes the choices.
    """
    if name == "reservoir":
        return Reservoir(capacity, seed)
    if name == "balanced":
        return BalancedReservoir(capacity, seed)
    return RecentWindow(capacity)


def _key(seed: int, id: int) -> int:
    """64 random bits for an id: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom generators", 2014)."""
    mask = 2**64 - 1
    x = (seed * 0xD1342543DE82EF95 + (id + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class _Ranked:
    """Ids with the one of greatest rank at hand. What left is swept from the heap when it comes up."""

    def __init__(self) -> None:
        self._ranks: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def add(self, id: int, rank: int) -> None:
        self._ranks[id] = rank
        heapq.heappush(self._heap, (-rank, id))

    def remove(self, id: int) -> None:
        if self._ranks.pop(id, None) is not None and len(self._heap) > 2 * len(self._ranks) + 16:
            self._heap = [(-rank, kept) for kept, rank in self._ranks.items()]
            heapq.heapify(self._heap)

    def top(self) -> tuple[int, int]:
        """``(rank, id)`` of the greatest."""
        while self._ranks.get(self._heap[0][1]) != -self._heap[0][0]:
            heapq.heappop(self._heap)
        rank, id = self._heap[0]
        return -rank, id


class Reservoir:
    """Every example seen so far is retained with the same probability.

    Reservoir sampling (Vitter, "Random sampling with a reservoir", 1985) in the form that keeps the smallest random
    keys (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006, with equal weights). Room that
    :meth:`discard` made is filled by what comes next.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity = capacity
        self._seed = seed
        self._members = _Ranked()

    def offer(self, id: int, label: str) -> int | None:
        """See :class:`Sampler`."""
        self._members.add(id, _key(self._seed, id))
        if len(self._members) <= self._capacity:
            return None
        _, evicted = self._members.top()
        self._members.remove(evicted)
        return evicted

    def discard(self, id: int) -> None:
        """See :class:`Sampler`."""
        self._members.remove(id)

    def restore(self, members: Iterable[tuple[int, str]]) -> None:
        """See :class:`Sampler`."""
        self._members = _Ranked()
        for id, _ in members:
            self._members.add(id, _key(self._seed, id))


class BalancedReservoir:
    """Classes as equal as the stream allows, and within a class every example equally likely.

    After class-balancing reservoir sampling (Chrysakis & Moens, "Online continual learning from imbalanced data",
    ICML 2020): when full, an example of a small class takes the place of a random one of the largest class; one of a
    large class competes within its own. Differs from the paper in two ways: the chance is a key per id, as in
    :class:`Reservoir`, and a class counts as large by its size now, not for ever, so that one whose examples were
    contradicted is filled again.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity = capacity
        self._seed = seed
        self._classes: dict[str, _Ranked] = {}
        self._sizes: dict[str, int] = {}
        self._labels: dict[int, str] = {}

    def offer(self, id: int, label: str) -> int | None:
        """See :class:`Sampler`."""
        before = self._sizes.get(label, 0)
        full = len(self._labels) >= self._capacity
        self._add(id, label)
        if not full:
            return None
        largest = max(self._sizes.values())
        # One short of the largest is as large: or classes of equal size would take turns in making room.
        if before > 0 and before + 1 >= largest:
            _, evicted = self._classes[label].top()
        else:
            _, evicted = max(
                self._classes[name].top() for name, size in self._sizes.items() if size == largest and name != label
            )
        self.discard(evicted)
        return evicted

    def discard(self, id: int) -> None:
        """See :class:`Sampler`."""
        label = self._labels.pop(id, None)
        if label is None:
            return
        self._classes[label].remove(id)
        self._sizes[label] -= 1
        if not self._sizes[label]:
            del self._classes[label], self._sizes[label]

    def restore(self, members: Iterable[tuple[int, str]]) -> None:
        """See :class:`Sampler`."""
        self._classes, self._sizes, self._labels = {}, {}, {}
        for id, label in members:
            self._add(id, label)

    def _add(self, id: int, label: str) -> None:
        self._labels[id] = label
        self._sizes[label] = self._sizes.get(label, 0) + 1
        self._classes.setdefault(label, _Ranked()).add(id, _key(self._seed, id))


class RecentWindow:
    """The newest examples, by id."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._members = _Ranked()

    def offer(self, id: int, label: str) -> int | None:
        """See :class:`Sampler`."""
        self._members.add(id, -id)
        if len(self._members) <= self._capacity:
            return None
        _, evicted = self._members.top()
        self._members.remove(evicted)
        return evicted

    def discard(self, id: int) -> None:
        """See :class:`Sampler`."""
        self._members.remove(id)

    def restore(self, members: Iterable[tuple[int, str]]) -> None:
        """See :class:`Sampler`."""
        self._members = _Ranked()
        for id, _ in members:
            self._members.add(id, -id)
