"""One thread appends everything this process publishes: predictions in passing, feedback and labels durably.

Concurrent requests share one commit. Predictions go first, so that an acknowledged feedback never lies in the log
without the prediction that it names.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from stream_ft import failpoints
from stream_ft.errors import MessageTooLargeError, StoreFullError, StreamFTError
from stream_ft.ports import EventLog, Outgoing

log = logging.getLogger("stream_ft.serve.appender")

LINGER_S = 0.02
"""Predictions that nobody waits for may wait this long for company."""
MOST = 2_000
"""Predictions in one commit."""
MOST_BYTES = 16 * 2**20
"""Of feedback and labels that wait while a log that is slow takes others; whoever comes then is told at once."""
RETRY_S = 0.5
"""After a failed commit, predictions are tried again after this long."""


class _Group:
    __slots__ = ("future", "loop", "messages", "size")

    def __init__(
        self, messages: Sequence[Outgoing], loop: asyncio.AbstractEventLoop, future: asyncio.Future[list[int]]
    ) -> None:
        self.messages = messages
        self.loop = loop
        self.future = future
        self.size = sum(len(message.value) for message in messages)

    def settle(self, result: list[int] | Exception) -> None:
        def action() -> None:
            if self.future.done():
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        try:
            self.loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop has ended: the append stands, nobody waits for the word
            log.debug("an append was settled after its event loop had ended")


class Appender:
    """Group commits of one process's publications.

    Args:
        log: only the appender's thread writes to it.
        capacity: most predictions that may wait; beyond it they are dropped and counted.
        on_published: called with the number of predictions written.
        on_failed: called when a commit failed.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        capacity: int = 10_000,
        on_published: Callable[[int], None] = lambda count: None,
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._capacity = capacity
        self._on_published = on_published
        self._on_failed = on_failed
        self._passing: deque[Outgoing] = deque()
        self._groups: deque[_Group] = deque()
        self._closed = False
        self._taken = 0
        self._bytes = 0
        self._failing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="appender", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Append what waits, then end the thread. Idempotent."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def publish(self, message: Outgoing) -> bool:
        """Append ``message`` soon, without waiting; false if there is no room and it was dropped."""
        with self._wake:
            if self._closed or len(self._passing) + self._taken >= self._capacity:
                return False
            self._passing.append(message)
            self._wake.notify()
            return True

    async def append(self, messages: Sequence[Outgoing]) -> list[int]:
        """Append durably and return the offsets.

        Raises:
            StoreFullError: nothing was appended; also where too much waits already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()
        group = _Group(messages, loop, future)
        with self._wake:
            if self._closed:
                raise StoreFullError("This server is shutting down.", "Send it again in a few seconds.")
            if self._bytes and self._bytes + group.size > MOST_BYTES:
                raise StoreFullError(
                    f"{self._bytes / 1e6:.0f} MB wait for the log already.", "Send it again in a few seconds."
                )
            self._bytes += group.size
            self._groups.append(group)
            self._wake.notify()
        return await future

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._passing or self._groups or self._closed):
                    self._wake.wait()
                if not self._groups and not self._closed:
                    self._wake.wait_for(lambda: bool(self._groups) or self._closed, LINGER_S)
                passing = [self._passing.popleft() for _ in range(min(MOST, len(self._passing)))]
                groups = list(self._groups)
                self._groups.clear()
                self._bytes = 0
                self._taken = len(passing)
                closing = self._closed
            if not passing and not groups:
                return
            kept = self._commit(passing, groups)
            if kept and closing:
                # The log does not take them and nobody waits for them.
                log.warning("%d predictions were not recorded", len(kept) + len(self._passing))
                return
            with self._wake:
                self._taken = 0
                self._passing.extendleft(reversed(kept))
                if kept:
                    self._wake.wait_for(lambda: bool(self._groups) or self._closed, RETRY_S)

    def _commit(self, passing: list[Outgoing], groups: list[_Group]) -> list[Outgoing]:
        """Append; what is returned are predictions to try again."""
        messages = passing + [message for group in groups for message in group.messages]
        if not messages:
            return []
        failpoints.hit("serve.before_append")
        try:
            offsets = self._log.append(messages)
        except MessageTooLargeError as error:
            self._on_failed()
            return self._without(passing, groups, error)
        except Exception as error:  # the boundary of this thread: whoever waits is told, and the thread goes on
            self._on_failed()
            if not self._failing:  # what is tried twice a second need not be told each time
                log.error("an append failed; it is tried again", exc_info=error)
            self._failing = True
            told = (
                error
                if isinstance(error, StreamFTError)
                else StoreFullError("The log could not be written.", "Send it again in a few seconds.")
            )
            for group in groups:
                group.settle(told)
            return passing
        failpoints.hit("serve.after_append")
        if self._failing:
            log.info("the log takes messages again")
        self._failing = False
        self._on_published(len(passing))
        start = len(passing)
        for group in groups:
            group.settle(offsets[start : start + len(group.messages)])
            start += len(group.messages)
        return []

    def _without(self, passing: list[Outgoing], groups: list[_Group], error: MessageTooLargeError) -> list[Outgoing]:
        """Append the others: a message that the log never takes must not hold them up."""
        index = error.index
        if index < len(passing):
            log.error("a prediction is not recorded: %s %s", error.message, error.remedy)
            return self._commit(passing[:index] + passing[index + 1 :], groups)
        index -= len(passing)
        for place, group in enumerate(groups):
            if index < len(group.messages):
                group.settle(error)
                return self._commit(passing, groups[:place] + groups[place + 1 :])
            index -= len(group.messages)
        raise error
