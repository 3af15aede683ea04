"""Signals, and children that do not outlive the process that started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

SUPERVISED = "STREAM_FT_SUPERVISED"
"""Set for a child whose standard input is a pipe that its parent holds: the end of that pipe is the parent's end."""


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


def follow_parent() -> None:
    """Send this process a SIGTERM when the parent that supervises it is gone, however it went."""
    if os.environ.get(SUPERVISED) != "1":
        return

    def wait() -> None:
        while sys.stdin is not None and sys.stdin.buffer.read(4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
