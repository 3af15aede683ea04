"""The course of the run: healthy minutes, what an operator should see, and a fault for each alert."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import operations_cost
from operations_house import MODEL, Others, Process, damaged, filled, foreign_genesis, held
from watching import SCRAPE_S, STEP_S, Prometheus, Target

from stream_ft import control
from stream_ft.connectors.files import Row
from stream_ft.demo import shop
from stream_ft.demo.client import Client
from stream_ft.demo.traffic import Traffic, spoiled

SPARE = "spare"
RATE = 12.0
PATIENCE_S = 90.0
"""An alert fires within this, beyond what it waits for, or it does not."""
SETTINGS = {
    "MODEL__NAME": MODEL,
    "SCHEDULE__INTERVAL_S": "3",
    "SCHEDULE__MIN_NEW": "40",
    "SCHEDULE__MIN_EVALUATION": "120",
    "SCHEDULE__ADAPT_FIRST": "250",
    "SCHEDULE__ADAPT_EVERY": "100000",
    "SCHEDULE__ADAPT_MISJUDGED": "0",
    "SCHEDULE__ADAPT_ON_DRIFT": "false",
    "ROUND__STEPS": "8",
    "ROUND__BATCH": "8",
    "GATE__MARGIN": "0.03",
    "REPLAY__CAPACITY": "1200",
    "LOG__LEVEL": "info",
}
"""A minute is enough for a round of the encoder; everything else is as it comes."""


@dataclass(kw_only=True)
class Watched:
    """What came of the run.

    Attributes:
        started, ended: of all of it.
        healthy: from when to when nothing was wrong.
        others_cores: that programs which are not of this run took meanwhile.
        fired: for each alert whose fault was made, whether it fired for the model that it was made in.
        left_out: alerts whose fault could not be made, and why.
        series: that a scrape of both processes returns after a flood.
        scrape_s: mean time of a scrape of the serving process.
        cost: what scrapes take of the throughput, and the console; see :mod:`operations_cost`.
    """

    started: float = 0.0
    ended: float = 0.0
    healthy: tuple[float, float] = (0.0, 0.0)
    others_cores: float = 0.0
    fired: dict[str, bool] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    series: int = 0
    scrape_s: float = 0.0
    cost: dict[str, Any] = field(default_factory=dict)


class Course:
    """One run.

    Args:
        folder: of everything; ``state`` in it is there.
        ports: of the processes.
        prometheus: that watches.
        quick: half a healthy minute instead of ten.
        small_disk: ``state`` is a disk of its own that can be filled.
        tell: called with a line for each thing that happens.
    """

    def __init__(
        self, folder: Path, *, ports: dict[str, int], prometheus: Prometheus, quick: bool, small_disk: bool,
        tell: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self._folder, self._ports, self._prometheus = folder, ports, prometheus
        self._quick = quick
        self._healthy_s = 25.0 if quick else 600.0
        self._settings = SETTINGS | {"ROUND__SECONDS": "45" if quick else "90"}
        self._small_disk = small_disk
        begun = time.monotonic()
        self._tell = lambda line: tell(f"{time.monotonic() - begun:4.0f} s  {line}")
        self._rules = {rule["alert"]: rule for rule in prometheus.rules}
        self._watched = Watched()
        self._rows = shop.generate(77, rows=12_000, phase_1=0, test=0).stream
        self._next = 0
        self._parts = itertools.count()
        self._targets = [
            Target(job="stream-ft-serve", address=f"127.0.0.1:{ports['serve']}", model=MODEL),
            Target(job="stream-ft-learn", address=f"127.0.0.1:{ports['learn']}", model=MODEL),
        ]

    async def run(self) -> Watched:
        """All of it."""
        with ExitStack() as opened:
            self._up = up = Process(
                "up", self._folder / "state", self._folder / "up.log",
                SERVE__PORT=str(self._ports["serve"]), LEARN__PORT=str(self._ports["learn"]), **self._settings,
            )  # fmt: skip
            opened.callback(up.stop)
            await asyncio.to_thread(up.wait, "/readyz")
            self._client = Client(f"http://127.0.0.1:{self._ports['serve']}")
            self._prometheus.scrape(self._targets)
            self._watched.started = time.time()
            self._opened = opened
            await self._no_feedback()
            self._stale = self._copied("stale")
            background = asyncio.create_task(self._background())
            try:
                await self._well()
                await self._as_usual()
                await asyncio.gather(self._hanging(), self._drift())
                await asyncio.gather(self._refusals(), self._replicas(), self._full())
                await self._swap()
                await self._locked()
            finally:
                background.cancel()
            await self._flood()
            self._watched.ended = time.time()
            self._tell("What it costs to be watched.")
            await self._control("pause")
            self._prometheus.scrape([])
            await asyncio.sleep(2 * SCRAPE_S)
            ports = self._ports["serve"], self._ports["learn"]
            texts = [row.text for row in self._rows]
            self._watched.cost = await asyncio.to_thread(operations_cost.measured, ports, texts, quick=self._quick)
            await self._client.close()
        return self._watched

    # --- traffic -----------------------------------------------------------------------------------------------

    def _take(self, count: int) -> list[Row]:
        rows = [self._rows[i % len(self._rows)] for i in range(self._next, self._next + count)]
        self._next += count
        return rows

    async def _play(self, rows: list[Row], rate: float = RATE) -> None:
        await Traffic(self._client, rows, rate=rate, name=f"part-{next(self._parts)}").run()

    async def _background(self) -> None:
        while True:
            await self._play(self._take(int(RATE * 5)))

    # --- waiting -----------------------------------------------------------------------------------------------

    async def _until(self, what: str, check: Callable[[], Any], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if await asyncio.to_thread(check):
                return True
            await asyncio.sleep(0.5)
        self._tell(f"  not within {seconds:.0f} s: {what}")
        return False

    async def _fires(self, name: str, model: str = MODEL, patience_s: float = PATIENCE_S) -> None:
        began = time.monotonic()
        seconds = patience_s + int(self._rules[name].get("for", "0s")[:-1])
        fired = await self._until(name, lambda: self._prometheus.fires_now(name, model), seconds)
        self._watched.fired[name] = fired
        if fired:
            self._tell(f"  {name} fires after {time.monotonic() - began:.0f} s")

    async def _quiet(self, name: str, seconds: float = PATIENCE_S) -> None:
        await self._until(f"the end of {name}", lambda: not self._prometheus.fires_now(name, MODEL), seconds)

    async def _control(self, *arguments: str) -> None:
        await asyncio.to_thread(self._up.control, *arguments)

    def _learner(self, *names: str) -> Any:
        status = httpx.get(f"http://127.0.0.1:{self._ports['serve']}/status", timeout=10, trust_env=False).json()
        value: Any = status.get("learn") or {}
        for name in names:
            value = (value or {}).get(name)
        return value

    def _count(self, expr: str) -> float:
        return sum(self._prometheus.now(expr).values())

    # --- phases ------------------------------------------------------------------------------------------------

    async def _no_feedback(self) -> None:
        self._tell("Predictions, and nobody says whether they are right.")
        asking = asyncio.create_task(self._ask())
        await self._fires("NoFeedback", patience_s=60)
        asking.cancel()

    async def _ask(self) -> None:
        for row in itertools.cycle(self._rows[-500:]):
            await self._client.predict(row.text)
            await asyncio.sleep(0.1)

    async def _well(self) -> None:
        self._tell(f"{self._healthy_s:.0f} s in which nothing is wrong: people write, correct and label.")
        await self._quiet("NoFeedback")
        begin, others = time.time(), Others()
        await asyncio.sleep(self._healthy_s)
        self._watched.healthy = (begin, time.time())
        self._watched.others_cores = others.cores()

    async def _as_usual(self) -> None:
        self._tell("What belongs to a life: ratings, repeated and refused events, a shadow.")
        events: list[dict[str, Any]] = []
        for i in range(30):
            if (answer := await self._client.predict(self._rows[-i - 1].text)) is not None:
                events.append({"id": f"rating-{i}", "prediction_id": answer.id, "kind": "rating", "rating": 1 + i % 5})
        unheard = {"id": "unheard", "prediction_id": events[0]["prediction_id"], "label": "never heard of"}
        await self._client.feedback([*events, unheard])  # a label of one user alone waits
        await self._client.feedback(events)  # a publisher that did not hear the first answer
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._ports['serve']}", trust_env=False) as http:
            for _ in range(20):
                await http.post("/predict", json={"inputs": ""})
                await http.post("/predict", content=b"{")
                await http.get("/nothing")
                await http.post("/feedback", json={"prediction_id": "never issued", "label": "x"})
        promoted = 'sum(stream_ft_promotions_total{kind=~"head|lora"}) > 1'
        await self._until("two promotions", lambda: self._count(promoted), 120)
        state = await asyncio.to_thread(self._up.folded)
        earlier = next(epoch for epoch, release in state.history if release != state.release and epoch > 0)
        await self._control("shadow", str(earlier), "--share", "1.0")
        shadowed = "sum(stream_ft_shadow_requests_total) > 5 and max(stream_ft_challenger_ready) == 1"
        await self._until("answers of the shadow, which Prometheus saw", lambda: self._prometheus.now(shadowed), 60)
        await asyncio.sleep(2 * STEP_S)  # a panel asks in such steps, and would miss a trial that ends between two
        await self._control("shadow", "--share", "0")
        trained = "sum(stream_ft_trainer_steps_total)"
        await self._until("a round of the encoder", lambda: self._count(trained) > 0, 180)
        await self._until("its version", lambda: not self._prometheus.now('stream_ft_active_base_info{base="v0"}'), 60)

    def _copied(self, name: str) -> Path:
        """Another replica's folder, as a copy made now."""
        folder = self._folder / name
        folder.mkdir()
        shutil.copytree(self._up.state / "registry", folder / "registry")
        for file in ("control.db", "serve.key", "serve.state"):
            shutil.copy2(self._up.state / file, folder / file)
        return folder

    async def _drift(self) -> None:
        self._tell("Every label means the next one.")
        # What has risen can only be told of a base that was watched while all was well.
        scored = "sum by (base) (stream_ft_scored_answers_total) and on (base) stream_ft_active_base_info"
        await self._until("scores of the active base", lambda: self._count(scored) >= 150, 60)
        names = sorted({row.label for row in self._rows})
        other = dict(zip(names, names[1:] + names[:1], strict=True))
        rows = [Row(text=row.text, label=other[row.label], phase="") for row in self._take(400)]
        drifting = asyncio.create_task(self._play(rows, rate=2 * RATE))
        await asyncio.gather(self._fires("Drift"), self._fires("AccuracyDrop"))
        await drifting

    async def _refusals(self) -> None:
        self._tell("A broken import; rounds that learn it are refused, and an operator goes back.")
        await self._client.labels(spoiled(self._rows[:3_000], 700, seed=1))
        letters = asyncio.create_task(self._letters())
        waiting = asyncio.create_task(self._fires("GateRefusing", patience_s=150))
        while not waiting.done():
            if await asyncio.to_thread(self._up.round) is None:
                await self._control("train-now")
            await asyncio.wait([waiting], timeout=1)
        await self._control(
            "rollback", "--to", "previous", "--reason", "broken import", "--quarantine-source", "bulk-import"
        )
        await letters

    async def _letters(self) -> None:
        self._tell("A publisher gives old ids to new events.")
        firing = asyncio.create_task(self._fires("DeadLetters"))
        said = {"label": "refund", "source": "bulk-import"}
        for turn in itertools.count():
            # Until one in twenty of the events of ten minutes is refused, which depends on how long it ran before.
            start = turn * 100 % 700
            letters = [said | {"id": f"import-{i}", "input": f"{turn} {i}"} for i in range(start, start + 100)]
            await self._client.labels(letters)
            await asyncio.wait([firing], timeout=0.5)
            if firing.done():
                break
        await firing

    async def _hanging(self) -> None:
        self._tell("A round hangs.")
        frozen = None
        for _ in range(20):
            await self._control("train-now")
            if await self._until("a round", lambda: self._up.round() is not None, 8):
                frozen = self._up.round()
                if frozen is not None:
                    frozen.suspend()
                    break
        await self._fires("RoundOverBudget", patience_s=PATIENCE_S + int(self._settings["ROUND__SECONDS"]))
        if frozen is not None:
            await self._until("the end of the round", lambda: not frozen.is_running(), 60)

    async def _replicas(self) -> None:
        self._tell("A replica that does not follow; another that has nothing to answer with.")
        stale = Process(
            "serve", self._stale, self._folder / "stale.log", SERVE__PORT=str(self._ports["stale"]), **self._settings
        )
        foreign_genesis(self._folder / "empty")
        empty = Process(
            "serve", self._folder / "empty", self._folder / "empty.log", SERVE__PORT=str(self._ports["empty"]),
            **self._settings,
        )  # fmt: skip
        self._opened.callback(stale.stop)
        self._opened.callback(empty.stop)
        await asyncio.gather(asyncio.to_thread(stale.wait, "/readyz"), asyncio.to_thread(empty.wait, "/livez"))
        self._prometheus.scrape(
            [
                *self._targets,
                Target(job="stream-ft-serve", address=f"127.0.0.1:{stale.port}", model=MODEL),
                Target(job="stream-ft-serve", address=f"127.0.0.1:{empty.port}", model=SPARE),
            ]
        )
        await asyncio.gather(self._fires("ReplicasDisagree"), self._fires("NotReady", SPARE))
        for path in self._stale.glob("control.db*"):
            path.unlink()
        await self._fires("ControlLogLost")
        await asyncio.to_thread(empty.stop)
        await self._fires("ProcessDown", SPARE)
        self._prometheus.scrape(self._targets)
        await asyncio.to_thread(stale.stop)

    async def _too_much(self, *names: str) -> None:
        texts = [row.text for row in self._rows[:48]]
        stop = asyncio.Event()

        async def flood(http: httpx.AsyncClient) -> None:
            while not stop.is_set():
                try:
                    await http.post("/predict", json={"inputs": texts})
                except httpx.TransportError:
                    await asyncio.sleep(0.1)

        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._ports['serve']}", timeout=30, limits=limits, trust_env=False
        ) as http:
            flooding = [asyncio.create_task(flood(http)) for _ in range(40)]
            await asyncio.gather(*map(self._fires, names))
            stop.set()
            await asyncio.gather(*flooding)

    async def _swap(self) -> None:
        self._tell("A version whose file is damaged is brought back.")
        await self._control("pause")
        state = await asyncio.to_thread(self._up.folded)
        epoch, release = next(
            (epoch, release)
            for epoch, release in reversed(state.history)
            if release.start_head != state.start_head and release.base not in state.denied
        )
        head = next(self._up.state.glob(f"registry/**/{release.start_head}*"))
        file = head if head.is_file() else next(path for path in head.rglob("*") if path.is_file())
        with damaged(file):
            self._up.append(
                control.new(control.Rollback, by="operator/elsewhere", now=time.time(), to_epoch=epoch, reason="test")
            )
            await self._fires("SwapFailing")
        await self._until(
            "the version, once its file is whole",
            lambda: not self._prometheus.now("stream_ft_wanted_epoch != stream_ft_active_epoch"),
            PATIENCE_S,
        )
        await self._control("resume")

    async def _locked(self) -> None:
        self._tell("Another program holds the store, and too much comes; then it holds the server's log.")
        with held(self._up.state / "store.db"):
            await asyncio.gather(
                self._too_much("Overloaded", "AnswersSlow", "LagGrowing"),
                self._fires("LearnerStandsStill"), self._fires("PartitionStuck"),
            )  # fmt: skip
        await self._until("the learner goes on", lambda: self._learner("ready"), PATIENCE_S)
        with held(self._up.state / "serve.db"):
            await self._fires("WritesFailing")

    async def _full(self) -> None:
        if not self._small_disk:
            self._watched.left_out["StoreNearlyFull"] = "no disk of its own could be made here (mount is not allowed)"
            return
        self._tell("The disk of the state folder fills.")
        with filled(self._up.state, 0.05):
            await self._fires("StoreNearlyFull")

    async def _flood(self) -> None:
        self._tell("Ten thousand users, labels, paths and statuses.")
        labels = [
            {"id": f"flood-{i}", "input": f"what user {i} wrote", "label": f"label {i}", "source": f"user-{i}"}
            for i in range(2_000)
        ]
        for start in range(0, len(labels), 200):
            await self._client.labels(labels[start : start + 200])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._ports['serve']}", trust_env=False) as http:
            for i in range(500):
                await http.request(("GET", "POST", "PUT", "DELETE")[i % 4], f"/user/{i}/{'x' * (i % 7)}")
        await self._until("the flood is read", lambda: self._learner("lag") == 0, PATIENCE_S)
        await asyncio.sleep(2 * SCRAPE_S)
        scraped = f'scrape_samples_scraped{{model="{MODEL}"}}'
        self._watched.series = int(await asyncio.to_thread(self._count, f"sum({scraped})"))
        duration = 'avg(avg_over_time(scrape_duration_seconds{job="stream-ft-serve"}[10m]))'
        self._watched.scrape_s = await asyncio.to_thread(self._count, duration)
