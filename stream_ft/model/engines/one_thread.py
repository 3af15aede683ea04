"""Which thread runs a forward. Imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OneThread:
    """``with`` it around forwards and flips: a second thread there is a fault, not something to wait for.

    Raises:
        RuntimeError: on entering, when somebody is inside.
    """

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def __enter__(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("activate and encode were called on two threads at once")

    def __exit__(self, *error: object) -> None:
        self._busy.release()


def in_passing(job: Callable[[], T]) -> T:
    """Do it in a thread that ends with it, and return what it returned.

    Every thread that computes with torch keeps OpenMP workers of its own until it ends, and where there are more of
    them than cores, all wait for each other more slowly: forwards of one text take half as long again.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="passing") as executor:
        return executor.submit(job).result()
