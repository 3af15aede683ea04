"""Named points at which a process can be made to kill itself: ``STREAM_FT_FAILPOINT=name:kill`` or ``name:kill:N``.

With ``stop`` for ``kill`` it freezes there (SIGSTOP), until somebody lets it go on. ``N`` (default 1) is the hit at
which it happens. A failpoint that is reached leaves a line in the file named by ``STREAM_FT_FAILPOINT_LOG`` (if set),
so that a test can tell a point that was never reached from one that held.
"""

from __future__ import annotations

import os
import signal

NAMES = (
    "forward.before_send",
    "forward.before_ack",
    "forward.after_ack",
    "ingest.after_poll",
    "store.before_commit",
    "store.after_commit",
    "outbox.before_publish",
    "outbox.after_publish",
    "round.before_train",
    "round.after_step",
    "round.before_result",
    "handover.after_step",
    "release.before_fsync",
    "release.before_rename",
    "release.after_rename",
    "release.before_promote",
    "serve.before_prepare",
    "serve.before_flip",
    "serve.after_flip",
    "serve.before_append",
    "serve.after_append",
    "state.before_rename",
)
"""Every failpoint of the project. ``hit`` refuses other names."""

ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

_hits: dict[str, int] = {}


def hit(name: str) -> None:
    """Pass a failpoint: does nothing unless the environment names it."""
    wanted = os.environ.get("STREAM_FT_FAILPOINT")
    if not wanted:
        return
    if name not in NAMES:
        raise ValueError(f"unknown failpoint {name!r}")
    target, _, action = wanted.partition(":")
    if target != name:
        return
    _hits[name] = _hits.get(name, 0) + 1
    kind, _, count = action.partition(":")
    if kind not in ACTIONS or _hits[name] != int(count or 1):
        return
    if log := os.environ.get("STREAM_FT_FAILPOINT_LOG"):
        with open(log, "a") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
    os.kill(os.getpid(), ACTIONS[kind])
