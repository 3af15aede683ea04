"""Append-only collections that share their memory between the states of a fold.

A fold over 100,000 messages makes 100,000 states. Each remembers every id and every release so far; copying them would
make the fold quadratic. A collection here is a view of the first ``n`` entries of storage that only ever grows: adding
to the newest view is O(1) and leaves the older views as they were; adding to an older one (a fork) copies once.
Fold one chain of states on one thread: the storage has no lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar, overload

T = TypeVar("T")


class Chain(Sequence[T]):
    """An immutable sequence; ``chain.plus(item)`` is a longer one."""

    __slots__ = ("_items", "_length")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items: list[T] = list(items)
        self._length = len(self._items)

    def plus(self, item: T) -> Chain[T]:
        """This sequence and one more item."""
        longer: Chain[T] = Chain.__new__(Chain)
        longer._items = self._items if len(self._items) == self._length else self._items[: self._length]
        longer._items.append(item)
        longer._length = self._length + 1
        return longer

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self._items[i] for i in range(*index.indices(self._length)))
        return self._items[range(self._length)[index]]

    def __iter__(self) -> Iterator[T]:
        return islice(self._items, self._length)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Chain({list(self)!r})"


class Register(Mapping[str, int]):
    """An immutable mapping of names to numbers; ``register.plus(name, number)`` has one more. No name ever changes."""

    __slots__ = ("_length", "_rows")

    def __init__(self, rows: Mapping[str, int] | None = None) -> None:
        self._rows: dict[str, tuple[int, int]] = {k: (i, v) for i, (k, v) in enumerate((rows or {}).items())}
        self._length = len(self._rows)

    def plus(self, name: str, number: int) -> Register:
        """This mapping and one more name; itself if it has the name."""
        if name in self:
            return self
        longer = Register.__new__(Register)
        shared = len(self._rows) == self._length
        longer._rows = self._rows if shared else dict(islice(self._rows.items(), self._length))
        longer._rows[name] = (self._length, number)
        longer._length = self._length + 1
        return longer

    def __getitem__(self, name: str) -> int:
        index, number = self._rows[name]
        if index >= self._length:
            raise KeyError(name)
        return number

    def __contains__(self, name: object) -> bool:
        row = self._rows.get(name)  # type: ignore[call-overload]
        return row is not None and row[0] < self._length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return islice(self._rows, self._length)

    def __repr__(self) -> str:
        return f"Register({dict(self)!r})"
