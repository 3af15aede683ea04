"""Signals that end a process cleanly."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from types import FrameType

from stream_ft.config import Settings

MARGIN_S = 2
"""Beyond its deadline, for an answer to be sent."""
AFTER_S = 8
"""For what a server still does once the last request is answered: what was said is appended."""
LEAST_STOP_S = 20


class StopSignal:
    """Remembers the first SIGTERM or SIGINT.

    Args:
        on_stop: called from the signal handler, in the main thread.
    """

    def __init__(self, on_stop: Callable[[], None] = lambda: None) -> None:
        self.number = 0
        self.event = threading.Event()
        self._on_stop = on_stop

    def install(self) -> None:
        """Handle both signals from now on; only in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after SIGINT, else 0."""
        return 128 + self.number if self.number else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
        self.event.set()
        self._on_stop()


def drain_s(settings: Settings) -> int:
    """Seconds that requests may take that are under way when a server is told to end: no fewer than their deadline."""
    return math.ceil(settings.serve.deadline_s) + MARGIN_S


def stop_s(settings: Settings) -> int:
    """Seconds after which whoever supervises a process may kill it that was told to end."""
    return max(LEAST_STOP_S, drain_s(settings) + AFTER_S)
