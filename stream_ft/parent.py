"""Children that do not outlive the process that started them."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_S = 3.0
"""How long a process may take to end by itself once its parent is gone; whatever it does, a kill does no harm."""
SUPERVISED = "STREAM_FT_SUPERVISED"
"""Set for a child whose standard input is a pipe that its parent holds: the end of that pipe is the parent's end."""


def follow_parent() -> None:
    """End this process when the parent that supervises it is gone, however it went: by SIGTERM, then by SIGKILL.

    What holds it up (a model that is being loaded, a long pass) must not keep its locks from whoever comes next.
    """
    if os.environ.get(SUPERVISED) != "1":
        return

    def wait() -> None:
        # Not sys.stdin: a thread that waits inside its buffer makes the interpreter's end fail.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
