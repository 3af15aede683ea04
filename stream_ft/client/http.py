"""Two thin drivers of the same calls: they send, wait, and ask :class:`stream_ft.client.retry.Tries` what is next."""

from __future__ import annotations

import asyncio
import math
import random
import time as time_module
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, TypeVar

import httpx

from stream_ft import __version__
from stream_ft.client import calls
from stream_ft.client.bounded import bound
from stream_ft.client.calls import Call, Kind
from stream_ft.client.results import Accepted, Answer, Status, Versions
from stream_ft.client.retry import Answered, Done, Failed, Tries
from stream_ft.clock import SystemClock
from stream_ft.errors import ConfigError
from stream_ft.events import Correction, Feedback, LabelledEvent
from stream_ft.ports import Clock

T = TypeVar("T")

URL = "http://127.0.0.1:8080"
DEADLINE_S = 10.0
LIMIT = 100
LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
RETRIED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


class _Settings:
    """What both drivers are told, checked."""

    def __init__(self, url: str, token: str, deadline_s: float) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"{url!r} is no URL.", f"Write it like {URL}.") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{url!r} is no http or https URL.", f"Write it like {URL}.")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError("The token has a character that no header can carry.", "Is there a line break in it?")
        self.url = parsed
        self.where = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        self.headers = {"user-agent": f"stream-ft/{__version__}"}
        if token:
            self.headers["authorization"] = f"Bearer {token}"
        # A proxy of the environment is not for a server on this machine.
        self.trust_env = parsed.host not in LOOPBACK
        self.deadline_s = checked_deadline(deadline_s)


def checked_deadline(deadline_s: float) -> float:
    """``deadline_s`` if a call can have it.

    Raises:
        ConfigError: it is not positive or not finite.
    """
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise ConfigError(f"deadline_s is {deadline_s:g}.", "Give the seconds that a call may take, above 0.")
    return deadline_s


class Client:
    """Talks to one server, and waits for it. May be used by several threads; use it as a context manager, or close it.

    Each call has one deadline, in seconds, for all of its tries and the waits between them. It is tried again on 429,
    503 and 504, as ``Retry-After`` asks, and when the connection fails. At its deadline it is cut off, also when the
    answer comes in dribs.

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
        self._settings = _Settings(url, token, deadline_s)
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

    def predict(self, texts: str | Sequence[str], *, deadline_s: float | None = None) -> list[Answer]:
        """The answers to ``texts`` (one text counts as a list of one), in their order and all of one version.

        Raises:
            RefusedError: the server does not take these texts.
            UnavailableError: it cannot answer.
            DeadlineError: it did not in time.
        """
        return self._run(calls.predict(texts), deadline_s)

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
            headers=_content_type(call),
            extensions={"timeout": _TimeLeft(self._clock, end)},
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
        self._settings = _Settings(url, token, deadline_s)
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

    async def predict(self, texts: str | Sequence[str], *, deadline_s: float | None = None) -> list[Answer]:
        """As :meth:`Client.predict`."""
        return await self._run(calls.predict(texts), deadline_s)

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
                response = await self._http.request(
                    call.method, call.path, content=call.body, headers=_content_type(call)
                )
        except TimeoutError:
            return Failed(detail="no answer in time", timed_out=True)
        except httpx.HTTPError as error:
            return _failed(error)
        return _answered(response, response.content)


class _TimeLeft(Mapping[str, float]):
    """httpx's timeouts, each what is left at the moment it is asked for.

    httpx would give every step (pool, connect, write, read) the whole of a fixed timeout, one after the other.
    """

    def __init__(self, clock: Clock, end: float) -> None:
        self._clock = clock
        self._end = end

    def __getitem__(self, name: str) -> float:
        return max(0.001, self._end - self._clock.monotonic())

    def __iter__(self) -> Iterator[str]:
        return iter(("pool", "connect", "write", "read"))

    def __len__(self) -> int:
        return 4


def _content_type(call: Call[T]) -> dict[str, str]:
    return {} if call.body is None else {"content-type": "application/json"}


def _answered(response: httpx.Response, body: bytes) -> Answered:
    return Answered(status=response.status_code, body=body, retry_after=response.headers.get("retry-after"))


def _failed(error: httpx.HTTPError) -> Failed:
    return Failed(
        detail=str(error) or type(error).__name__,
        timed_out=isinstance(error, httpx.TimeoutException),
        unsent=isinstance(error, UNSENT),
        hopeless=not isinstance(error, RETRIED),
    )
