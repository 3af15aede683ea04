"""The demo's course: traffic all along, one broken import, one rollback, the final test.

Nothing here decides anything about the model: it sends messages, labels and one command, and watches.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stream_ft.demo.client import Client, feedback_to_live
from stream_ft.demo.compare import Comparison, Final, Freeze, Stream
from stream_ft.demo.outcome import Seen
from stream_ft.demo.plan import Plan
from stream_ft.demo.screen import News, Picture
from stream_ft.demo.system import System
from stream_ft.demo.traffic import Traffic
from stream_ft.errors import StreamFTError
from stream_ft.wiring.happening import Happening

RATE = 24.0
"""Messages a second."""
WINDOW = 200
CHUNK = 48
WATCH_S = 1.0
IMPORT_FROM = 0.74
"""Share of the stream after which the import may come, once the encoder was trained and the head refitted on it."""
IMPORT_LATEST_S = 150.0
"""It comes then in any case: the demo must end."""
PATIENCE_S = 45.0
"""The operator waits this long for the gate's verdict on the import."""
AFTERWARDS = 700
"""Messages that still come after the rollback."""
SETTLE_S = 20.0
IMPORT_SOURCE = "bulk-import"
WORDS = {
    "promotion": "Live: ",
    "refusal": "Refused: ",
    "failure": "Failed: ",
    "rollback": "Rolled back: ",
    "drift": "Drift: ",
}


