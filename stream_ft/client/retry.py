"""Another try, or not, and after how long: one deadline for all tries of a call. Pure; the time is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import msgspec

from stream_ft.client.calls import Call
from stream_ft.client.errors import ClientError, CommandRefusedError, DeadlineError, RefusedError, UnavailableError

T = TypeVar("T")

FIRST_WAIT_S = 0.1
"""Longest wait before the second try; it doubles with each further one."""
LONGEST_WAIT_S = 5.0
"""Where the doubling ends."""
LEAST_TRY_S = 0.05
"""A try that would have less time than this is not made."""
LATER = (429, 503)
"""Not taken now, but perhaps later."""
SLOW = 504
"""The server gave up waiting for its own answer, and may have taken what was sent; perhaps it is faster now."""
MOST_SAID = 500
"""Characters of the server's sentence that are passed on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A try that was answered."""

    status: int
    body: bytes
    retry_after: str | None = None
    """The header as it came."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A try that was not answered."""

    detail: str
    timed_out: bool = False
    unsent: bool = False
    """True if the server cannot have seen it."""
    hopeless: bool = False
    """True if another try would end the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done(Generic[T]):
    """The result of the call."""

    value: T


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Try again after this many seconds."""

    seconds: float


class Tries(Generic[T]):
    """The tries of one call.

    Waits grow exponentially with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015), on top of what the server asks for by ``Retry-After``.

    Args:
        call: what is tried.
        where: the server, for messages.
        deadline_s: seconds for all tries and waits together.
        now: monotonic seconds at the start.
        draw: a number from [0, 1), the jitter.
    """

    def __init__(self, call: Call[T], *, where: str, deadline_s: float, now: float, draw: Callable[[], float]) -> None:
        self._call = call
        self._where = where
        self._deadline_s = deadline_s
        self._end = now + deadline_s
        self._draw = draw
        self._made = 0
        self._unsure = False
        self._last: ClientError | None = None

    def left(self, now: float) -> float:
        """Seconds that the next try may take.

        Raises:
            ClientError: none are left; what the last try met.
        """
        left = self._end - now
        if left <= 0:
            raise self._last or self._late()
        return left

    def judge(self, outcome: Answered | Failed, *, now: float, wall: float) -> Done[T] | Wait:
        """What follows from a try.

        Args:
            outcome: of the try.
            now: monotonic seconds.
            wall: seconds since the epoch, for a ``Retry-After`` that is a date.

        Raises:
            RefusedError: the server will not take it.
            UnavailableError: it failed, or another try does not fit the deadline.
            DeadlineError: the time is over, and an answer was still awaited.
        """
        self._made += 1
        if isinstance(outcome, Answered):
            if 200 <= outcome.status < 300:
                return Done(value=self._read(outcome))
            if outcome.status not in (*LATER, SLOW):
                raise self._final(outcome)
            self._unsure = self._unsure or outcome.status == SLOW
            after = retry_after_s(outcome.retry_after, wall)
        else:
            after = 0.0
            self._unsure = self._unsure or not outcome.unsent
        self._last = self._not_now(outcome, after)
        room = self._end - now - after - LEAST_TRY_S
        if room < 0 or (isinstance(outcome, Failed) and outcome.hopeless):
            raise self._last
        step = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._made - 1, 30))
        # A wait that is too long is cut to what leaves time for one last try.
        return Wait(seconds=after + min(step * self._draw(), room))

    def _read(self, answer: Answered) -> T:
        try:
            return self._call.read(answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UnavailableError(
                f"The answer of {self._where} to {self._call.path} cannot be read: {error}.",
                "Does a stream_ft server of this version listen there?",
                status=answer.status,
                ids=self._call.ids,
            ) from error

    def _final(self, answer: Answered) -> ClientError:
        said = sentence(answer)
        if answer.status == 409 and self._call.command:
            return CommandRefusedError(said, ids=self._call.ids)
        if 400 <= answer.status < 500:
            # An earlier try may have been taken all the same.
            return RefusedError(said, self._again(), status=answer.status, ids=self._call.ids)
        self._unsure = True
        message = f"{self._where} answered {answer.status} to {self._call.path}: {said}"
        return UnavailableError(message, self._again(), status=answer.status, ids=self._call.ids)

    def _not_now(self, outcome: Answered | Failed, after: float) -> ClientError:
        """The error if no other try is made."""
        if isinstance(outcome, Answered):
            happened = "did not answer in its own time" if outcome.status == SLOW else "does not take it now"
            return UnavailableError(
                f"{self._where} {happened}: {sentence(outcome)}",
                self._again() or f"Try again{f' in {after:g} s' if after else ' later'}, or give the call more time.",
                status=outcome.status,
                retry_after_s=after,
                ids=self._call.ids,
            )
        if outcome.timed_out:
            return self._late()
        what = f"{self._where} cannot be reached" if outcome.unsent else f"The connection to {self._where} broke"
        message = f"{what}: {outcome.detail.rstrip('.')}."
        return UnavailableError(message, self._again(), ids=self._call.ids)

    def _late(self) -> DeadlineError:
        tries = "" if self._made == 1 else f", in {self._made} tries"
        message = f"{self._where} did not answer {self._call.path} within {self._deadline_s:g} s{tries}."
        return DeadlineError(message, self._again(), ids=self._call.ids)

    def _again(self) -> str:
        if not (self._call.ids and self._unsure):
            return ""
        return "It may have been taken; sent again with the same id it counts once."


def sentence(answer: Answered) -> str:
    """What the server says is wrong: its own sentence, or that there is none."""
    try:
        said = msgspec.json.decode(answer.body, type=dict[str, object]).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = None
    return said[:MOST_SAID] if isinstance(said, str) and said else f"The server answered {answer.status}."


def retry_after_s(header: str | None, wall: float) -> float:
    """Seconds that a ``Retry-After`` asks to wait: it gives them, or a date. 0 if there is none that can be read.

    Args:
        header: as it came.
        wall: seconds since the epoch.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - wall)
    except (ValueError, IndexError, OverflowError):
        return 0.0
