"""The way of a version into a slot: verified, prepared beside what answers, warmed and checked, put there.

A step that fails leaves everything as it was, and says which one it was.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Protocol

from stream_ft import failpoints
from stream_ft.errors import ArtifactError
from stream_ft.memory import give_back
from stream_ft.model.base import MARKER
from stream_ft.model.engines import Engine
from stream_ft.model.mixture import read_head
from stream_ft.release import manifest
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed
from stream_ft.serve.challenger import Failure, OvertakenError
from stream_ft.serve.slots import Answer, ServedHead, Slots, Version

log = logging.getLogger("stream_ft.serve.loading")


class Artifacts(Protocol):
    """Where bases and heads are read from, verified against their names (ArtifactError)."""

    def get(self, sha256: str) -> dict[str, bytes]:
        """All files of a base."""
        ...

    def get_head(self, sha256: str) -> bytes:
        """The bytes of a head."""
        ...


class Loader:
    """Loads versions; every call is on the follower's thread.

    Args:
        artifacts: the registry.
        engine: ``prepare`` is called here; everything else through ``slots`` on the forward thread.
        keep: bases that stay prepared.
    """

    def __init__(
        self, *, artifacts: Artifacts, engine: Engine, slots: Slots, batcher: Batcher[Answer], keep: int
    ) -> None:
        self._artifacts = artifacts
        self._engine = engine
        self._slots = slots
        self._batcher = batcher
        self._keep = keep
        self._prepared: OrderedDict[str, None] = OrderedDict()
        self._litter = self._incomplete = False

    def load(
        self,
        wanted: Listed,
        *,
        put: Callable[[Version], None],
        newest: Callable[[], tuple[str, ServedHead] | None],
        between: Callable[[], None],
    ) -> Failure | None:
        """Verify, prepare, check; ``put`` into a slot between two batches; what went wrong.

        Args:
            wanted: the release.
            put: on the forward thread.
            newest: name and head with which the release begins to answer, if not with its own.
            between: called between two pieces of preparing; raises :class:`OvertakenError` if it is wanted no more.
        """
        step = "prepare"
        failpoints.hit("serve.before_prepare")
        try:
            own = read_head(self._artifacts.get_head(wanted.start_head))
            name, head = newest() or (wanted.name, own)
            anew = wanted.base not in self._prepared or not self._engine.prepared(wanted.base)
            files: dict[str, bytes] = {}
            if anew:
                files = self._artifacts.get(wanted.base)
                if set(files) != {MARKER}:  # the pretrained model as it is has nothing to list
                    manifest.check(files)
                self._litter = True
                self._engine.prepare(wanted.base, files, between)
            self._prepared[wanted.base] = None
            self._prepared.move_to_end(wanted.base)
            if anew:
                between()
            version = Version(name=name, epoch=wanted.epoch, base=wanted.base, start_head=wanted.start_head, head=head)
            self._slots.check(version, anew=anew, files=files)
            failpoints.hit("serve.before_flip")
            step = "flip"
            self._batcher.between(partial(put, version)).result()
        except OvertakenError:
            raise
        except ArtifactError as error:
            return Failure(epoch=wanted.epoch, step=error.step, reason=error.message)
        except CancelledError:
            return Failure(epoch=wanted.epoch, step=step, reason="The process is ending.")
        except Exception as error:  # a folder can break its loader in ways nobody listed; what answers must not change
            log.error("loading %s failed", wanted.name, exc_info=error)
            return Failure(epoch=wanted.epoch, step=step, reason=f"An unexpected {type(error).__name__}.")
        failpoints.hit("serve.after_flip")
        self._incomplete = True  # also where nothing was built: its base may have had no time for it before
        self._forget_old()
        return None

    def discard(self, base: str) -> None:
        """A base that failed is read and verified anew at the next attempt."""
        if base in self._prepared and not self._slots.answers(base):
            del self._prepared[base]
            self._drop(base)
            self._litter = True

    def complete(self) -> None:
        """Go on with what versions could do without until they answered."""
        if self._incomplete:
            self._incomplete = not self._engine.complete()

    def tidy(self) -> None:
        """Give back what building left behind, as much as a version takes; for when nobody waits."""
        if self._litter:
            self._litter = False
            give_back()

    def _forget_old(self) -> None:
        for base in [base for base in self._prepared if not self._slots.answers(base)]:
            if len(self._prepared) > self._keep:
                del self._prepared[base]
                self._drop(base)

    def _drop(self, base: str) -> None:
        """Waits for it: a base that is prepared again right after must not be what is dropped."""
        with suppress(CancelledError):  # the process is ending
            self._batcher.between(partial(self._slots.forget, base)).result()
