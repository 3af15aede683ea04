"""Heads of the fast tier: which of those published is in force. Pure, like the fold of the control log.

A head answers for one release under one leader. It is in force while the folded state is exactly the one that it was
made for: so a rollback needs no list of denied heads, and what a leader that was replaced goes on publishing is dead.
The two topics have no common order; a head of an epoch that has not been folded yet is held until it is.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream_ft.errors import ArtifactError
from stream_ft.release.fold import State

MOST_HELD = 64
"""Releases whose newest head is held; the oldest epochs leave."""


class HeadRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of ``.heads``, as msgpack; its key is the epoch."""

    base: str
    start_head: str
    """Head of the release that this one goes on from."""
    epoch: Annotated[int, Meta(ge=0)]
    leader: str
    """``learner/NAME``."""
    seq: Annotated[int, Meta(ge=1)]
    """Grows by one within an epoch."""
    sha256: str
    labels: Annotated[int, Meta(ge=0)]
    """How many it can answer."""
    examples_upto: Annotated[int, Meta(ge=0)]
    """It has learned from every example of the store up to this sequence number."""
    data: bytes
    """The head's file."""

    def check(self) -> bytes:
        """The file, if it is the one that is named.

        Raises:
            ArtifactError: step ``hash``.
        """
        if sha256(self.data).hexdigest() != self.sha256:
            raise ArtifactError("hash", f"Head {self.seq} of epoch {self.epoch} does not hash to its name.")
        return self.data


Release = tuple[int, str, str, str]


class Heads:
    """The newest head for every release that may be wanted."""

    def __init__(self) -> None:
        self._newest: dict[Release, HeadRecord] = {}

    def take(self, value: bytes) -> str:
        """Take in a record, in any order; why not, or nothing."""
        try:
            record = msgspec.msgpack.decode(value, type=HeadRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"A head cannot be read: {error}."
        return self.put(record)

    def put(self, record: HeadRecord) -> str:
        """The same of a record that is decoded."""
        release = (record.epoch, record.base, record.start_head, record.leader)
        held = self._newest.get(release)
        if held is not None and held.seq >= record.seq:
            return ""
        self._newest[release] = record
        if len(self._newest) > MOST_HELD:
            del self._newest[min(self._newest)]
        return ""

    def in_force(self, state: State) -> HeadRecord | None:
        """The head that answers in this state; ``None``: the release's own."""
        return self._newest.get((state.epoch, state.base, state.start_head, state.leader or ""))

    def last(self, like: HeadRecord) -> int:
        """The ``seq`` of the newest head of the release that this one is of; 0 before the first."""
        held = self._newest.get((like.epoch, like.base, like.start_head, like.leader))
        return 0 if held is None else held.seq

    def forget(self, epoch: int) -> None:
        """Let go of earlier epochs: no state after this one can want their heads."""
        self._newest = {release: record for release, record in self._newest.items() if release[0] >= epoch}


def version(state: State, seq: int) -> str:
    """``v{base number}.{epoch}.{seq}``."""
    return state.version.rpartition(".")[0] + f".{seq}"


def released(name: str) -> str:
    """The version of the release that a version goes on from: ``v1.4.0`` for ``v1.4.17``."""
    return name.rpartition(".")[0] + ".0"


def seq_of(name: str) -> int:
    """17 for ``v1.4.17``; 0 for what has no such number."""
    last = name.rpartition(".")[2]
    return int(last) if last.isascii() and last.isdigit() else 0
