"""Memory that is free inside this process, and not yet outside of it."""

from __future__ import annotations

import ctypes
import gc
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc, ``malloc.h``."""
MOST_MAPPED = 32 * 2**20
"""Bytes from which on memory comes from the system and goes back when it is freed; glibc takes no more."""
MOST_KEPT = 256 * 2**20
"""Bytes that are kept at the end of the heap: more than a version of a small encoder leaves there."""


def give_back() -> bool:
    """Hand the pages that the C allocator keeps for later back to the system; True if there were any.

    glibc keeps what many tensors of many sizes have left behind: a process that has encoded a few thousand texts may
    hold a third more than it uses. Costs some milliseconds, so it belongs between two stages of work, not inside one.
    Does nothing where the allocator is another one.
    """
    if sys.platform != "linux":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def settle() -> None:
    """Take every object that is there now out of all later searches for garbage.

    Python looks for garbage while every thread waits, from time to time among all objects there are; imported libraries
    leave so many that it takes a third of a second. They live as long as the process: to be called once, when it is
    ready to answer.

    And keep what is freed from now on, until :func:`give_back`, for what is allocated next: a version takes as much as
    the one that made room for it, and pages that come anew from the system cost more than what is computed in them.
    """
    gc.collect()
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MOST_MAPPED)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
