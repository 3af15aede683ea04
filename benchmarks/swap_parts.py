"""What the swap benchmark is about: the serving process' own parts in this process, and an operator who promotes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
from safetensors.numpy import load, save
from served import promote, release

from stream_ft import control, metrics
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.connectors.local import LocalLog
from stream_ft.memory import settle
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import open_engine
from stream_ft.model.heads import Head
from stream_ft.ports import Outgoing
from stream_ft.priority import NICE, be_nice
from stream_ft.release.registry import Registry
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Listed
from stream_ft.serve.challenger import Failure
from stream_ft.serve.follow import Follower
from stream_ft.serve.slots import Answer, Slots, Version
from stream_ft.topics import topic
from stream_ft.wiring import genesis

MODEL = "bench"
LABELS = 77
BETWEEN_S = 0.25
"""From a flip to the next release under load: so that a swap is not charged with what waits since the one before."""
PATIENCE_S = 120.0
ASKED_EVERY_S = 0.002
"""After a rollback, until the version from before answers."""
FAILURES = {"corrupt": "hash", "wrong base": "base", "wrong labels": "labels", "not a number": "finite"}
"""What is wrong with a release, and the step that must catch it."""

_ROWS = np.random.default_rng(1).normal(size=(LABELS + 2_000, 384)).astype(np.float16).astype(np.float32)


def head_of(labels: int) -> Head:
    """A head with so many labels; the same rows for the same labels."""
    return Head(
        labels=tuple(f"label {i}" for i in range(labels)),
        weight=_ROWS[:labels],
        bias=np.zeros(labels, np.float32),
        projection=None,
        dim=_ROWS.shape[1],
    )


@dataclass
class Swap:
    """One attempt: from the announcement being read to the flip, or to the step that caught it."""

    epoch: int
    """Of the release that was wanted."""
    begun: float
    ended: float
    step: str
    flip_s: float
    """On the forward thread."""


class Watched(Follower):
    """The follower, with a note of when each swap began and ended."""

    swaps: list[Swap]
    swapped: threading.Event
    """Set at the end of each."""
    read_at: float | None = None
    """When the announcement was read that is being followed."""
    completions: list[tuple[float, float]]
    """When what a version can do without at first was begun, and when it was done."""
    completing_since: float | None = None

    def step(self) -> None:
        """One look, with a note of what is left to complete after it."""
        loader, now = self._loader, time.perf_counter()
        before = loader._incomplete
        super().step()
        building = getattr(loader._engine, "_building", None) is not None
        if self.completing_since is None and building:
            self.completing_since = now
        elif self.completing_since is not None and not building and before and not loader._incomplete:
            self.completions.append((self.completing_since, time.perf_counter()))
            self.completing_since = None

    def _fold_new(self) -> None:
        before, now = self.offset, time.perf_counter()
        super()._fold_new()
        if self.offset != before:
            self.read_at = now

    def _load(self, wanted: Listed, *, put: Callable[[Version], None]) -> Failure | None:
        flip_s = 0.0

        def timed(version: Version) -> None:
            nonlocal flip_s
            started = time.perf_counter()
            put(version)
            flip_s = time.perf_counter() - started

        begun, self.read_at = time.perf_counter() if self.read_at is None else self.read_at, None
        failure = super()._load(wanted, put=timed)
        step = "" if failure is None else failure.step
        self.swaps.append(Swap(epoch=wanted.epoch, begun=begun, ended=time.perf_counter(), step=step, flip_s=flip_s))
        self.swapped.set()
        return failure


@dataclass
class Served:
    """The parts under test, and what was promoted."""

    folder: Path
    base: BaseFolder
    engine: Engine
    registry: Registry
    log: LocalLog
    slots: Slots
    batcher: Batcher[Answer]
    follower: Watched
    versions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Number of the adapter and of the head's labels of each version, by the name that it answers under."""

    def complete(self) -> None:
        """Until what the version in force can do without at first is done."""
        while self.follower._loader._incomplete:
            time.sleep(ASKED_EVERY_S)

    def close(self) -> None:
        """End the threads."""
        self.follower.close()
        self.batcher.close()
        self.log.close()


