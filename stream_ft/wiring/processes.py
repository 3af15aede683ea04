"""Signals that end a process cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


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
