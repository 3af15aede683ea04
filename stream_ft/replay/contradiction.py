"""Which retained examples does newer evidence contradict? Neighbours in embedding space, counted as they come and go.

An example falls when at least ``contradictions`` newer neighbours agree on one other label and outnumber the newer
neighbours that bear its own. Neighbours have a cosine of at least ``similarity`` under the same base, and at least the
example's trust: users do not overrule the label topic. Each coming or going is compared with all retained embeddings
``[N, dim]`` (:mod:`stream_ft.replay.nearby`); those of one transaction are taken together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from stream_ft.replay.nearby import Nearby

BLOCK = 256
"""Columns of one product: bounds its memory at ``N * BLOCK`` values."""


class Placed(Struct, frozen=True, kw_only=True):
    """An example as the neighbourhood sees it."""

    id: int
    label: str
    trust: int
    time: float
    embedding: bytes
    """``dim`` little-endian fp16 values."""


class Contradicted(Struct, frozen=True, kw_only=True):
    """An example that fell, and the newest of those that contradict it."""

    id: int
    by: int


class Neighbourhood:
    """Embeddings of the retained examples under one base, with the votes of newer neighbours.

    Args:
        contradictions: least number of neighbours that agree on another label.
        similarity: cosine from which two examples are neighbours.
    """

    def __init__(self, *, contradictions: int, similarity: float) -> None:
        self._needed = contradictions
        self._similarity = similarity
        self.reset("")

    def reset(self, base: str) -> None:
        """Forget everything; from now on embeddings of ``base`` are taken."""
        self.base = base
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._labels: dict[str, int] = {}
        self._coming: dict[int, Placed] = {}
        self._going: list[int] = []
        self._nearby = Nearby(0, self._similarity)
        self._ids: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._times: npt.NDArray[np.float64] = np.zeros(0)
        self._trusts: npt.NDArray[np.int8] = np.zeros(0, np.int8)
        self._named: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._active: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._votes: npt.NDArray[np.int32] = np.zeros((0, 0), np.int32)

    def __len__(self) -> int:
        return len(self._slots) + len(self._coming)

    def add(self, placed: Placed) -> None:
        """An example came, or came again with another label; it votes from the next :meth:`settle` on."""
        self.remove(placed.id)
        self._coming[placed.id] = placed

    def remove(self, id: int) -> None:
        """An example left, and with the next :meth:`settle` its votes; unknown ids are ignored."""
        self._coming.pop(id, None)
        if (slot := self._slots.pop(id, None)) is not None:
            self._going.append(slot)

    def settle(self) -> list[Contradicted]:
        """Count the votes of what came and went. The examples that fall are still in until they are removed."""
        left = self._leave()
        slots = self._enter()
        touched = np.pad(left, (0, len(self._active) - len(left)))
        for start in range(0, len(slots), BLOCK):
            touched |= self._count(slots[start : start + BLOCK], slots)
        return self._fallen(touched)

    def _leave(self) -> npt.NDArray[np.bool_]:
        going = np.array(self._going, np.intp)
        self._going = []
        self._active[going] = False
        touched = np.zeros(len(self._active), np.bool_)
        for start in range(0, len(going), BLOCK):
            block = going[start : start + BLOCK]
            close = self._nearby.near(block)
            for column, slot in enumerate(block.tolist()):
                older = close[:, column] & self._older(slot)
                self._votes[older, self._named[slot]] -= 1
                # A supporter that leaves can tip the balance as well as a contradictor that comes.
                touched |= older
        self._votes[going] = 0
        self._free += going.tolist()
        return touched

    def _enter(self) -> npt.NDArray[np.intp]:
        """Give what came a slot each; the slots, ascending by time and id."""
        slots = []
        for placed in sorted(self._coming.values(), key=lambda p: (p.time, p.id)):
            vector = np.frombuffer(placed.embedding, dtype="<f2").astype(np.float32)
            if len(self._active) == 0:
                self._nearby = Nearby(len(vector), self._similarity)
            norm = float(np.linalg.norm(vector))
            if len(vector) != self._nearby.dim or not 0 < norm < np.inf:
                continue
            if not self._free:
                self._grow()
            slot = self._free.pop()
            self._slots[placed.id] = slot
            self._nearby.put(slot, vector / norm)
            self._ids[slot], self._times[slot], self._trusts[slot] = placed.id, placed.time, placed.trust
            self._named[slot] = self._name(placed.label)
            self._active[slot] = True
            slots.append(slot)
        self._coming = {}
        return np.array(slots, np.intp)

    def _count(self, block: npt.NDArray[np.intp], all_new: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        close = self._nearby.near(block)
        settled = self._active.copy()
        settled[all_new] = False
        touched = np.zeros(len(self._active), np.bool_)
        for column, slot in enumerate(block.tolist()):
            near = close[:, column]
            older = near & self._older(slot)
            self._votes[older, self._named[slot]] += 1
            touched |= older
            # A late one finds newer neighbours that are already there; those that come with it vote on their own turn.
            newer = near & settled & self._newer(slot)
            if newer.any():
                np.add.at(self._votes[slot], self._named[newer], 1)
                touched[slot] = True
        return touched

    def _fallen(self, touched: npt.NDArray[np.bool_]) -> list[Contradicted]:
        rows = np.flatnonzero(touched & self._active)
        if not len(rows):
            return []
        votes = self._votes[rows]
        here = np.arange(len(rows))
        own = votes[here, self._named[rows]].copy()
        votes[here, self._named[rows]] = -1
        best = votes.max(axis=1)
        suspects = rows[(best >= self._needed) & (best > own)]
        result = []
        for start in range(0, len(suspects), BLOCK):
            block = suspects[start : start + BLOCK]
            close = self._nearby.near(block)
            for column, slot in enumerate(block.tolist()):
                if (by := self._judge(slot, close[:, column] & self._newer(slot))) is not None:
                    result.append(Contradicted(id=int(self._ids[slot]), by=by))
        return sorted(result, key=lambda contradicted: contradicted.id)

    def _judge(self, slot: int, newer: npt.NDArray[np.bool_]) -> int | None:
        """Count a suspect's neighbours afresh: id of the newest contradictor if it falls.

        Products of other shapes round differently, so the running votes can be off by one at the threshold.
        """
        votes = np.bincount(self._named[newer], minlength=self._votes.shape[1])
        self._votes[slot] = votes
        own = votes[self._named[slot]]
        votes[self._named[slot]] = -1
        rival = int(votes.argmax())
        if votes[rival] < self._needed or votes[rival] <= own:
            return None
        guilty = np.flatnonzero(newer & (self._named == rival))
        return int(self._ids[guilty[np.lexsort((self._ids[guilty], self._times[guilty]))[-1]]])

    def _older(self, slot: int) -> npt.NDArray[np.bool_]:
        """Active rows on which the slot votes: older, and of no more trust."""
        time, id = self._times[slot], self._ids[slot]
        before = (self._times < time) | ((self._times == time) & (self._ids < id))
        older: npt.NDArray[np.bool_] = self._active & before & (self._trusts <= self._trusts[slot])
        return older

    def _newer(self, slot: int) -> npt.NDArray[np.bool_]:
        """Active rows that vote on the slot: newer, and of no less trust."""
        time, id = self._times[slot], self._ids[slot]
        after = (self._times > time) | ((self._times == time) & (self._ids > id))
        newer: npt.NDArray[np.bool_] = self._active & after & (self._trusts >= self._trusts[slot])
        return newer

    def _name(self, label: str) -> int:
        index = self._labels.setdefault(label, len(self._labels))
        if index >= self._votes.shape[1]:
            self._votes = np.pad(self._votes, ((0, 0), (0, max(16, self._votes.shape[1]))))
        return index

    def _grow(self) -> None:
        old = len(self._active)
        more = max(256, old // 8)  # each event is compared with all rows there are, empty ones too
        self._nearby.grow(more)
        self._ids = np.pad(self._ids, (0, more))
        self._times = np.pad(self._times, (0, more))
        self._trusts = np.pad(self._trusts, (0, more))
        self._named = np.pad(self._named, (0, more))
        self._active = np.pad(self._active, (0, more))
        self._votes = np.pad(self._votes, ((0, more), (0, 0)))
        self._free = list(range(old + more - 1, old - 1, -1))
