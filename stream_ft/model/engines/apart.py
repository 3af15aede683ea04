"""Threads that help with a forward stay off the core of the thread that they help.

A helper that sleeps between two forwards is woken by the thread that needs it, and Linux may put it on that very core
although another is idle. The two then take turns where they should run at once, and while one waits busily for the
other, neither gets on: a forward on two threads takes longer than on one. Once it runs elsewhere it stays there, so it
shows with requests that come one by one, and not back to back.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

TASKS = Path("/proc/self/task")
SHEDDING, SHED_S = 5, 0.01
"""How often, and after how long, it is looked again which threads are still there that should not be."""

log = logging.getLogger("stream_ft.model.engines")


class Apart:
    """Keeps helpers off the core of whoever calls it, on all others that the process may use.

    Args:
        helpers: native ids of threads, which live as long as this object is called.
    """

    def __init__(self, helpers: Sequence[int]) -> None:
        self._helpers = tuple(helpers)
        self._core = -1
        self._getcpu: Callable[[], int] | None = _getcpu() if helpers else None

    def __call__(self) -> None:
        """Before a forward: costs a tenth of a microsecond, and some when the core is another one than last time."""
        if self._getcpu is None or (core := self._getcpu()) == self._core:
            return
        self._core = core
        try:
            others = os.sched_getaffinity(0) - {core}
            for helper in self._helpers if others else ():
                os.sched_setaffinity(helper, others)
        except OSError as error:  # a sandbox may forbid it; forwards are then as fast as the system makes them
            log.warning("threads of forwards cannot be kept apart: %s", error.strerror)
            self._getcpu = None


def _getcpu() -> Callable[[], int] | None:
    # PyDLL keeps the interpreter's lock: to give it up for so short a call would invite another thread to take it.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


def with_helpers(start: Callable[[], T], count: int) -> tuple[T, Apart]:
    """What ``start`` gives, and a way to keep the threads apart that it has started.

    Args:
        start: starts ``count`` threads that are none of Python's.
        count: if others are found and stay, because somebody else started some meanwhile, all are left alone.
    """
    before = _native()
    started = start()
    new = _native() - before
    for _ in range(SHEDDING):
        if len(new) <= count:
            break
        time.sleep(SHED_S)  # one of Python's that had just begun is known by then, a short one has ended
        new &= _native()
    if sys.platform == "linux" and len(new) != count:
        log.info("threads of forwards are left where they are: %d are new, of %d", len(new), count)
    return started, Apart(sorted(new) if len(new) == count else ())


def _native() -> set[int]:
    """Ids of this process' threads that Python does not know; none where they cannot be told."""
    if sys.platform != "linux":
        return set()
    try:
        every = {int(task.name) for task in TASKS.iterdir()}
    except OSError:
        return set()
    known: set[Any] = {thread.native_id for thread in threading.enumerate()}
    return every - known
