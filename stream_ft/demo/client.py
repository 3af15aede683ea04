"""The demo's HTTP client: it asks, tells, and counts as dropped whatever is not a 2xx in time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
from msgspec import Struct

TIMELY_S = 2.0
"""An answer that takes longer counts as dropped."""


class Answer(Struct, frozen=True, kw_only=True):
    """One prediction as it came."""

    id: str
    label: str
    score: float
    version: str
    seconds: float


class Acknowledged(Struct, frozen=True, kw_only=True):
    """An event that the server said is durable."""

    topic: str
    """``feedback`` or ``labels``."""
    offset: int
    at: float
    """When the acknowledgement arrived, seconds since the epoch."""


class Dropped(Struct, frozen=True, kw_only=True):
    """A request that was not answered by a 2xx within :data:`TIMELY_S`."""

    path: str
    why: str
    at: float
    """When it was sent, seconds since the epoch."""
    seconds: float
    """Until it was given up."""


class Client:
    """Talks to one server.

    Args:
        url: where it listens.
        token: sent as a bearer token if not empty.
        transport: replaces the network in tests.

    Attributes:
        sent: requests of any kind.
        dropped: those of them that were not answered in time, with what they met.
        latencies: seconds of each prediction that was answered.
        first_seen: when each version first answered, seconds since the epoch.
        acknowledged: every event that was, in order.
        heads: of the fast tier, as :meth:`versions` came to see them: ``version`` and ``offsets`` of each.
        covered: by kind of topic, the offset before which all is covered by what answered when that was last asked.
    """

    def __init__(self, url: str, *, token: str = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=TIMELY_S,
            transport=transport,
            trust_env=False,  # a proxy of the environment is not for a server on this machine
            # The pool looks at every idle connection at every request: many would cost more than opening a new one.
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=4, keepalive_expiry=30),
        )
        self.sent = 0
        self.dropped: list[Dropped] = []
        self.latencies: list[float] = []
        self.first_seen: dict[str, float] = {}
        self.acknowledged: list[Acknowledged] = []
        self.heads: dict[str, dict[str, Any]] = {}
        self.covered: dict[str, int] = {}

    @property
    def last_error(self) -> str:
        """What the last dropped request met; empty if none was dropped."""
        return f"{self.dropped[-1].why} at {self.dropped[-1].path}" if self.dropped else ""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(self, text: str) -> Answer | None:
        """The answer to one text; ``None`` if it was dropped."""
        before = time.perf_counter()
        body = await self._counted("POST", "/predict", {"inputs": [text]})
        seconds = time.perf_counter() - before
        if body is None:
            return None
        found = body["predictions"][0]
        self.latencies.append(seconds)
        self.first_seen.setdefault(body["version"], time.time())
        return Answer(
            id=found["id"], label=found["label"], score=found["score"], version=body["version"], seconds=seconds
        )

    async def feedback(self, events: Sequence[dict[str, Any]]) -> bool:
        """Say what is right of predictions that were issued; True once it is durable."""
        return await self._publish("feedback", events)

    async def labels(self, events: Sequence[dict[str, Any]]) -> bool:
        """Publish texts with their labels; True once they are durable."""
        return await self._publish("labels", events)

    async def versions(self) -> list[dict[str, Any]]:
        """Releases, oldest first; empty if the server did not say."""
        body = await self._counted("GET", "/versions?limit=500", None)
        if body is None:
            return []
        rows = list(body["versions"])
        head = body.get("head")
        if head is not None:
            self.heads[head["version"]] = head
        answering: dict[str, Any] = head or next((row for row in reversed(rows) if row.get("active")), {})
        self.covered = _by_kind(answering.get("offsets") or {})
        return rows

    async def status(self) -> dict[str, Any]:
        """State of server and learner; empty if the server did not say."""
        return await self._counted("GET", "/status", None) or {}

    async def _publish(self, topic: str, events: Sequence[dict[str, Any]]) -> bool:
        body = await self._counted("POST", f"/{topic}", list(events))
        if body is None:
            return False
        now = time.time()
        self.acknowledged += [Acknowledged(topic=topic, offset=offset, at=now) for offset in body["offsets"]]
        return True

    async def _counted(self, method: str, path: str, body: Any) -> dict[str, Any] | None:
        self.sent += 1
        at, before = time.time(), time.perf_counter()
        try:
            response = await self._http.request(method, path, json=body)
            if response.is_success and time.perf_counter() - before <= TIMELY_S:
                value: dict[str, Any] = response.json()
                return value
            why = f"{response.status_code}: {response.text[:200]}"
        except (httpx.HTTPError, ValueError) as error:
            why = type(error).__name__
        seconds = round(time.perf_counter() - before, 3)
        self.dropped.append(Dropped(path=path, why=why, at=at, seconds=seconds))
        return None


def feedback_to_live(
    acknowledged: Sequence[Acknowledged], first_seen: dict[str, float], versions: Sequence[dict[str, Any]]
) -> list[float]:
    """For each acknowledged event, seconds until the first answer by a version that covers it; without those still due.

    Args:
        acknowledged: what was published.
        first_seen: when each version first answered.
        versions: releases and heads as ``/versions`` tells them: ``offsets`` of a topic is the offset before which all
            is covered.
    """
    shown = [row for row in versions if row["version"] in first_seen]
    live = sorted(
        ((first_seen[row["version"]], _by_kind(row.get("offsets") or {})) for row in shown), key=lambda found: found[0]
    )
    waits = []
    for event in acknowledged:
        for seen, covered in live:
            if seen >= event.at and covered.get(event.topic, 0) > event.offset:
                waits.append(seen - event.at)
                break
    return waits


def _by_kind(offsets: dict[str, int]) -> dict[str, int]:
    """``stream_ft.MODEL.labels`` to ``labels``."""
    return {name.rsplit(".", 1)[-1]: offset for name, offset in offsets.items()}
