"""Dynamic batching: requests wait in a bounded queue, one thread runs the forwards.

A batch is what waits when the thread becomes free, up to ``max_batch`` inputs; an idle thread never waits for company.
A request is never split: all its inputs are answered by one version, the one that is in its slot when its batch is
formed. A batch has one slot, that of the request that has waited longest; so nobody starves, and nothing is cut while
all requests have the same slot. Jobs given to :meth:`Batcher.between` run on the same thread between two batches; that
is where versions flip. Jobs given to :meth:`Batcher.idle` run on it only while nothing else waits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, Generic, TypeVar

from stream_ft.errors import StreamFTError
from stream_ft.serve.slots import Slot

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("stream_ft.serve.batcher")

MOST_IDLE = 16
"""Idle jobs that may wait."""
RECENT = 32
"""Batches that tell what an input costs."""
ENOUGH = 4
"""Batches of about the same size, from which on they tell what such a one takes."""
DEAREST = 0.9
"""Quantile of their times: several that follow one another are to end in time, and not only in half of the cases."""
CHEAPEST = 0.1
"""Share of all inputs by which the cost of a batch is told whose size has not been seen."""
WITHIN = 0.8
"""Of the longest wait: the rest is for what forwards do not tell, as an event loop and a machine with much to do."""


class QueueFullError(StreamFTError):
    """Too many inputs wait already: the caller should come back later (429)."""


class ClosedError(StreamFTError):
    """The process is ending (503)."""


class DeadlineError(StreamFTError):
    """The request waited longer than its deadline (504)."""


class ForwardError(StreamFTError):
    """The forward failed for this request (500); the thread goes on."""


def wait_s(batches: Sequence[tuple[int, float]], *, running: int, waiting: int, joining: int, largest: int) -> float:
    """Seconds until a request that comes now has its answer, as far as recent ``batches`` tell.

    Under a lasting load there have been batches about as large as the next one, and what those took is a careful
    estimate for it and for each that follows. Where there have been none, a batch that the machine held up, or one of a
    single input, says little of it: what waits is taken together, at less an input than each alone. Then only what
    waits already counts, by the cheapest tenth of the inputs; anything more would refuse requests that are answered in
    milliseconds, and a model whose forwards take as long for many inputs as for one would never be shown many.

    Args:
        batches: ``(inputs, seconds)`` of recent forwards.
        running: inputs in the forward that runs now.
        waiting: inputs that wait.
        joining: inputs of the request.
        largest: most inputs in a forward.
    """
    joined = waiting + min(joining, largest)  # beyond one forward it is the request's own work, not a wait
    one = _took(batches, min(joined, largest))
    if one is None:
        return waiting * _cheapest(batches)
    now = _took(batches, min(running, largest)) if running else 0.0
    if now is None:
        now = min(running, largest) * _cheapest(batches)
    return now * math.ceil(running / largest) + one * math.ceil(joined / largest)


def _took(batches: Sequence[tuple[int, float]], size: int) -> float | None:
    """Seconds of a forward of ``size`` inputs; ``None`` if too few of about that size have been seen."""
    alike = sorted(
        seconds * max(1.0, size / inputs) for inputs, seconds in batches if size < 2 * inputs and inputs <= 2 * size
    )
    return alike[int(DEAREST * (len(alike) - 1))] if len(alike) >= ENOUGH else None


def _cheapest(batches: Sequence[tuple[int, float]]) -> float:
    """Seconds of an input, by the cheapest tenth of them."""
    costs = sorted((seconds / inputs, inputs) for inputs, seconds in batches)
    left = CHEAPEST * sum(inputs for _, inputs in costs)
    for cost, inputs in costs:
        left -= inputs
        if left <= 0:
            return cost
    return 0.0


class _Request(Generic[T]):
    __slots__ = ("deadline", "future", "loop", "slot", "texts")

    def __init__(
        self,
        texts: Sequence[str],
        slot: Slot,
        deadline: float,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[list[T]],
    ) -> None:
        self.texts = texts
        self.slot = slot
        self.deadline = deadline
        self.loop = loop
        self.future = future

    def fail(self, error: Exception) -> None:
        _call(self.loop, lambda: None if self.future.done() else self.future.set_exception(error))


def _resolve(answered: Sequence[tuple[_Request[T], list[T]]]) -> None:
    """Give each request its answers, waking each event loop once: one that is woken takes the interpreter, and would do
    so between any two answers."""
    for loop in {request.loop for request, _ in answered}:
        mine = [(request.future, answers) for request, answers in answered if request.loop is loop]

        def resolve(mine: list[tuple[asyncio.Future[list[T]], list[T]]] = mine) -> None:
            for future, answers in mine:
                if not future.done():
                    future.set_result(answers)

        _call(loop, resolve)


def _call(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(action)
    except RuntimeError:  # the loop has been closed: nobody waits for this answer any more
        log.debug("an answer came after its event loop had ended")


class Batcher(Generic[T]):
    """One forward thread behind a bounded queue.

    Args:
        forward: ``texts -> answers`` of the champion, one each, in order; runs on the forward thread only.
        challenger: the same for requests of the slot ``challenger``; without it, or if it fails, the champion answers
            them.
        max_batch: most inputs in one call of ``forward`` (a larger request is cut into several calls, which follow one
            another without a flip between them).
        queue: most inputs that wait; a request larger than this is admitted only when nothing waits.
        deadline_s: seconds after which a request is given up.
        max_wait_s: a request whose answer would probably take longer than :data:`WITHIN` of this is refused at once, so
            that latency stays bounded and an overload ends with its cause; one that finds nothing before it is always
            admitted.
        on_batch: called with the inputs in each forward.
        on_queue: called with the inputs that wait, whenever that changes.
        on_wait: called with the seconds that a request waited for its batch.
        on_forward: called with the seconds of each forward.
    """

    def __init__(
        self,
        forward: Callable[[list[str]], list[T]],
        *,
        challenger: Callable[[list[str]], list[T]] | None = None,
        max_batch: int = 32,
        queue: int = 256,
        deadline_s: float = 10.0,
        max_wait_s: float = math.inf,
        on_batch: Callable[[int], None] = lambda size: None,
        on_queue: Callable[[int], None] = lambda size: None,
        on_wait: Callable[[float], None] = lambda seconds: None,
        on_forward: Callable[[float], None] = lambda seconds: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forwards: dict[Slot, Callable[[list[str]], list[T]]] = {
            "champion": forward,
            "challenger": challenger or forward,
        }
        self._max_batch = max_batch
        self._limit = queue
        self._deadline_s = deadline_s
        self._max_wait_s = max_wait_s
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._pressed_at = -math.inf
        self._on_batch = on_batch
        self._on_queue = on_queue
        self._on_wait = on_wait
        self._on_forward = on_forward
        self._monotonic = monotonic
        self._requests: deque[_Request[T]] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._idle: deque[Callable[[], object]] = deque()
        self._waiting = 0
        self._closed = False
        self._running = 0
        self._free_since = monotonic()
        """When the forward thread last had nothing to do or ended a forward: to hand out answers takes time, too."""
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)

    def start(self) -> None:
        """Start the forward thread."""
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Answer what waits, then end the thread. Requests that come later are refused. Idempotent."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    @property
    def waiting(self) -> int:
        """Inputs that wait for a forward."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """True while the forward thread runs."""
        return self._thread.is_alive()

    async def submit(self, texts: Sequence[str], slot: Slot = "champion") -> list[T]:
        """Answers to ``texts``, in order, all of one version.

        Raises:
            QueueFullError: the queue has no room.
            ClosedError: the batcher is closed.
            DeadlineError: no answer within the deadline.
            StreamFTError: what ``forward`` raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[T]] = loop.create_future()
        request = _Request(texts, slot, self._monotonic() + self._deadline_s, loop, future)
        with self._wake:
            if self._closed:
                raise ClosedError("This server is shutting down.", "Send the request to another replica.")
            if self._waiting and self._waiting + len(texts) > self._limit:
                raise QueueFullError(
                    f"{self._waiting} inputs wait already; at most {self._limit} may.", "Try again in a second."
                )
            busy = self._waiting or self._running
            if busy and (about_s := self._wait_s(len(texts))) > WITHIN * self._max_wait_s:
                raise QueueFullError(
                    f"{self._waiting + self._running} inputs come before: an answer would take about {about_s:.1f} s.",
                    "Try again in a second.",
                )
            if busy:
                self._pressed_at = self._monotonic()
            self._requests.append(request)
            self._waiting += len(texts)
            self._on_queue(self._waiting)
            self._wake.notify()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await future
        except TimeoutError as error:
            raise self._late() from error

    def _wait_s(self, inputs: int) -> float:
        return wait_s(
            self._recent, running=self._running, waiting=self._waiting, joining=inputs, largest=self._max_batch
        )

    def pressed(self, within_s: float) -> bool:
        """Whether a request had to wait for others in the last ``within_s`` seconds."""
        return self._monotonic() - self._pressed_at <= within_s

    def between(self, job: Callable[[], R]) -> Future[R]:
        """Run ``job`` on the forward thread between two batches; before any request that waits."""
        future: Future[R] = Future()
        with self._wake:
            if self._closed:
                future.cancel()
                return future
            self._jobs.append((job, future))
            self._wake.notify()
        return future

    def idle(self, job: Callable[[], object]) -> bool:
        """Run ``job`` on the forward thread once nothing waits; it must be short, as a request may come meanwhile.

        Returns:
            False if it is let go: requests wait already, or too many such jobs do.
        """
        with self._wake:
            if self._closed or self._requests or len(self._idle) >= MOST_IDLE:
                return False
            self._idle.append(job)
            self._wake.notify()
        return True

    def _late(self) -> DeadlineError:
        return DeadlineError(f"No answer within {self._deadline_s:g} s.", "The server is overloaded; try again later.")

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._jobs or self._requests or self._idle or self._closed):
                    self._wake.wait()
                    self._free_since = self._monotonic()
                if self._closed and not (self._jobs or self._requests):
                    return
                jobs = list(self._jobs)
                self._jobs.clear()
                batch = [] if jobs else self._take()
                self._running = sum(len(request.texts) for request in batch)
                idle = None if jobs or batch or not self._idle else self._idle.popleft()
            for job, future in jobs:
                _execute(job, future)
            if batch:
                self._answer(batch)
                self._running = 0
            if idle is not None:
                _execute(idle, Future())

    def _take(self) -> list[_Request[T]]:
        """The next batch; requests that nobody waits for any more are let go. Called with the lock held."""
        batch: list[_Request[T]] = []
        passed: list[_Request[T]] = []
        size = 0
        now = self._monotonic()
        while self._requests:
            head = self._requests[0]
            abandoned = head.future.cancelled() or head.deadline < now
            if not abandoned and batch and head.slot != batch[0].slot:
                passed.append(self._requests.popleft())
                continue
            if not abandoned and batch and size + len(head.texts) > self._max_batch:
                break
            self._requests.popleft()
            self._waiting -= len(head.texts)
            if abandoned:
                head.fail(self._late())
                continue
            self._on_wait(now - (head.deadline - self._deadline_s))
            batch.append(head)
            size += len(head.texts)
        self._requests.extendleft(reversed(passed))
        self._on_queue(self._waiting)
        return batch

    def _answer(self, batch: list[_Request[T]]) -> None:
        texts = [text for request in batch for text in request.texts]
        answers: list[T] = []
        forward = self._forwards[batch[0].slot]
        try:
            for start in range(0, len(texts), self._max_batch):
                chunk = texts[start : start + self._max_batch]
                self._running = len(texts) - start
                self._on_batch(len(chunk))
                begun = self._monotonic()
                answers.extend(forward(chunk))
                ended = self._monotonic()
                self._on_forward(ended - begun)
                with self._wake:  # who asks to be admitted reads them
                    self._recent.append((len(chunk), ended - self._free_since))
                self._free_since = ended
        except Exception as error:  # the boundary of the forward thread: one bad batch must not end serving
            if batch[0].slot == "challenger":  # whatever is wrong with it, the champion is there
                log.error("the challenger failed; the champion answers", exc_info=error)
                for request in batch:
                    request.slot = "champion"
                self._answer(batch)
                return
            self._fail(batch, error)
            return
        following = iter(answers)
        _resolve([(request, list(islice(following, len(request.texts)))) for request in batch])

    def _fail(self, batch: list[_Request[T]], error: Exception) -> None:
        if len(batch) > 1:  # find the request that breaks the forward, so that the others are answered
            for request in batch:
                self._answer([request])
            return
        if not isinstance(error, StreamFTError):
            log.error("a forward failed", exc_info=error)
            error = ForwardError("The model could not answer this input.", "The server's log has the reason.")
        batch[0].fail(error)


def _execute(job: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except Exception as error:  # handed to the caller through the future
        future.set_exception(error)
    else:
        future.set_result(result)
