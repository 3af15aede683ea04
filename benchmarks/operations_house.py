"""The system that is watched, and the faults that are made in it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil

from stream_ft import control
from stream_ft.connectors.local import LocalLog
from stream_ft.parent import SUPERVISED
from stream_ft.ports import Outgoing
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.topics import topic

MODEL = "default"
START_S = 120.0


class Process:
    """A process of the program, on a state folder.

    Args:
        role: ``up`` or ``serve``.
        state: its folder.
        log: file of what it says.
        settings: ``STREAM_FT_*`` without the prefix.
    """

    def __init__(self, role: str, state: Path, log: Path, **settings: str) -> None:
        self.state, self.port = state, int(settings["SERVE__PORT"])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_FT_")}
        environment |= {f"STREAM_FT_{name}": value for name, value in settings.items()}
        environment |= {"STREAM_FT_STATE_DIR": str(state), SUPERVISED: "1"}
        self.environment = environment
        self._log = log.open("wb")
        self._log_path = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stream_ft", role], stdin=subprocess.PIPE, stdout=self._log,
            stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip

    def wait(self, path: str, status: int = 200) -> None:
        """Until it answers with this status."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=2, trust_env=False).status_code == status:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        sys.exit(f"a process did not start: {self._log_path.read_text('utf-8', 'replace')[-2000:]}")

    def control(self, *arguments: str) -> None:
        """A command of an operator, by the command line; the run ends if it is refused."""
        done = subprocess.run(
            [sys.executable, "-m", "stream_ft", "control", *arguments],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"stream-ft control {' '.join(arguments)}: {done.stderr or done.stdout}")

    def round(self) -> psutil.Process | None:
        """The process of the round that runs."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "stream_ft.learn.round" in child.cmdline():
                    return child
            except psutil.Error:
                continue
        return None

    def folded(self) -> State:
        """The control log as it is now."""
        log, state = LocalLog(self.state, writes=()), INITIAL
        try:
            for record in log.read(topic(MODEL, "control"), 0, 0, 100_000):
                state, _ = fold(state, Entry(offset=record.offset, appended_at=record.appended_at, value=record.value))
        finally:
            log.close()
        return state

    def append(self, message: control.Message) -> None:
        """A message on the control log, unchecked, as one from another machine is."""
        log = LocalLog(self.state, writes=())
        try:
            log.append([Outgoing(topic=topic(MODEL, "control"), value=msgspec.json.encode(message))])
        finally:
            log.close()

    def stop(self) -> None:
        """End it, and what it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._log.close()


class Others:
    """How many cores programs that are not of this run take meanwhile: what they take, answers wait for."""

    def __init__(self) -> None:
        self._begun, self._busy, self._ours = time.monotonic(), _busy_s(), _ours_s()

    def cores(self) -> float:
        """Since it was made, on average."""
        busy, ours = _busy_s() - self._busy, _ours_s() - self._ours
        return max(0.0, busy - ours) / (time.monotonic() - self._begun)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _ours_s() -> float:
    """CPU seconds of this process and all below it, those that have ended included."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue  # it has just ended, and its parent has its time
    return total


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Nobody else can write this file, as under a backup program that locks it."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def damaged(file: Path) -> Iterator[None]:
    """One bit of a file is another."""
    data = file.read_bytes()
    mode = file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    try:
        yield
    finally:
        file.write_bytes(data)
        file.chmod(mode)


@contextmanager
def filled(folder: Path, share: float) -> Iterator[None]:
    """Of the folder's disk only so much is free."""
    ballast = folder / "ballast"
    disk = os.statvfs(folder)
    size = disk.f_bavail * disk.f_frsize - int(share * disk.f_blocks * disk.f_frsize)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size))
    try:
        yield
    finally:
        ballast.unlink()


def mount(folder: Path, megabytes: int) -> bool:
    """Make a disk of its own of a folder; false where that is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def foreign_genesis(state: Path) -> None:
    """A control log whose only release is nowhere to be had."""
    state.mkdir()
    message = control.new(
        control.Genesis, by="operator/genesis", now=time.time(), log_id="elsewhere", base="f" * 64, start_head="f" * 64
    )
    log = LocalLog(state, writes=())
    try:
        log.append([Outgoing(topic=topic(MODEL, "control"), value=msgspec.json.encode(message))])
    finally:
        log.close()
