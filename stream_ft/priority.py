"""Work beside serving gives way to it: by niceness, and by pauses while requests queue."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

NICE = 10
"""Of work beside serving, as of a round: a tenth of the share of a thread that answers, and what that leaves. With less
it could, beside a round, be kept for seconds from a core while it holds a lock of the process."""

SHARE = 0.1
"""Of one core, for work beside serving while requests queue."""

PIECE_S = 0.002
"""Of CPU: what is done between two pauses, if the work lends itself to it."""

AUTOGROUP = Path("/proc/self/autogroup")

log = logging.getLogger("stream_ft.priority")


def give_way() -> None:
    """Let other threads go before the one that calls; for good, as an ordinary user cannot take it back.

    Only Linux has a niceness for each thread; elsewhere nothing happens. Threads that this one starts inherit it.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
    except OSError as error:  # a sandbox may forbid it; versions are then prepared at the cost of those who ask
        log.warning("the thread cannot give way to others: %s", error.strerror)


def be_nice(nice: int) -> None:
    """Let the other processes of this machine go before this one.

    Linux may share the cores among sessions first and among the processes of each then (``sched_autogroup``): a process
    that leads a session of its own says it for that, too, or its niceness means nothing to anybody else's.
    """
    os.nice(nice)
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        try:
            AUTOGROUP.write_text(str(nice), encoding="ascii")
        except OSError as error:  # another kernel, or a sandbox
            log.debug("the session cannot give way to others: %s", error.strerror)


class Pace:
    """Keeps work that is done in pieces to a share of one core for as long as others are pressed.

    Niceness alone is not enough: a piece takes caches and memory from forwards on the other cores, too.

    Args:
        pressed: whether somebody has to wait just now.
        share: of one core, in (0, 1].
        cpu: seconds of CPU that the calling thread has had.
    """

    def __init__(
        self, pressed: Callable[[], bool], *, share: float = SHARE, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._pressed = pressed
        self._share = share
        self._cpu = cpu
        self._since = 0.0

    def begin(self) -> None:
        """What the thread has worked until now is not counted."""
        self._since = self._cpu()

    def pause_s(self) -> float:
        """Seconds to let pass after the piece that was just done; 0 if nobody is pressed, or it was a small one."""
        worked = self._cpu() - self._since
        if worked < PIECE_S:
            return 0.0
        self._since += worked
        return worked * (1.0 / self._share - 1.0) if self._pressed() else 0.0
