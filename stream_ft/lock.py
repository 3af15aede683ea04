"""One process at a time on a state folder, by ``flock``: a process that is killed leaves its lock free."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from stream_ft.errors import AlreadyRunningError, ConfigError

_ATTEMPTS = 10


class FolderLock:
    """An exclusive lock on the file ``path``; the file stays when the lock is released.

    Args:
        path: the lock file; its folder is created.
        what: who holds it, for the message: ``"stream-ft serve"``.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock without waiting; harmless when this object already holds it.

        Raises:
            AlreadyRunningError: another process (or another lock object of this one) holds it.
            ConfigError: the file cannot be written, or its file system knows no locks.
        """
        if self._fd is not None:
            return
        for _ in range(_ATTEMPTS):
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(fd):
                    _write_pid(fd)
                    self._fd = fd
                    return
            except BlockingIOError as error:
                raise self._held_elsewhere(fd) from error
            except OSError as error:
                raise ConfigError(
                    f"{self._path} cannot be locked: {error.strerror}.", "Put the state folder on a local disk."
                ) from error
            finally:
                if self._fd is None:
                    os.close(fd)
        raise ConfigError(
            f"{self._path} was replaced again and again while it was being locked.", "Leave the state folder alone."
        )

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.ftruncate(fd, 0)  # a later holder that is asked for its pid must not show ours
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough while a child that was just forked has the file too
        finally:
            os.close(fd)

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno == errno.EEXIST:
                reason = f"{self._path.parent} is not a folder"
            else:
                reason = error.strerror or str(error)
            raise ConfigError(
                f"The lock {self._path} cannot be opened: {reason}.",
                "Choose another state_dir, or mend its permissions.",
            ) from error

    def _is_current(self, fd: int) -> bool:
        """False if the file was removed between opening and locking: such a lock would exclude nobody."""
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _held_elsewhere(self, fd: int) -> AlreadyRunningError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        holder = f"process {pid}" if pid.isdigit() else "another process"
        return AlreadyRunningError(
            f"{self._what} is already running on {self._path.parent}: {holder} holds it.",
            f"Stop {holder}, or give this one another state_dir.",
        )


def _write_pid(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
