"""A learner in one object: real store, registry, fold, gate and loop; the engine and the clock are fakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from stream_ft import control, metrics
from stream_ft.config import Settings, load
from stream_ft.connectors.local import LocalLog
from stream_ft.events import LabelCorrection, LabelledEvent, to_json
from stream_ft.learn.fast.tier import FastTier
from stream_ft.learn.job import Job, Result
from stream_ft.model.base import BaseFolder
from stream_ft.model.heads import Head
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release.fold import INITIAL, Entry, Verdict, fold
from stream_ft.release.registry import Registry
from stream_ft.testing import FakeEngine, ManualClock, MemoryLog
from stream_ft.topics import topic
from stream_ft.wiring import genesis, storing
from stream_ft.wiring.core import Core
from stream_ft.wiring.fast import Fast
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.learn import Loop
from stream_ft.wiring.rounds import Outcome

DIM = 16
START = 1_700_000_000.0
CALM: dict[str, Any] = {
    "schedule.interval_s": 0.0,
    "schedule.min_new": 10,
    "schedule.min_evaluation": 1_000_000,
    "schedule.adapt_every": 0,
    "schedule.adapt_on_drift": False,
    "round.projection": 0,
    "fast.enabled": False,
    "gate.margin": 1.0,
    "replay.holdout_share": 0.0,
}
"""Settings under which no round ever starts: there is never enough to judge it by."""
ROUNDS: dict[str, Any] = {"schedule.min_evaluation": 20}
"""What to give so that a few dozen examples bring one."""


def names(kind: str) -> str:
    """The topic of the model ``default``."""
    return topic("default", kind)


class Learning:
    """What a learning process has, on a state folder.

    Args:
        folder: the state folder.
        log: the event log; :class:`MemoryLog` if not given, the files of the embedded default if ``files``.
        name: the learner's.
        follow: fold the control log at once, as a process does before its first pass.
        store: file name of its store, so that two can work in one folder.
        settings: dotted names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        log: EventLog | None = None,
        files: bool = False,
        clock: ManualClock | None = None,
        name: str = "a",
        store: str = "store.db",
        follow: bool = True,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.clock = clock or ManualClock(START)
        self._mine: EventLog | None = None
        if log is None:
            # The test publishes what the serving process would, so it writes that file too.
            self._mine = log = (
                LocalLog(folder, writes=("serve", "learn"), now=self.clock.now)
                if files
                else MemoryLog(clock=self.clock)
            )
        self.log: EventLog = log
        self.settings: Settings = load(None, CALM | {"state_dir": str(folder), "learn.name": name} | settings)
        self.registry = Registry(folder / "registry")
        self.engine = FakeEngine(DIM)
        self.store = storing.open_store(self.settings, folder / store)
        self.base = BaseFolder(name="tiny", path=folder, sha256="0" * 64)
        self.happenings: list[Happening] = []
        genesis.ensure(self.log, self.registry, self.base, model="default", dim=DIM, now=self.clock.now())
        self.core = Core(
            settings=self.settings,
            log=self.log,
            store=self.store,
            registry=self.registry,
            engine=self.engine,
            base=self.base,
            name=name,
            jobs=folder / f"jobs-{name}",
        )
        self.loop = Loop(
            settings=self.settings,
            core=self.core,
            log=self.log,
            clock=self.clock,
            series=metrics.LearnMetrics(CollectorRegistry()),
            status=folder / f"{name}.status.json",
        )
        self.core.tell_to(self._hear)
        if follow:
            self.core.follow(self.clock.now())

    def _hear(self, happening: Happening) -> None:
        self.happenings.append(happening)
        self.loop.tell(happening)

    def publish(self, kind: str, *values: bytes) -> None:
        """Append to a topic of the model, as a publisher does."""
        self.log.append([Outgoing(topic=names(kind), value=value) for value in values])

    def label(self, start: int, stop: int, *, of: Sequence[str] = ("a", "b"), padding: int = 0) -> None:
        """Publish labelled events, each with an id of its own."""
        self.publish(
            "labels", *(labelled(number, of[number % len(of)], padding=padding) for number in range(start, stop))
        )

    def step(self, times: int = 1, seconds: float = 2.0) -> None:
        """Passes of the loop with time between them."""
        for _ in range(times):
            self.clock.advance(seconds)
            self.loop.step()

    def issue(self, kind: type[control.Command], *, by: str = "operator/test", **fields: Any) -> None:
        """Append a command to the control log."""
        message = control.new(kind, by=by, now=self.clock.now(), **fields)
        self.publish("control", msgspec.json.encode(message))

    def folded(self) -> list[Verdict]:
        """What became of each message of the control log."""
        state, verdicts = INITIAL, []
        for record in self.log.read(names("control"), 0, 0, 10_000):
            state, verdict = fold(
                state, Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
            )
            verdicts.append(verdict)
        return verdicts

    def applied(self) -> list[str]:
        """Inputs of everything with a label that the store applied, each as often as it did."""
        return [text for (text,) in self.store._db.execute("SELECT input FROM claims WHERE correction IS NOT NULL")]

    def said(self, kind: str) -> list[str]:
        """Texts of the happenings of a kind."""
        return [happening.text for happening in self.happenings if happening.kind == kind]

    def close(self) -> None:
        """Let go of the round and the files. Idempotent."""
        if self.core.round is not None:
            self.core.round.kill()
        self.store.close()
        if self._mine is not None:
            self._mine.close()


def text(number: int, padding: int = 0) -> str:
    """Words that no other number shares."""
    return " ".join(f"{number:x}{word}{number * 7919:x}" for word in ("one", "two", "six", "ten")) + " pad" * padding


def labelled(number: int, label: str, *, padding: int = 0) -> bytes:
    """A labelled event."""
    event = LabelledEvent(id=f"e{number}", input=text(number, padding), correction=LabelCorrection(label=label))
    return to_json(event)


def outcome(job: Job, folder: Path, *, champion: float = 0.2, candidate: float = 0.9, n: int = 100) -> Outcome:
    """A round that ended with a candidate of these accuracies, its head lying in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "head.safetensors").write_bytes(Head.empty(DIM).to_bytes())
    scores = [[1.0] * round(n * share) + [0.0] * (n - round(n * share)) for share in (champion, candidate)]
    result = Result(
        ok=True,
        kind=job.kind,
        examples_upto=job.examples_upto,
        scores_champion=scores[0],
        scores_candidate=scores[1],
        classes=["x"] * n,
    )
    return Outcome(job=job, folder=folder, result=result, cpu_s=1.0)


FAST: dict[str, Any] = {"fast.enabled": True, "fast.checkpoint_every": 40}
"""Settings of a learner with a fast tier, and checkpoints that come soon."""


def fast(learning: Learning) -> Fast:
    """The fast tier at work."""
    found = learning.core.tiers.fast
    assert found is not None
    return found


def tier(learning: Learning) -> FastTier:
    """What it has learned."""
    found = fast(learning)._tier
    assert found is not None
    return found
