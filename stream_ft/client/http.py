"""Two thin drivers of the same calls: they send, wait, and ask :class:`stream_ft.client.retry.Tries` what is next."""

from __future__ import annotations

import asyncio
import random
import time as time_module
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, TypeVar

import httpx

from stream_ft.client import calls
from stream_ft.client.bounded import TimeLeft, bound
from stream_ft.client.calls import Call, CommandType, Kind
from stream_ft.client.results import Accepted, Answer, InForce, Status, Versions
from stream_ft.client.retry import Answered, Done, Failed, Tries
from stream_ft.client.settings import DEADLINE_S, URL, Settings, checked_deadline
from stream_ft.clock import SystemClock
from stream_ft.events import Correction, Feedback, LabelledEvent
from stream_ft.ports import Clock

T = TypeVar("T")

LIMIT = 100
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
RETRIED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


class Client:
    """Talks to one server, and waits for it. May be used by several threads; use it as a context manager, or close it.

    Each call has one deadline, in seconds, for all of its tries and the waits between them. It is tried again on 429,
    503 and 504, as ``Retry-After`` asks, and when the connection fails. At its deadline it is cut off, also when the
    request goes or the answer comes in dribs; only the lookup of the server's name (DNS) is not.

    Args:
        url: of the server.
        token: sent as a bearer token if not empty.
        deadline_s: of calls that name none of their own.
        transport: replaces the network.
        clock, sleep, draw: time, waiting and jitter, replaced in tests.

    Raises:
        ConfigError: the URL, the token or the deadline cannot be used.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str = "",
        deadline_s: float = DEADLINE_S,
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time_module.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = Settings(url, token, deadline_s)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._draw = draw
        self._http = httpx.Client(
            base_url=self._settings.url,
            headers=self._settings.headers,
            transport=transport,
            trust_env=self._settings.trust_env,
        )
        self._until = bound(self._http, self._clock)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def predict(
        self, texts: str | Sequence[str], *, key: str | None = None, deadline_s: float | None = None
    ) -> list[Answer]:
        """The answers to ``texts`` (one text counts as a list of one), in their order and all of one version.

        Args:
            texts: the inputs.
            key: who asks, as the id of a user or a session: during a canary the same key has the same version
                throughout. Without it, the first text decides. The server does not keep it.
            deadline_s: of this call.

        Raises:
            RefusedError: the server does not take these texts.
            UnavailableError: it cannot answer.
            DeadlineError: it did not in time.
        """
        return self._run(calls.predict(texts, key), deadline_s)

    def feedback(
        self,
        prediction_id: str,
        *,
        label: str | None = None,
        kind: Kind | None = None,
        correction: Correction | None = None,
        rating: float | None = None,
        source: str | None = None,
        origin: Literal["user", "model"] | None = None,
        time: float | None = None,
        id: str | None = None,
        deadline_s: float | None = None,
    ) -> Accepted:
        """Say what is right or wrong of an answer; on return it is durable.

        Args:
            prediction_id: of the answer.
            label: the right label: short for a label correction.
            kind: ``accept``, ``reject``, ``rating`` or ``correct``; not needed with ``label``, ``correction`` or
                ``rating``.
            correction: the right answer, if it is no label.
            rating: any number; it enters a metric and trains nothing.
            source: who says it. Default ``user``.
            origin: ``model`` for what a model says: it never trains.
            time: when it was said, in seconds since the epoch. Default: when it arrives.
            id: of this event. Under the same source and id it counts once, also over several calls. Default: a fresh
                one, the same in each try of this call.
            deadline_s: of this call.

        Raises:
            RefusedError: a field is wrong, or the server has not issued that prediction.
            UnavailableError, DeadlineError: it may or may not have been taken; ``error.ids`` has the id to send again.
        """
        call = calls.feedback(
            prediction_id,
            label=label,
            kind=kind,
            correction=correction,
            rating=rating,
            source=source,
            origin=origin,
            time=time,
            id=id,
        )
        return self._run(call, deadline_s)

    def feedback_all(self, events: Iterable[Feedback], *, deadline_s: float | None = None) -> Accepted:
        """Publish several :class:`stream_ft.events.Feedback`, all or none. One without an id gets a fresh one.

        Raises:
            RefusedError: one of them was; nothing was taken.
            UnavailableError, DeadlineError: as for :meth:`feedback`.
        """
        return self._run(calls.feedback_all(events), deadline_s)

    def labels(
        self,
        examples: Iterable[tuple[str, str] | LabelledEvent],
        *,
        source: str | None = None,
        deadline_s: float | None = None,
    ) -> Accepted:
        """Publish texts with their labels, all or none; on return they are durable.

        Args:
            examples: pairs of text and label, or :class:`stream_ft.events.LabelledEvent` where an id, a time or
                another correction is to be given. One without an id gets a fresh one.
            source: who says it, for the pairs. Default ``labels``.
            deadline_s: of this call.

        Raises:
            RefusedError: one of them was; nothing was taken.
            UnavailableError, DeadlineError: as for :meth:`feedback`.
        """
        return self._run(calls.labels(examples, source=source), deadline_s)

    def status(self, *, deadline_s: float | None = None) -> Status:
        """What server and learner say of themselves.

        Raises:
            RefusedError, UnavailableError, DeadlineError: as for :meth:`predict`.
        """
        return self._run(calls.status(), deadline_s)

    def versions(self, *, limit: int = LIMIT, deadline_s: float | None = None) -> Versions:
        """The newest ``limit`` versions, oldest first, with what each was trained on and the gate's numbers.

        Raises:
            RefusedError, UnavailableError, DeadlineError: as for :meth:`predict`.
        """
        return self._run(calls.versions(limit), deadline_s)

    def control(
        self,
        type: CommandType,
        *,
        to: str | int = "previous",
        reason: str = "",
        label: str = "",
        version: str | int = "",
        share: float | None = None,
        head: str = "",
        id: str | None = None,
        deadline_s: float | None = None,
    ) -> InForce:
        """Command the model, and see what is in force then. Whoever has the token may; without one, this machine.

        Every command is safe to repeat: it carries an id, under which it counts once, and so it is tried again like
        any call. A second call has another id: ``rollback`` called twice goes back twice.

        Args:
            type: ``rollback``, ``pin``, ``unpin``, ``pause``, ``resume``, ``train_now``, ``label_add``, ``canary`` or
                ``shadow``.
            to: of a rollback: an epoch, a version's name, or ``previous``.
            reason: of a rollback; it stays on the log.
            label: of ``label_add``.
            version: of ``canary`` and ``shadow``: a version's name, an epoch, or a base, eight digits of its hash or
                more. Without it, ``share=0`` ends the trial.
            share: of a canary, which needs it: of the keys. Of a shadow: of the requests; all by default.
            head: of ``canary`` and ``shadow``: another head than the base's newest.
            id: of this command, to be safe over several calls too. Default: a fresh one, the same in each try.
            deadline_s: of this call.

        Raises:
            RefusedError: it cannot be issued, or not by this caller; nothing is on the log.
            CommandRefusedError: the log refuses it.
            UnavailableError, DeadlineError: it may or may not be in force; ``error.ids`` has the id to send again.
        """
        call = calls.control(type, to=to, reason=reason, label=label, version=version, share=share, head=head, id=id)
        return self._run(call, deadline_s)

    def _run(self, call: Call[T], deadline_s: float | None) -> T:
        seconds = self._settings.deadline_s if deadline_s is None else checked_deadline(deadline_s)
        start = self._clock.monotonic()
        tries = Tries(call, where=self._settings.where, deadline_s=seconds, now=start, draw=self._draw)
        while True:
            outcome = self._try(call, tries)
            step = tries.judge(outcome, now=self._clock.monotonic(), wall=self._clock.now())
            if isinstance(step, Done):
                return step.value
            self._sleep(step.seconds)

    def _try(self, call: Call[T], tries: Tries[T]) -> Answered | Failed:
        end = self._clock.monotonic() + tries.left(self._clock.monotonic())
        self._until.end = end
        request = self._http.build_request(
            call.method,
            call.path,
            content=call.body,
            headers=call.headers,
            extensions={"timeout": TimeLeft(self._clock, end)},
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    if self._clock.monotonic() >= end:
                        return Failed(detail="the answer did not end in time", timed_out=True)
            finally:
                response.close()
        except httpx.HTTPError as error:
            return _failed(error)
        return _answered(response, b"".join(parts))


class AsyncClient:
    """Talks to one server under asyncio. As :class:`Client`, method for method, but nothing blocks.

    At its deadline a call is cut off, whatever the server does.

    Args:
        url: of the server.
        token: sent as a bearer token if not empty.
        deadline_s: of calls that name none of their own.
        transport: replaces the network.
        clock, sleep, draw: time, waiting and jitter, replaced in tests.

    Raises:
        ConfigError: the URL, the token or the deadline cannot be used.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        token: str = "",
        deadline_s: float = DEADLINE_S,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = Settings(url, token, deadline_s)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._draw = draw
        self._http = httpx.AsyncClient(
            base_url=self._settings.url,
            headers=self._settings.headers,
            transport=transport,
            trust_env=self._settings.trust_env,
            timeout=None,  # each try has a timeout of its own around all of it
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()

    async def predict(
        self, texts: str | Sequence[str], *, key: str | None = None, deadline_s: float | None = None
    ) -> list[Answer]:
        """As :meth:`Client.predict`."""
        return await self._run(calls.predict(texts, key), deadline_s)

    async def feedback(
        self,
        prediction_id: str,
        *,
        label: str | None = None,
        kind: Kind | None = None,
        correction: Correction | None = None,
        rating: float | None = None,
        source: str | None = None,
        origin: Literal["user", "model"] | None = None,
        time: float | None = None,
        id: str | None = None,
        deadline_s: float | None = None,
    ) -> Accepted:
        """As :meth:`Client.feedback`."""
        call = calls.feedback(
            prediction_id,
            label=label,
            kind=kind,
            correction=correction,
            rating=rating,
            source=source,
            origin=origin,
            time=time,
            id=id,
        )
        return await self._run(call, deadline_s)

    async def feedback_all(self, events: Iterable[Feedback], *, deadline_s: float | None = None) -> Accepted:
        """As :meth:`Client.feedback_all`."""
        return await self._run(calls.feedback_all(events), deadline_s)

    async def labels(
        self,
        examples: Iterable[tuple[str, str] | LabelledEvent],
        *,
        source: str | None = None,
        deadline_s: float | None = None,
    ) -> Accepted:
        """As :meth:`Client.labels`."""
        return await self._run(calls.labels(examples, source=source), deadline_s)

    async def status(self, *, deadline_s: float | None = None) -> Status:
        """As :meth:`Client.status`."""
        return await self._run(calls.status(), deadline_s)

    async def versions(self, *, limit: int = LIMIT, deadline_s: float | None = None) -> Versions:
        """As :meth:`Client.versions`."""
        return await self._run(calls.versions(limit), deadline_s)

    async def control(
        self,
        type: CommandType,
        *,
        to: str | int = "previous",
        reason: str = "",
        label: str = "",
        version: str | int = "",
        share: float | None = None,
        head: str = "",
        id: str | None = None,
        deadline_s: float | None = None,
    ) -> InForce:
        """As :meth:`Client.control`."""
        call = calls.control(type, to=to, reason=reason, label=label, version=version, share=share, head=head, id=id)
        return await self._run(call, deadline_s)

    async def _run(self, call: Call[T], deadline_s: float | None) -> T:
        seconds = self._settings.deadline_s if deadline_s is None else checked_deadline(deadline_s)
        start = self._clock.monotonic()
        tries = Tries(call, where=self._settings.where, deadline_s=seconds, now=start, draw=self._draw)
        while True:
            outcome = await self._try(call, tries)
            step = tries.judge(outcome, now=self._clock.monotonic(), wall=self._clock.now())
            if isinstance(step, Done):
                return step.value
            await self._sleep(step.seconds)

    async def _try(self, call: Call[T], tries: Tries[T]) -> Answered | Failed:
        left = tries.left(self._clock.monotonic())
        try:
            async with asyncio.timeout(left):
                response = await self._http.request(call.method, call.path, content=call.body, headers=call.headers)
        except TimeoutError:
            return Failed(detail="no answer in time", timed_out=True)
        except httpx.HTTPError as error:
            return _failed(error)
        return _answered(response, response.content)


def _answered(response: httpx.Response, body: bytes) -> Answered:
    return Answered(status=response.status_code, body=body, retry_after=response.headers.get("retry-after"))


def _failed(error: httpx.HTTPError) -> Failed:
    return Failed(
        detail=str(error) or type(error).__name__,
        timed_out=isinstance(error, httpx.TimeoutException),
        unsent=isinstance(error, UNSENT),
        hopeless=not isinstance(error, RETRIED),
    )