def open_parts(folder: Path, base: BaseFolder) -> Served:
    """As the serving process puts them together."""
    engine = open_engine(base, cache=Settings().cache_path(), device="cpu", gives_way=True, whole=True)
    registry = Registry(folder / "registry")
    log = LocalLog(folder, writes=["serve"])
    genesis.ensure(log, registry, base, model=MODEL, dim=engine.dim, now=time.time())
    slots = Slots(engine)
    limits = Settings().serve
    batcher: Batcher[Answer] = Batcher(
        slots.forward,
        challenger=slots.forward_challenger,
        max_batch=limits.max_batch,
        queue=limits.queue,
        deadline_s=limits.deadline_s,
        max_wait_s=limits.max_wait_s,
    )
    follower = Watched(
        model=MODEL,
        replica="bench",
        log=log,
        artifacts=registry,
        engine=engine,
        slots=slots,
        batcher=batcher,
        publish=lambda message: True,
        metrics=metrics.ServeMetrics(metrics.new_registry()),
        clock=SystemClock(),
        state_path=folder / "serve.state",
    )
    follower.swaps, follower.swapped, follower.completions = [], threading.Event(), []
    batcher.start()
    follower.start()
    if not follower.wait(60):
        raise TimeoutError("no version answers")
    settle()
    return Served(folder, base, engine, registry, log, slots, batcher, follower)


class Operator:
    """Promotes one release after another; waits for what becomes of each.

    Args:
        parts: what is served.
        plan: what to promote: the number of an adapter, or what is wrong.
        bases: files of each adapter.
        grow: of every how many good swaps one adds a label.
    """

    def __init__(self, parts: Served, plan: Iterator[int | str], bases: list[dict[str, bytes]], grow: int) -> None:
        self.parts, self.plan, self.bases, self.grow = parts, plan, bases, grow
        self.caught: dict[str, list[str]] = {name: [] for name in FAILURES}
        self.good = self.grown = 0
        self.done = False
        self.resident_mb: list[float] = []
        """Of this process, after each step."""
        self._labels = LABELS
        self._rng = np.random.default_rng(1)
        self._process = psutil.Process()
        # Releases come from a learner elsewhere: in this process, making one would hold up those who ask.
        self._maker = ProcessPoolExecutor(
            1, get_context("spawn"), _start_making, (parts.folder / "registry", parts.base, bases)
        )
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, seconds: float) -> None:
        """Begin steps of the plan on a thread for so long; the last one is ended, and is none that fails: the server
        tries such a one again after a while."""
        self._thread = threading.Thread(target=self._run, args=(time.monotonic() + seconds,), daemon=True)
        self._thread.start()

    def busy(self) -> bool:
        """Whether a step is under way.

        Raises:
            RuntimeError: a step failed.
        """
        if self._error is not None:
            raise RuntimeError("a step of the plan failed") from self._error
        return self._thread is not None and self._thread.is_alive()

    def start_rollbacks(self, count: int, times: list[float]) -> None:
        """Begin promotions, each rolled back, on a thread; ``times`` gets what :func:`rollbacks` tells."""

        def job() -> None:
            try:
                times.extend(rollbacks(self, count))
            except BaseException as error:  # told by the next question
                self._error = error

        self._thread = threading.Thread(target=job, daemon=True)
        self._thread.start()

    def _run(self, until: float) -> None:
        try:
            step: int | str | None = None
            while time.monotonic() < until or isinstance(step, str):
                step = next(self.plan, None)
                if step is None:
                    self.done = True
                    break
                self.step(step)
                time.sleep(BETWEEN_S)
            self.parts.complete()  # beside requests, as it comes
            time.sleep(BETWEEN_S)
        except BaseException as error:  # told by the next question
            self._error = error

    def step(self, step: int | str) -> None:
        """One promotion, until it answers or is caught."""
        parts = self.parts
        if isinstance(step, int) and self.good % self.grow == self.grow - 1:
            self._labels += 1
            self.grown += 1
        number = step if isinstance(step, int) else int(self._rng.integers(len(self.bases)))
        name, head_name = self._maker.submit(_release, step, number, self._labels).result()
        state = parts.follower.state
        before = len(parts.follower.swaps)
        promote(parts.log, MODEL, base=name, head=head_name, parent=state.base, epoch=state.epoch)
        found = self._outcome(state.epoch + 1, before)
        if isinstance(step, int):
            if found:
                raise RuntimeError(f"a good release was refused at {found}")
            self.good += 1
            parts.versions[parts.follower.state.version] = (number, self._labels)
        else:
            self.caught[step].append(found)
        if state.epoch > 2:
            parts.registry.delete(state.base)
        self.resident_mb.append(self._process.memory_info().rss / 1e6)

    def _outcome(self, epoch: int, before: int) -> str:
        """Of the first attempt at a release: the step that caught it, or nothing. Others may be tried again."""
        follower = self.parts.follower
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            follower.swapped.clear()
            for swap in follower.swaps[before:]:
                if swap.epoch == epoch:
                    return swap.step
            follower.swapped.wait(1.0)
        raise TimeoutError(f"nothing came of the release of epoch {epoch}")

    def close(self) -> None:
        """End the process that makes releases."""
        self._maker.shutdown()