class Play:
    """One performance.

    Args:
        plan: what to play.
        system: the running system.
        comparison: the others.
        show: called with the picture whenever it changed.
    """

    def __init__(self, plan: Plan, system: System, comparison: Comparison, show: Callable[[Picture], None]) -> None:
        self.plan = plan
        self.picture = Picture(title=plan.title, total=len(plan.stream))
        self.client = Client(system.url)
        self.traffic = Traffic(self.client, plan.stream, rate=RATE, seed=plan.seed)
        self.happenings: list[Happening] = []
        self._system = system
        self._comparison = comparison
        self._show = show
        self._more = itertools.cycle(plan.more)
        self._begun = time.monotonic()
        self._peak = 0.0
        self._idle = False
        self._versions: list[dict[str, Any]] = []
        self._frozen: list[str] = []
        self._softmax: list[str] = []
        self._frozen_from: int | None = None
        self.imported_at = self.rolled_back_at = float("inf")

    def import_verdicts(self) -> list[str]:
        """What became of the rounds that began with the whole import in the store and before the rollback."""
        return verdicts(self.happenings, self.imported_at, self.rolled_back_at)

    async def run(self) -> Seen:
        """Play it to the end of the final test."""
        before = self._system.usage()
        self.say("Customers begin to write. The model knows no label yet.")
        watcher = asyncio.create_task(self._watch())
        comparer = asyncio.create_task(self._compare())
        self.traffic.more_to_come = True  # until the director has seen the import through
        director = asyncio.create_task(self._direct())
        try:
            await self._alongside(self.traffic.run(), watcher, comparer, director)
            sent = self.traffic.rows[: len(self.traffic.sent_at)]
            # Whoever trains now may finish: the last labels have only just arrived.
            await self._settle()
            while len(self._softmax) < len(sent):
                await asyncio.sleep(0.1)
            after = self._system.usage()
            self.say(f"The final test: {len(self.plan.test):,} messages that never came before.")
            final = await self._ask_all([row.text for row in self.plan.test])
            guesses = await asyncio.to_thread(self._comparison.ask, Final(texts=[row.text for row in self.plan.test]))
            self._versions = await self.client.versions() or self._versions
            await self._look()
        finally:
            for task in (watcher, comparer, director):
                task.cancel()
            await asyncio.gather(watcher, comparer, director, return_exceptions=True)
        del sent[len(self.plan.stream) + len(self.plan.more) :]  # what comes again was learned from: it proves nothing
        frozen_from = len(sent) if self._frozen_from is None else self._frozen_from
        outputs = [output or "" for output in self.traffic.outputs[: len(sent)]]
        return Seen(
            rows=sent,
            outputs=outputs,
            frozen=outputs[:frozen_from] + self._frozen[frozen_from : len(sent)],
            softmax=self._softmax[: len(sent)],
            frozen_from=frozen_from,
            sent_at=self.traffic.sent_at[: len(sent)],
            happenings=self.happenings,
            final=(final, guesses.frozen, guesses.softmax),
            waits=feedback_to_live(
                self.client.acknowledged, self.client.first_seen, [*self._versions, *self.client.heads.values()]
            ),
            latencies=self.client.latencies,
            dropped=self.client.dropped,
            sent=self.client.sent,
            cpu_s=after.cpu_s - before.cpu_s,
            serve_cpu_s=after.serve_cpu_s - before.serve_cpu_s,
            peak_rss_mb=self._peak,
            wall_s=time.monotonic() - self._begun,
            said=self.picture.news,
            import_verdicts=self.import_verdicts(),
        )

    def say(self, text: str, kind: str = "demo") -> None:
        """Put a line under what just happened."""
        self.picture.news.append(News(at=len(self.traffic.sent_at), kind=kind, text=text))

    @staticmethod
    async def _alongside(main: Any, *others: asyncio.Task[None]) -> None:
        """Await ``main``; an error of another task ends it at once."""
        first = asyncio.ensure_future(main)
        open_tasks: set[asyncio.Future[None]] = {first, *others}
        try:
            while not first.done():
                done, open_tasks = await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            first.cancel()

    # --- watching ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._look()
            if not self._system.alive():
                raise StreamFTError(f"stream-ft up ended: {self._system.last_words()}")
            await asyncio.sleep(WATCH_S)

    async def _look(self) -> None:
        status = await self.client.status()
        learner = status.get("learn") or {}
        for what in msgspec.convert(learner.get("happenings") or [], list[Happening])[len(self.happenings) :]:
            self.happenings.append(what)
            if what.kind == "round" and " head round " in what.text:
                continue  # its verdict follows within seconds: two lines for one thing
            self.say(WORDS.get(what.kind, "") + what.text, what.kind)
        working = learner.get("round") or {}
        self._idle = not working
        usage = await asyncio.to_thread(self._system.usage)
        self._peak = max(self._peak, usage.resident_mb)
        version = str((status.get("serve") or {}).get("version") or learner.get("version") or "")
        if version and version != self.picture.version:
            self._versions = await self.client.versions() or self._versions
        self._paint(version, learner)

    def _paint(self, version: str, learner: dict[str, Any]) -> None:
        picture, client = self.picture, self.client
        answered = len(self.traffic.sent_at)
        while answered and self.traffic.outputs[answered - 1] is None and answered > len(self.traffic.sent_at) - 20:
            answered -= 1
        hits = [o == r.label for o, r in zip(self.traffic.outputs[:answered], self.traffic.rows, strict=False)]
        picture.done, picture.total = len(self.traffic.sent_at), len(self.traffic.rows)
        picture.seconds = time.monotonic() - self._begun
        picture.live = _mean(hits[-WINDOW:])
        picture.live_curve = _rolling(hits)
        if self._frozen_from is not None:
            start = self._frozen_from
            hits = hits[:start] + [o == r.label for o, r in zip(self._frozen, self.traffic.rows, strict=False)][start:]
            picture.frozen = _mean(hits[max(start, len(hits) - WINDOW) :])
            picture.frozen_curve = _rolling(hits)
        picture.version, picture.versions = version, len(self._versions)
        picture.examples = int((learner.get("counts") or {}).get("train") or 0)
        picture.next_round = str((learner.get("next_round") or {}).get("reason") or "")
        picture.sent, picture.dropped, picture.last_error = client.sent, len(client.dropped), client.last_error
        picture.latency_ms = 1_000 * sorted(client.latencies)[len(client.latencies) // 2] if client.latencies else None
        self._show(picture)

    # --- the others --------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        while True:
            if not await self._compare_next():
                await asyncio.sleep(0.5)

    async def _compare_next(self) -> bool:
        if self._frozen_from is None and len(self.traffic.labelled) >= self.plan.freeze_after:
            await self._freeze()
        start = len(self._softmax)
        rows = self.traffic.rows[start : min(len(self.traffic.sent_at), start + CHUNK)]
        if not rows:
            return False
        guesses = await asyncio.to_thread(self._comparison.ask, Stream(rows=[(row.text, row.label) for row in rows]))
        self._softmax += guesses.softmax
        self._frozen += guesses.frozen if guesses.frozen is not None else [""] * len(rows)
        return True

    async def _freeze(self) -> None:
        active = next((row for row in reversed(await self.client.versions()) if row["active"]), None)
        if active is None:
            return
        await asyncio.to_thread(self._comparison.ask, Freeze(base=active["base"], head=active["start_head"]))
        self._frozen_from = len(self._softmax)
        self.say(f"A copy of {active['version']} is frozen, to compare with: it will learn no more.")

    # --- what is done to the system ----------------------------------------------------------------------------

    async def _direct(self) -> None:
        begun = time.monotonic()
        while time.monotonic() - begun < IMPORT_LATEST_S:
            if len(self.traffic.sent_at) >= IMPORT_FROM * len(self.plan.stream) and self._steady():
                break
            self._keep_coming(120)
            await asyncio.sleep(0.2)
        good = [str(row["version"]) for row in await self.client.versions()]
        self.say(f"A broken import publishes {len(self.plan.imported)} labels, each with the name of another desk.")
        for start in range(0, len(self.plan.imported), 100):
            await self.client.labels(self.plan.imported[start : start + 100])
        self.imported_at = time.time()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and "refusal" not in self.import_verdicts():
            self._keep_coming(120)
            await asyncio.sleep(0.2)
        self.rolled_back_at = time.time()
        await self._roll_back(good)
        self._keep_coming(AFTERWARDS)
        self.traffic.more_to_come = False

    async def _roll_back(self, good: Sequence[str]) -> None:
        target = rollback_target(await self.client.versions() or self._versions, good)
        self.say(f"The operator rolls back to {target} and puts the import in quarantine, with one message.")
        reason = "a broken import was found; a version from before it, until it is out of the examples"
        await asyncio.to_thread(
            self._system.control, "rollback", "--to", target, "--reason", reason, "--quarantine-source", IMPORT_SOURCE
        )

    def _steady(self) -> bool:
        """The encoder was trained, whatever the gate said, and two rounds of the head came after it."""
        kinds = [what.round_kind for what in self.happenings if what.kind in ("promotion", "refusal")]
        last = max((place for place, kind in enumerate(kinds) if kind not in ("", "head")), default=None)
        return last is not None and len(kinds) - last > 2

    def _keep_coming(self, least: int) -> None:
        """See to it that at least ``least`` messages are still to be sent."""
        missing = least - (len(self.traffic.rows) - len(self.traffic.sent_at))
        if missing > 0:
            self.traffic.extend([next(self._more) for _ in range(missing)])

    async def _settle(self) -> None:
        """Go on asking, without labels, until no round runs and none is due, or for :data:`SETTLE_S` at most."""
        begun, begun_at = time.monotonic(), time.time()
        texts = random.Random(self.plan.seed)
        while time.monotonic() - begun < SETTLE_S:
            await asyncio.gather(self.client.predict(texts.choice(self.plan.stream).text), asyncio.sleep(1 / RATE))
            over = any(w.time > begun_at and w.kind in ("promotion", "refusal") for w in self.happenings)
            if self._idle and (over or time.monotonic() - begun > SETTLE_S / 3):
                return

    async def _ask_all(self, texts: Sequence[str]) -> list[str]:
        """Answers in order, four at a time; empty where a request was dropped."""
        answers = [""] * len(texts)
        waiting = iter(enumerate(texts))

        async def worker() -> None:
            for index, text in waiting:
                answer = await self.client.predict(text)
                answers[index] = "" if answer is None else answer.label

        await asyncio.gather(*(worker() for _ in range(4)))
        return answers


def verdicts(happenings: Sequence[Happening], since: float, until: float) -> list[str]:
    """Kinds, ``promotion``, ``refusal`` or ``failure``, of the outcomes of the rounds that began between two times."""
    found = []
    mine = False
    for what in happenings:
        if what.kind == "round":
            mine = since <= what.time <= until
        elif mine and what.kind in ("promotion", "refusal", "failure"):
            found.append(what.kind)
            mine = False
    return found


def rollback_target(versions: Sequence[dict[str, Any]], good: Sequence[str]) -> str:
    """The newest of the ``good`` versions that is not the last one; else ``previous``.

    One on the base that is active now is preferred: then nothing but a head is left behind, and no base is denied.
    """
    if not versions:
        return "previous"
    now = versions[-1]
    earlier = [row for row in versions[:-1] if row["version"] in good and row["start_head"] != now["start_head"]]
    same = [row for row in earlier if row["base"] == now["base"]]
    return str((same or earlier)[-1]["version"]) if earlier else "previous"


def _mean(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _rolling(hits: Sequence[bool], points: int = 120) -> list[float]:
    ends = range(max(1, len(hits) // points), len(hits) + 1, max(1, len(hits) // points))
    return [sum(hits[max(0, end - WINDOW) : end]) / min(end, WINDOW) for end in ends]
