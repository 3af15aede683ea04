"""Children that do not outlive the process that started them."""

from __future__ import annotations

import os
import signal
import threading

SUPERVISED = "STREAM_FT_SUPERVISED"
"""Set for a child whose standard input is a pipe that its parent holds: the end of that pipe is the parent's end."""


def follow_parent() -> None:
    """Send this process a SIGTERM when the parent that supervises it is gone, however it went."""
    if os.environ.get(SUPERVISED) != "1":
        return

    def wait() -> None:
        # Not sys.stdin: a thread that waits inside its buffer makes the interpreter's end fail.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