_making: tuple[Registry, BaseFolder, list[dict[str, bytes]]]
"""In the process that makes releases: where they go, and of what they are made."""


def _start_making(root: Path, base: BaseFolder, bases: list[dict[str, bytes]]) -> None:
    global _making
    be_nice(NICE)
    _making = Registry(root), base, bases


def _release(step: int | str, number: int, labels: int) -> tuple[str, str]:
    """Names of the base and the head of a new release in the registry."""
    registry, base, bases = _making
    head = head_of(labels)
    files = dict(bases[number])
    # Each promotion is a base of its own: what the engine may have kept must not be what is measured.
    files["note.json"] = json.dumps({"promotion": time.time_ns()}).encode()
    if step == "wrong base":
        base = BaseFolder(name=base.name, path=base.path, sha256="0" * 64)
    elif step == "not a number":
        tensors = load(files["adapter_model.safetensors"])
        first = sorted(tensors)[0]
        tensors[first] = np.full_like(tensors[first], np.nan)
        files["adapter_model.safetensors"] = save(tensors)
    elif step == "wrong labels":
        names = (head.labels[1], *head.labels[1:])
        head = Head(labels=names, weight=head.weight, bias=head.bias, projection=None, dim=head.dim)
    name, head_name = release(registry, base, files, head)
    if step == "corrupt":
        path = registry.path(name) / "adapter_model.safetensors"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.chmod(0o644)
        path.write_bytes(bytes(data))
    return name, head_name


def rollbacks(operator: Operator, count: int) -> list[float]:
    """Seconds from an acknowledged rollback to the previous version to its first answer."""
    parts = operator.parts
    times = []
    for number in range(count):
        operator.step(number % len(operator.bases))
        state = parts.follower.state
        to_epoch, target = state.history[-2]
        back = next(made for name, made in parts.versions.items() if name.split(".")[1] == str(to_epoch))
        parts.versions[f"v{state.numbers[target.base]}.{state.epoch + 1}.0"] = back
        message = control.new(
            control.Rollback, by="operator/bench", now=time.time(), to_epoch=to_epoch, reason="measured"
        )
        parts.log.append([Outgoing(topic=topic(MODEL, "control"), value=msgspec.json.encode(message))])
        begun = time.perf_counter()
        while _answering(parts) <= state.epoch:
            time.sleep(ASKED_EVERY_S)
        times.append(time.perf_counter() - begun)
    return times


def _answering(parts: Served) -> int:
    (answer,) = asyncio.run(parts.batcher.submit(["hello"]))
    epoch: int = answer.version.epoch
    return epoch


def any_of(parts: Served) -> dict[str, Any]:
    """How the engine encodes."""
    engine: Any = parts.engine
    return {"engine": type(engine).__name__, "threads": engine.threads, "spinning": getattr(engine, "spinning", False)}
