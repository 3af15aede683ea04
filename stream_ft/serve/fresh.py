"""The follower's third errand: the newest head of the fast tier, once it is there, answers in place of the release's.

A head is small and its base is prepared already: it is verified and checked on the golden texts, and flipped to between
two batches. One that is refused is not tried again; the version from before goes on answering.
"""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from functools import partial

from stream_ft.errors import ArtifactError, LogTruncatedError, StreamFTError
from stream_ft.logs import decision
from stream_ft.metrics import ServeMetrics
from stream_ft.model.mixture import read_head
from stream_ft.ports import EventLog
from stream_ft.release import dossier
from stream_ft.release.dossier import Dossier
from stream_ft.release.fold import State
from stream_ft.release.heads import HeadRecord, Heads, seq_of, version
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed
from stream_ft.serve.slots import Answer, ServedHead, Slots
from stream_ft.topics import topic

log = logging.getLogger("stream_ft.serve.fresh")

BEHIND = 16
"""Records before the end with which reading begins: the newest head is among the last, unless two learners write."""
BATCH = 8


class Fresh:
    """Follows ``.heads``. Every call is on the follower's thread.

    Args:
        model: name in topics.
        events: only read.
        dim: width of the embeddings that a head must read.
    """

    def __init__(
        self,
        *,
        model: str,
        events: EventLog,
        slots: Slots,
        batcher: Batcher[Answer],
        metrics: ServeMetrics,
        dim: int,
    ) -> None:
        self._topic = topic(model, "heads")
        self._log = events
        self._slots = slots
        self._batcher = batcher
        self._metrics = metrics
        self._dim = dim
        self._heads = Heads()
        self._next = -1
        self._bad: tuple[int, int] = (-1, -1)
        self.newest: tuple[str, Dossier] = ("", Dossier())
        """Name of the newest head that came into force, and what it says of itself."""

    def of(self, wanted: Listed, state: State) -> tuple[str, ServedHead] | None:
        """Name and head that a release begins to answer with; ``None``: its own."""
        if wanted.name != state.version:
            return None
        self._read()
        record = self._wanted(state)
        verified = None if record is None else self._verified(record)
        if record is None or verified is None:
            return None
        self.newest = (version(state, record.seq), verified[1])
        return self.newest[0], verified[0]

    def pursue(self, state: State) -> None:
        """Flip to the newest head of the release that answers, if there is a newer one."""
        self._read()
        current = self._slots.current
        if current is None or current.epoch != state.epoch or current.base != state.base:
            return
        record = self._wanted(state, above=seq_of(current.name))
        verified = None if record is None else self._verified(record)
        if record is None or verified is None:
            return
        fresh = replace(current, name=version(state, record.seq), head=verified[0])
        try:
            self._slots.check(fresh)
        except ArtifactError as error:
            self._refuse(record, error)
            return
        with suppress(CancelledError):  # the process is ending
            self._batcher.between(partial(self._slots.flip, fresh)).result()
            self.newest = (fresh.name, verified[1])

    def _verified(self, record: HeadRecord) -> tuple[ServedHead, Dossier] | None:
        try:
            head = read_head(record.check())
            told = dossier.read(record.data)
            if head.dim != self._dim:
                raise ArtifactError("shapes", f"It reads embeddings {head.dim} wide; the encoder gives {self._dim}.")
        except ArtifactError as error:
            self._refuse(record, error)
            return None
        return head, told

    def _refuse(self, record: HeadRecord, error: ArtifactError) -> None:
        self._bad = (record.epoch, record.seq)
        self._metrics.swap_failed(error.step)
        told = decision("head_refused", epoch=record.epoch, seq=record.seq, step=error.step)
        log.error("head %s of epoch %s is refused (%s): %s", record.seq, record.epoch, error.step, error, extra=told)

    def _wanted(self, state: State, *, above: int = 0) -> HeadRecord | None:
        """The head in force in this state if its ``seq`` is above that one and it was not found bad."""
        self._heads.forget(state.epoch)
        record = self._heads.in_force(state)
        if record is None or record.seq <= above or (record.epoch, record.seq) == self._bad:
            return None
        return record

    def _read(self) -> None:
        """Take in what is new. A topic that cannot be read now is read the next time: the version in force answers."""
        try:
            if self._next < 0:
                first, after = self._log.bounds(self._topic, 0)
                self._next = max(first, after - BEHIND)
            while records := self._log.read(self._topic, 0, self._next, BATCH):
                for record in records:
                    if why := self._heads.take(record.value):
                        log.error("%s", why, extra=decision("head_refused", offset=record.offset))
                self._next = records[-1].offset + 1
        except LogTruncatedError:  # retention went past us, or the topic was made anew: only the newest matter
            self._next = -1
        except StreamFTError as error:
            log.debug("heads cannot be read now: %s", error.message)
