"""`stream-ft up`: the serving and the learner process under one supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_ft.config import Settings, flatten
from stream_ft.errors import AlreadyRunningError
from stream_ft.lock import FolderLock
from stream_ft.parent import GRACE_S, SUPERVISED, follow_parent
from stream_ft.wiring.processes import StopSignal, stop_s

ROLES = ("serve", "learn")
STEADY_S = 60.0
"""A child that ran this long and then died is started again at once."""
MOST_RESTARTS = 5
PREDECESSORS_S = GRACE_S + 2.0
"""Children of an ``up`` that was killed end in this time."""


def run(settings: Settings) -> int:
    """Run both processes until a signal comes; start one again that dies. Returns the exit code.

    Raises:
        AlreadyRunningError: another ``up`` works on this state folder.
    """
    state = settings.state_path()
    state.mkdir(parents=True, exist_ok=True)
    stop = StopSignal()
    stop.install()
    follow_parent()
    with FolderLock(state / "up.lock", "stream-ft up"):
        await_predecessors(state, stop.event.wait)
        return _Supervisor(settings, state, stop).run()


def await_predecessors(
    state: Path, wait: Callable[[float], bool], *, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """Give processes that an ``up`` before left behind the time to end; who lives on is left to the child's error.

    Args:
        state: the state folder.
        wait: lets so many seconds pass; true if this process is to end.
        monotonic: time.
    """
    deadline = monotonic() + PREDECESSORS_S
    for role in ROLES:
        told = False
        while (holder := _holder(state, role)) is not None and monotonic() < deadline:
            if not told:
                print(f"stream-ft up: waiting for the end of one before. {holder.message}", file=sys.stderr, flush=True)
                told = True
            if wait(0.1):
                return


def _holder(state: Path, role: str) -> AlreadyRunningError | None:
    try:
        with FolderLock(state / f"{role}.lock", f"stream-ft {role}"):
            return None
    except AlreadyRunningError as error:
        return error


def environment(settings: Settings) -> dict[str, str]:
    """The environment in which a child resolves exactly these settings."""
    return os.environ | {
        "STREAM_FT_" + name.replace(".", "__").upper(): _text(value)
        for name, value in flatten(settings.model_dump()).items()
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Child:
    """One role's process, started again when it dies.

    Args:
        role: ``serve`` or ``learn``.
        env: environment of the process.
    """

    def __init__(self, role: str, env: dict[str, str]) -> None:
        self.role = role
        self._env = env
        self._failures = 0
        self._again_at: float | None = None
        self._start()

    def _start(self) -> None:
        self._again_at = None
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_ft", self.role], stdin=subprocess.PIPE, env=self._env, start_new_session=True
        )

    def watch(self) -> int | None:
        """Start the process again if it died; its exit code once there is no use in that."""
        code = self.process.poll()
        if code is None:
            return None
        now = time.monotonic()
        if self._again_at is None:
            self._close_pipe()
            # A clear error (exit 1 or 2) said what is wrong: trying again says it again.
            if code in (1, 2) and now - self._started < STEADY_S:
                return code
            self._failures = self._failures + 1 if now - self._started < STEADY_S else 0
            if self._failures > MOST_RESTARTS:
                return 1
            wait = 0.0 if self._failures <= 1 else 2.0 ** (self._failures - 1)
            print(
                f"stream-ft up: {self.role} ended with code {code}; starting it again in {wait:.0f} s.", file=sys.stderr
            )
            self._again_at = now + wait
        if now >= self._again_at:
            self._start()
        return None

    def stop(self) -> None:
        """Ask it to end."""
        if self.process.poll() is None:
            self.process.terminate()

    def join(self, deadline: float) -> None:
        """Wait for its end; kill it at the deadline."""
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"stream-ft up: {self.role} did not end in time and is killed.", file=sys.stderr)
            self.process.kill()
            self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()


class _Supervisor:
    def __init__(self, settings: Settings, state: Path, stop: StopSignal) -> None:
        self._env = environment(settings) | {SUPERVISED: "1"}
        self._stop_s = stop_s(settings)  # a child that has not ended this long after SIGTERM is killed
        self._state = state
        self._stop = stop

    def run(self) -> int:
        children = [_Child(role, self._env) for role in ROLES]
        code = 0
        try:
            while not self._stop.event.wait(0.2):
                codes = [child.watch() for child in children]
                ended = [code for code in codes if code is not None]
                if ended:
                    code = ended[0]
                    break
        finally:
            for child in children:
                child.stop()
            deadline = time.monotonic() + self._stop_s
            for child in children:
                child.join(deadline)
        return self._stop.exit_code or code
