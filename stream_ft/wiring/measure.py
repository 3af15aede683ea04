"""CPU time and memory of this process and everything it started."""

from __future__ import annotations

import resource
import threading
import time

import psutil

EVERY_S = 0.2


class Meter:
    """Measures from ``with`` to its end.

    Attributes:
        cpu_s: CPU seconds of this process and of its children that have ended, without what measuring took.
        wall_s: wall-clock seconds.
        peak_rss_mb: highest sum of resident sizes over all processes at one time, sampled five times a second. Pages
            that processes share count in each.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self.peak_rss_mb = 0.0
        self._own = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._process = psutil.Process()

    def __enter__(self) -> Meter:
        self._cpu, self._wall = cpu_seconds(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu_s = cpu_seconds() - self._cpu - self._own
        self.wall_s = time.monotonic() - self._wall

    def _watch(self) -> None:
        while True:
            self.peak_rss_mb = max(self.peak_rss_mb, resident_mb(self._process))
            if self._stop.wait(EVERY_S):
                self._own = time.thread_time()
                return


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that were waited for."""
    parts = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def resident_mb(process: psutil.Process) -> float:
    """Resident size of a process and all its descendants, MB (10^6 bytes)."""
    total = 0
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.Error:  # it ended between the listing and the question
            continue
    return total / 1e6
