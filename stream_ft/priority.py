"""Threads that give way to those which answer."""

from __future__ import annotations

import logging
import os
import sys
import threading

NICE = 19
"""Of work beside serving: a seventieth of the share of a thread that answers, and all of what that leaves."""

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
