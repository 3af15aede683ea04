"""Starts a round as a subprocess, watches its time and memory, and brings its result home."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import msgspec
import psutil
from msgspec import Struct

from stream_ft.errors import StoreFullError
from stream_ft.events import Example
from stream_ft.learn.job import Job, Result
from stream_ft.memory import give_back
from stream_ft.parent import SUPERVISED

Limit = Literal["", "time", "memory"]
GRACE_S = 20.0
"""A round ends itself on its own budget; after this much more it is killed."""
POLL_S = 0.02
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}
"""For glibc, where nothing else was set: one heap, whose freed end goes back to the system, and large tensors outside
of it. Left to itself it learns from the largest tensor to keep everything. Lower values save more and cost CPU."""


class Outcome(Struct, frozen=True, kw_only=True):
    """A round that ended: its result, or why there is none."""

    job: Job
    folder: Path
    result: Result | None
    reason: str = ""
    cpu_s: float = 0.0
    """Used by the process, whether it ended by itself, died or was killed."""
    seconds: float = 0.0
    """Since its start."""
    broke: Limit = ""
    """The limit for which it was killed."""


class RoundProcess:
    """One round in a subprocess.

    Args:
        folder: the job's folder; what was there is removed.
        job: what to do.
        train, evaluate: examples, written to the folder.
        memory_mb: the process is killed beyond this resident size.
        seconds: wall-clock limit, or ``None`` where steps bound the round (simulation).

    Raises:
        StoreFullError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        train: list[Example],
        evaluate: list[Example],
        *,
        memory_mb: int,
        seconds: float | None,
    ) -> None:
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, rows in (("train.jsonl", train), ("evaluate.jsonl", evaluate)):
                (folder / name).write_bytes(msgspec.json.Encoder().encode_lines(rows))
            (folder / "job.json").write_bytes(msgspec.json.encode(job))
            self._log = (folder / "log.txt").open("wb")
        except OSError as error:
            raise StoreFullError(
                f"The folder of a round {folder} cannot be written: {error.strerror}.",
                "Make room on its disk and check its permissions.",
            ) from error
        self.folder = folder
        self.job = job
        self.train_examples = len(train)
        self._memory = memory_mb * 2**20
        self._seconds = seconds
        threads = str(job.threads)
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads
        )
        environment[SUPERVISED] = "1"
        environment = ALLOCATOR | environment
        give_back()  # what this process has freed, the round may need
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream_ft.learn.round", str(folder)],
            stdin=subprocess.PIPE,  # its end tells the round that the learner is gone
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C meant for the parent is the parent's to handle
        )
        self._started = time.monotonic()
        self._cpu_s = 0.0
        self.pid = self._process.pid

    def poll(self) -> Outcome | None:
        """The outcome once the process has ended or was killed for its budget; ``None`` while it runs."""
        if not self._ended():
            broke, why = self._over_budget()
            if not broke:
                return None
            self.kill()
            return Outcome(
                job=self.job,
                folder=self.folder,
                result=None,
                reason=why,
                cpu_s=self._cpu_s,
                seconds=self.elapsed_s,
                broke=broke,
            )
        return self._collect()

    @property
    def elapsed_s(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self._started

    def wait(self) -> Outcome:
        """Block until the outcome is there."""
        while (outcome := self.poll()) is None:
            time.sleep(POLL_S)
        return outcome

    def kill(self) -> None:
        """End the process now, with whatever it started."""
        if not self._ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._ended(block=True)
        self._close()

    def _ended(self, *, block: bool = False) -> bool:
        """Whether the process is over; notes what it used, which only the one who waits for it is told."""
        if self._process.returncode is None:
            try:
                pid, status, usage = os.wait4(self.pid, 0 if block else os.WNOHANG)
            except ChildProcessError:  # something else in this process has waited for it
                return self._process.poll() is not None
            if pid == 0:
                return False
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._cpu_s = usage.ru_utime + usage.ru_stime
        return True

    def _over_budget(self) -> tuple[Limit, str]:
        elapsed = self.elapsed_s
        if self._seconds is not None and elapsed > self._seconds + GRACE_S:
            return "time", f"The round was killed after {elapsed:.0f} s; its limit is {self._seconds:.0f} s."
        try:
            resident = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return "", ""
        if resident > self._memory:
            return "memory", f"The round was killed at {resident >> 20} MB; its limit is {self._memory >> 20} MB."
        return "", ""

    def _close(self) -> None:
        self._log.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _collect(self) -> Outcome:
        self._close()
        code = self._process.returncode
        path = self.folder / "result.json"
        if not path.exists():
            return Outcome(
                job=self.job,
                folder=self.folder,
                result=None,
                reason=f"The round ended with code {code} and no result.",
                cpu_s=self._cpu_s,
                seconds=self.elapsed_s,
            )
        result = msgspec.json.decode(path.read_bytes(), type=Result)
        return Outcome(
            job=self.job,
            folder=self.folder,
            result=result if result.ok else None,
            reason="" if result.ok else result.reason,
            cpu_s=max(self._cpu_s, result.cpu_s),
            seconds=self.elapsed_s,
        )
