"""Errors meant for a person: one sentence that says what is wrong, one that says what to do.

Bad *events* are never exceptions: they are :class:`stream_ft.events.Reject` values. What is here stops an
operation (a swap, a command, a start), and the command line prints ``message`` and ``remedy`` without a traceback.
"""

from __future__ import annotations


class StreamFTError(Exception):
    """Base of every error that a user may see.

    Args:
        message: what is wrong, one sentence.
        remedy: what the reader can do about it; empty if nothing is known to help.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(StreamFTError):
    """A setting, flag or file name that cannot be used."""


class ModelNotFoundError(StreamFTError):
    """The base model is not on this machine and cannot be fetched."""


class LogTruncatedError(StreamFTError):
    """A reader asked for an offset that retention has already removed, or the log was replaced."""


class ArtifactError(StreamFTError):
    """An adapter folder failed a check.

    ``step`` names the check: ``missing``, ``hash``, ``manifest``, ``keys``, ``shapes``, ``dtypes``, ``base``,
    ``labels``, ``finite``, ``golden``.
    """

    def __init__(self, step: str, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.step = step


class AlreadyRunningError(StreamFTError):
    """Another process holds the lock of this state folder, or the port."""


class StoreFullError(StreamFTError):
    """The store could not write: disk full or I/O error. Consumption pauses until it can."""


class LogAwayError(StoreFullError):
    """No broker answered in time. What was to be appended may be on the log or not: repeat it with the same ids."""


class MessageTooLargeError(StreamFTError):
    """A message exceeds what the log takes. Nothing of the call was appended.

    Args:
        index: of the message in the call.
    """

    def __init__(self, message: str, remedy: str = "", *, index: int) -> None:
        super().__init__(message, remedy)
        self.index = index
