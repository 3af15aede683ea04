"""``stream-ft replay``: a client that plays a file against a running service, as its users would.

For every row: ask ``/predict``, wait for the delay, then tell the right answer, either as feedback that names the
issued prediction or as a label with its own input. What it measures is what a client can see: accuracy, latency,
requests dropped, and the time from an acknowledged correction to the first answer by a version that has learned it.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import random
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
from msgspec import Struct

from stream_ft.connectors.files import Row, read_rows
from stream_ft.errors import ConfigError, StreamFTError
from stream_ft.wiring.feeding import usable
from stream_ft.wiring.overheard import Overheard
from stream_ft.wiring.summary import Told, macro_f1, out_folder, right, write_summary

USERS = 50
"""Feedback comes from this many made-up users: one source alone may not introduce a label."""
TIMEOUT_S = 10.0
"""An answer that takes longer counts as dropped."""
READY_S = 60.0
"""How long a service may take to become ready."""
RETRY_S = 30.0
"""How long a correction that was not acknowledged is sent again."""
NOT_SEEN = (
    "frozen_accuracy", "final_test_accuracy", "final_test_by_phase", "promotions", "refusals", "rollbacks",
    "drift_alarms", "rounds", "train_steps", "train_cpu_s", "predict_cpu_s", "cpu_ms_per_event", "peak_rss_mb",
    "recall_at_precision_99", "versions",
)  # fmt: skip
"""Of ``summary.json``, what happens inside the service: ``null`` where it does not tell."""
Progress = Callable[[int, int, float], None]
"""Called with events done, events in all, accuracy so far."""
RETRIED = (408, 429, 500, 502, 503, 504)


class _Prediction(Struct):
    id: str
    label: str


class _Answer(Struct):
    version: str
    predictions: list[_Prediction]


class _Ack(Struct):
    accepted: int
    offsets: list[int] = []


class _Told(Struct, frozen=True):
    """What a version tells of itself."""

    offsets: dict[str, int] = {}
    version: str = ""


class _Listed(Struct):
    """The versions there are; of these, the head of the fast tier that answers."""

    head: _Told = _Told()


def replay(
    file: Path,
    *,
    url: str,
    text_column: str,
    label_column: str,
    phase_column: str | None = None,
    rate: float = 20.0,
    label_delay: float = 0.0,
    noise: float = 0.0,
    as_: Literal["feedback", "labels"] = "feedback",
    out: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    token: str = "",
    tell: Progress = lambda done, total, accuracy: None,
) -> dict[str, Any]:
    """Play a file against a service and say what came of it.

    Args:
        file: CSV, TSV or JSON lines with one labelled text a row.
        url: of the service, ``http://HOST:PORT``.
        text_column, label_column, phase_column: see :func:`stream_ft.connectors.files.read_rows`.
        rate: events per second.
        label_delay: seconds from an answer to its correction.
        noise: share of the labels told that are of another class; scores use the true one.
        as_: ``feedback`` names the issued prediction, from one of :data:`USERS` users; ``labels`` brings its own input.
        out: folder for ``summary.json`` and ``report.html``, if wanted.
        limit: only the first rows.
        seed: of noise and users.
        token: of the service, if it wants one.
        tell: called after each event with events done, events in all and the accuracy so far.

    Returns:
        All names of ``summary.json``, with ``None`` for what a client cannot know, plus ``corrections {acknowledged,
        lost, live, waiting}``, ``latency_ms {p50, p99}``, ``versions_seen`` and ``refused_rows``: rows that no service
        takes and that are not sent. What came of rounds is what ``/status`` told meanwhile; the event of an alarm is
        the one that was due at its time. ``feedback_to_live_s`` is of the corrections that went live before the end;
        the others are counted as ``waiting``.

    Raises:
        ConfigError: file, columns, URL, rate, noise, token or output folder cannot be used.
        StreamFTError: nobody answers at the URL, or the service does not become ready.
    """
    if not rate > 0 or label_delay < 0:
        raise ConfigError("A rate must be above 0 and a delay not below it.", "For example --rate 20 --label-delay 5.")
    if not 0 <= noise <= 1:
        raise ConfigError(f"A noise of {noise} is not a share.", "Give a number between 0 and 1.")
    if as_ not in ("feedback", "labels"):
        raise ConfigError(f"Corrections cannot be sent as {as_!r}.", "Use --as feedback or --as labels.")
    read = read_rows(Path(file), text_column=text_column, label_column=label_column, phase_column=phase_column)[:limit]
    rows = [row for row in read if usable(row)]
    if not rows:
        raise ConfigError(f"No row of {file} has a text and a label.", "Check the columns.")
    if out is not None:
        out_folder(out)
    player = _Player(
        rows, told=told_labels(rows, noise=noise, seed=seed), as_=as_, delay=label_delay, seed=seed, tell=tell
    )
    started = time.monotonic()
    overheard = Overheard(rate=rate, events=len(rows))
    asyncio.run(player.play(url, rate=rate, token=token, overheard=overheard))
    summary = dict.fromkeys(NOT_SEEN) | overheard.summary() | player.summary() | {
        "refused_rows": len(read) - len(rows),
        "wall_s": time.monotonic() - started,
        "seed": seed,
        "config": {
            "url": url, "rate": rate, "label_delay": label_delay, "noise": noise, "as": as_, "limit": limit,
        },
    }  # fmt: skip
    if out is not None:
        write_summary(out / "summary.json", summary)
        player.report(out / "report.html", f"Replay of {Path(file).name}", summary, overheard.told())
    return summary


def told_labels(rows: Sequence[Row], *, noise: float, seed: int) -> list[str]:
    """The labels as they are told: a share ``noise`` of them is another class of the file, drawn uniformly."""
    draw = random.Random(seed)
    classes = sorted({row.label for row in rows})
    return [
        draw.choice([name for name in classes if name != row.label])
        if draw.random() < noise and len(classes) > 1
        else row.label
        for row in rows
    ]


class Coverage:
    """Which acknowledged corrections some answer has already been given with.

    A version covers a correction when the offset up to which it has learned is greater than the correction's own.
    """

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self._waiting: list[tuple[int, float]] = []

    @property
    def waiting(self) -> int:
        """Corrections that no version seen so far covers."""
        return len(self._waiting)

    def acknowledged(self, offset: int, at: float) -> None:
        """The log took a correction at ``offset``."""
        heapq.heappush(self._waiting, (offset, at))

    def answered(self, upto: int, at: float) -> None:
        """An answer came from a version that has learned everything before the offset ``upto``."""
        while self._waiting and self._waiting[0][0] < upto:
            _, since = heapq.heappop(self._waiting)
            self.latencies_s.append(max(0.0, at - since))


class _Player:
    def __init__(
        self,
        rows: Sequence[Row],
        *,
        told: Sequence[str],
        as_: str,
        delay: float,
        seed: int,
        tell: Progress,
    ) -> None:
        self._rows = rows
        self._told = told
        self._as = as_
        self._delay = delay
        self._tell = tell
        self._run = uuid.uuid4().hex[:12]
        draw = random.Random(seed)
        self._users = [f"user-{draw.randrange(USERS)}" for _ in rows]
        self._outputs: list[str | None] = [None] * len(rows)
        self._seconds: list[float] = []
        self._right = 0
        self._dropped = 0
        self._lost = 0
        self._acknowledged = 0
        self._coverage = Coverage()
        self._upto: dict[str, int] = {}

    async def play(self, url: str, *, rate: float, token: str, overheard: Overheard) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            target = httpx.URL(url)
            if target.scheme not in ("http", "https") or not target.host or not 0 < (target.port or 80) < 65536:
                raise ValueError("it needs http or https, a host, and a port up to 65535")
            local = target.host in ("127.0.0.1", "localhost", "::1")
            client = httpx.AsyncClient(
                base_url=url,
                headers=headers,
                timeout=TIMEOUT_S,
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=4),
                trust_env=not local,  # a proxy of the environment must not stand between two processes of one machine
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"{url!r} is not a URL: {error}.", "For example http://127.0.0.1:8080.") from error
        async with client:
            await _ready(client, url)
            await overheard.ask(client)
            listening = asyncio.create_task(overheard.listen(client))
            try:
                start = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    for place in range(len(self._rows)):
                        await asyncio.sleep(max(0.0, start + place / rate - time.monotonic()))
                        group.create_task(self._one(client, place))
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            await overheard.ask(client)

    async def _one(self, client: httpx.AsyncClient, place: int) -> None:
        row = self._rows[place]
        sent = time.monotonic()
        try:
            response = await _post(client, "/predict", {"inputs": [row.text]})
            came = time.monotonic()
            response.raise_for_status()
            answer = msgspec.json.decode(response.content, type=_Answer)
            given = answer.predictions[0]
        except (httpx.HTTPError, msgspec.DecodeError, IndexError):
            self._dropped += 1
            self._progress()
            return
        self._seconds.append(came - sent)
        self._outputs[place] = given.label
        self._right += right(row.label, given.label)
        self._progress()
        await self._seen(client, answer.version, came)
        await asyncio.sleep(self._delay)
        await self._correct(client, place, given.id)

    def _progress(self) -> None:
        done = len(self._seconds) + self._dropped
        self._tell(done, len(self._rows), self._right / done)

    async def _seen(self, client: httpx.AsyncClient, version: str, at: float) -> None:
        """A version answered: ask it once what it has learned."""
        if version not in self._upto:
            self._upto[version] = 0  # those that come meanwhile need not ask as well
            try:
                told = await _told_of(client, version)
            except (httpx.HTTPError, msgspec.DecodeError):
                del self._upto[version]
                return
            self._upto[version] = max(
                (offset for name, offset in told.offsets.items() if name.rpartition(".")[2] == self._as), default=0
            )
        self._coverage.answered(self._upto[version], at)

    async def _correct(self, client: httpx.AsyncClient, place: int, prediction_id: str) -> None:
        """Tell the right answer until it is acknowledged; the id lets the service know a repetition."""
        event = {"id": f"{self._run}-{place}", "label": self._told[place], "source": self._users[place]}
        if self._as == "feedback":
            event["prediction_id"] = prediction_id
        else:
            event |= {"input": self._rows[place].text, "source": "replay"}
        deadline, pause = time.monotonic() + RETRY_S, 0.1
        while True:
            try:
                response = await _post(client, f"/{self._as}", event)
                if response.is_success:
                    ack = msgspec.json.decode(response.content, type=_Ack)
                    self._acknowledged += ack.accepted
                    now = time.monotonic()
                    for offset in ack.offsets:
                        self._coverage.acknowledged(offset, now)
                    return
                final = response.status_code not in RETRIED
            except httpx.TransportError:
                final = False
            except msgspec.DecodeError:
                final = True
            if final or time.monotonic() + pause > deadline:
                self._lost += 1
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)

    def summary(self) -> dict[str, Any]:
        """What a client can know; an unanswered event counts as wrong."""
        phases = list(dict.fromkeys(row.phase for row in self._rows if row.phase))
        hits = self._hits()
        return {
            "events": len(self._rows),
            "classes": len({row.label for row in self._rows}),
            "prequential_accuracy": _share(hits),
            "prequential_by_phase": [
                {
                    "phase": phase,
                    "events": sum(row.phase == phase for row in self._rows),
                    "accuracy": _share([hit for hit, row in zip(hits, self._rows, strict=True) if row.phase == phase]),
                }
                for phase in phases
            ],
            "macro_f1": macro_f1([row.label for row in self._rows], [output or "" for output in self._outputs]),
            "dropped_requests": self._dropped,
            "corrections": {
                "acknowledged": self._acknowledged,
                "lost": self._lost,
                "live": len(self._coverage.latencies_s),
                "waiting": self._coverage.waiting,
            },
            "feedback_to_live_s": {
                "p50": percentile(self._coverage.latencies_s, 0.5),
                "p99": percentile(self._coverage.latencies_s, 0.99),
            },
            "latency_ms": {
                name: None if (value := percentile(self._seconds, share)) is None else value * 1000
                for name, share in (("p50", 0.5), ("p99", 0.99))
            },
            "versions_seen": list(self._upto),
        }

    def report(self, path: Path, title: str, summary: dict[str, Any], story: Sequence[Told]) -> None:
        """Write the report of what was answered."""
        from stream_ft.wiring.report import Report, write_report  # heavy, and needed at the end alone

        phases = {row.phase: place for place, row in reversed(list(enumerate(self._rows))) if row.phase}
        write_report(
            path,
            Report(
                title=title,
                summary=summary,
                live=self._hits(),
                story=story,
                phases=sorted((place, phase) for phase, place in phases.items()),
                latency_s=self._seconds,
            ),
        )

    def _hits(self) -> list[bool]:
        return [right(row.label, output or "") for output, row in zip(self._outputs, self._rows, strict=True)]


async def _told_of(client: httpx.AsyncClient, version: str) -> _Told:
    """What a version has learned; nothing is known of a head of the fast tier that another has replaced meanwhile.

    Raises:
        httpx.HTTPError, msgspec.DecodeError: the service does not say.
    """
    of_release = version.endswith(".0")
    response = await client.get(f"/versions/{version}" if of_release else "/versions?limit=1")
    response.raise_for_status()
    if of_release:
        return msgspec.json.decode(response.content, type=_Told)
    head = msgspec.json.decode(response.content, type=_Listed).head
    return head if head.version == version else _Told()


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    # httpx's own JSON is not ASCII and fails here on half a surrogate pair; this way the service is the judge of it.
    return await client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})


async def _ready(client: httpx.AsyncClient, url: str) -> None:
    """Wait until the service is ready and lets us in."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            response = await client.get("/readyz")
            if response.is_success:
                response = await client.get("/versions")
        except httpx.TransportError as error:
            raise StreamFTError(
                f"Nobody answers at {url}.", "Start the service with stream-ft up, or mend --url."
            ) from error
        if response.status_code in (401, 403):
            raise ConfigError(f"The service at {url} wants another token.", "Give it with --token.")
        if response.status_code == 404:
            raise StreamFTError(f"What answers at {url} is not stream_ft.", "Check --url.")
        if response.is_success:
            return
        if time.monotonic() > deadline:
            raise StreamFTError(
                f"The service at {url} is not ready ({response.status_code}).", "See stream-ft status for the reason."
            )
        await asyncio.sleep(0.5)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of the values do not exceed; ``None`` of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0
