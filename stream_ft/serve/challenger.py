"""The follower's second errand: the challenger that the control log wants on trial, beside the version that answers.

It is loaded like any version. Whatever is wrong with it, the champion goes on; it is said, and tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass

from stream_ft.logs import decision
from stream_ft.metrics import ServeMetrics
from stream_ft.ports import Clock
from stream_ft.release.fold import State
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed
from stream_ft.serve.slots import Answer, Slots

log = logging.getLogger("stream_ft.serve.challenger")

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
"""A version that could not be loaded is tried again after 1, 2, 4 ... 60 s."""


def pause_s(failures: int) -> float:
    """How long to wait after so many failed attempts in a row."""
    return min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A wanted version could not be loaded."""

    epoch: int
    """-1 for a challenger."""
    step: str
    reason: str


class OvertakenError(Exception):
    """While a version was prepared, the control log came to want another one."""


class Challenger:
    """Keeps the challenger's slot as the control log wants it. Every call is on the follower's thread.

    Args:
        load: verifies, prepares and checks a version and puts it into the challenger's slot.
    """

    def __init__(
        self,
        *,
        slots: Slots,
        batcher: Batcher[Answer],
        load: Callable[[Listed], Failure | None],
        metrics: ServeMetrics,
        clock: Clock,
    ) -> None:
        self._slots = slots
        self._batcher = batcher
        self._load = load
        self._metrics = metrics
        self._clock = clock
        self._wanted = ""
        self._failures = 0
        self._retry_at = 0.0
        self.failure: Failure | None = None
        """Why the challenger is not on trial, if it could not be loaded."""

    def withdraw(self, state: State) -> bool:
        """Empty the slot at once if the trial is over; true if something changed."""
        wanted = "" if state.trial is None else state.trial.version
        if self._wanted != wanted:
            self._wanted, self._failures, self._retry_at, self.failure = wanted, 0, 0.0, None
        challenger = self._slots.challenger
        if challenger is None or challenger.name == wanted:
            return False
        with suppress(CancelledError):  # the process is ending
            self._batcher.between(lambda: self._slots.challenge(None)).result()
        self._metrics.challenger_ready.set(0)
        log.info("%s is on trial no more", challenger.name, extra=decision("trial_ended", version=challenger.name))
        return True

    def pursue(self, state: State) -> bool:
        """Load the challenger if it is not there yet; true if it was tried."""
        trial, challenger = state.trial, self._slots.challenger
        if trial is None or self._slots.current is None or (challenger and challenger.name == trial.version):
            return False
        now = self._clock.monotonic()
        if now < self._retry_at:
            return False
        self.failure = self._load(Listed(name=trial.version, epoch=-1, base=trial.base, start_head=trial.start_head))
        if self.failure is None:
            self._failures = 0
            self._metrics.challenger_ready.set(1)
            told = decision("trial", version=trial.version, base=trial.base, kind=trial.kind, share=trial.share)
            log.info("%s is on trial: %s of %g", trial.version, trial.kind, trial.share, extra=told)
        else:
            self._failures += 1
            self._retry_at = now + pause_s(self._failures)
            self._metrics.challenger_failed(self.failure.step)
            log.error("%s cannot be loaded (%s): %s", trial.version, self.failure.step, self.failure.reason)
        return True
