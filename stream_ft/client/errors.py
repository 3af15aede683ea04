"""How a call can fail, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ft.errors import StreamFTError


class ClientError(StreamFTError):
    """A call that brought no result.

    Args:
        ids: of the events that were sent, in their order, or of the command. Sent again under the same ids they count
            once, whether or not they had been taken; empty for a call that sends none.
    """

    def __init__(self, message: str, remedy: str = "", *, ids: Sequence[str] = ()) -> None:
        super().__init__(message, remedy)
        self.ids = tuple(ids)


class RefusedError(ClientError):
    """The server read the request and took nothing of it (4xx). The same again will not help.

    Args:
        status: of the HTTP answer; ``None`` if the input could not even be sent.
    """

    def __init__(self, message: str, remedy: str = "", *, status: int | None, ids: Sequence[str] = ()) -> None:
        super().__init__(message, remedy, ids=ids)
        self.status = status


class UnavailableError(ClientError):
    """The server cannot be reached, is overloaded or not ready, or failed; another try would not fit the deadline.

    Args:
        status: of the last HTTP answer; ``None`` if there was none.
        retry_after_s: how long the server said to wait, in seconds; 0 if it did not say.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        status: int | None = None,
        retry_after_s: float = 0.0,
        ids: Sequence[str] = (),
    ) -> None:
        super().__init__(message, remedy, ids=ids)
        self.status = status
        self.retry_after_s = retry_after_s


class DeadlineError(ClientError):
    """The deadline passed while an answer was awaited."""


class CommandRefusedError(ClientError):
    """The command is on the control log, and every replica refuses it; ``message`` is the reason."""
