"""`stream-ft simulate`: the learner's own core on a file and a simulated clock.

Events come at :data:`RATE` a second of simulated time. A round runs in a real subprocess, but its result takes effect
after a simulated time that follows from its size alone, so a seed fixes the result whatever the machine. Every event
is predicted by the version that is active when it arrives, then its label is fed as the label topic would.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ft.config import Settings
from stream_ft.connectors.files import Row, read_rows
from stream_ft.errors import ConfigError
from stream_ft.events import LabelCorrection, LabelledEvent, to_json
from stream_ft.learn.baseline import OnlineSoftmax
from stream_ft.learn.job import Job
from stream_ft.model.base import resolve
from stream_ft.model.engines import Engine
from stream_ft.model.mixture import AnyHead
from stream_ft.ports import Outgoing
from stream_ft.release.registry import Registry
from stream_ft.testing import ManualClock, MemoryLog
from stream_ft.topics import topic
from stream_ft.wiring import encoding, genesis, storing
from stream_ft.wiring.core import Core
from stream_ft.wiring.feeding import fed_labels, order_rows, permuted, usable
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.measure import Meter
from stream_ft.wiring.redacting import redaction
from stream_ft.wiring.report import Report, write_report
from stream_ft.wiring.summary import MOST_RECALLS, Scores, Story, out_folder, summary, write_summary
from stream_ft.wiring.summary import right as is_right

RATE = 20.0
"""Events a second of simulated time: the rate at which feedback-to-live is promised."""
FROZEN_AFTER = 1_000
"""Labels after which a copy of the live version is frozen, to compare with."""
AHEAD = 128
"""Texts encoded in one go."""
DRAIN_S = 600.0
START = 1_700_000_000.0
"""Simulated time of the first event."""

Progress = Callable[[int, int, float], None]
"""Called with events done, events in all, accuracy so far."""


def round_seconds(job: Job, examples: int) -> float:
    """Simulated wall time of a round: about what one takes on two cores, as a pure function of its size."""
    if job.kind == "head":
        return 1.0 + 2e-4 * examples
    return 8.0 + 0.35 * job.steps + 4e-3 * examples


@dataclass
class _Frozen:
    base: str
    head: AnyHead
    after: int


class _Ahead:
    """Embeddings of the coming texts under the active base, computed in batches; used up in order."""

    def __init__(self, engine: Engine, texts: Sequence[str], active: Callable[[], str]) -> None:
        self._engine = engine
        self._texts = texts
        self._active = active
        self._known: dict[str, npt.NDArray[np.float16]] = {}
        self._base = ""

    def at(self, index: int, base: str) -> npt.NDArray[np.float16]:
        """Embedding ``[dim]`` of text ``index``."""
        text = self._texts[index]
        self._of(base)
        if text not in self._known:
            if len(self._known) > 8 * AHEAD:
                self._known.clear()
            chunk = list(dict.fromkeys(self._texts[index : index + AHEAD]))
            self._known |= dict(zip(chunk, self._engine.encode(chunk), strict=True))
        return self._known[text]

    def many(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embeddings ``[B, dim]``, from what is known where possible."""
        self._of(self._active())
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(zip(missing, self._engine.encode(missing), strict=True)) if missing else {}
        rows = [self._known[text] if text in self._known else found[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self._engine.dim), np.float16)

    def _of(self, base: str) -> None:
        if base != self._base:
            self._known.clear()
            self._base = base


class Simulation:
    """One run over rows.

    Args:
        settings: of the learner.
        rows: in the order in which they arrive.
        fed: the label fed for each row.
        folder: where rounds work and versions lie; may be removed afterwards.
        label_delay: events between a row and its label.
        progress: told now and then.
    """

    def __init__(
        self,
        settings: Settings,
        rows: Sequence[Row],
        fed: Sequence[str],
        *,
        folder: Path,
        label_delay: int = 0,
        progress: Progress = lambda done, total, accuracy: None,
    ) -> None:
        self.settings = settings
        self.rows = rows
        self.fed = fed
        self.story = Story(rate=RATE, start=START)
        self.outputs: list[str] = []
        self.chances: list[dict[str, float]] = []
        self.frozen: _Frozen | None = None
        self.predict_cpu_s = 0.0
        self._delay = label_delay
        self._progress = progress
        self._clock = ManualClock(START)
        self._log = MemoryLog(clock=self._clock)
        self._labels = topic(settings.model.name, "labels")
        self._offset = 0
        self._fed_count = 0
        self._due: float | None = None
        base = resolve(settings.model.base)
        self.engine = encoding.open_engine(settings, base, threads=settings.round.threads)
        self.registry = Registry(folder / "registry")
        self._ahead = _Ahead(self.engine, [row.text for row in rows], lambda: self.core.in_force.base)
        self.core = Core(
            settings=settings,
            log=self._log,
            store=storing.open_store(settings, ":memory:"),
            registry=self.registry,
            engine=self.engine,
            base=base,
            name="simulate",
            jobs=folder / "jobs",
            embed=self._ahead.many,
            redact=redaction(settings),
            deterministic=True,
            tell=self._tell,
        )
        genesis.ensure(self._log, self.registry, base, model=settings.model.name, dim=self.engine.dim, now=START)
        self.core.follow(START)
        self.core.follow(START)
        self.genesis = self.core.state.base

    def run(self) -> None:
        """Feed every row, then let the clock run on until no round is due."""
        right = 0
        total = len(self.rows)
        for index, row in enumerate(self.rows):
            now = START + index / RATE
            self._round(now)
            before = time.process_time()
            output, chances = answer(self.core.head, self._ahead.at(index, self.core.state.base))
            self.predict_cpu_s += time.process_time() - before
            self.outputs.append(output)
            self.chances.append(chances)
            right += is_right(row.label, output)
            self.story.predicted(index, self.core.tiers.examples_upto)
            if index >= self._delay:
                self._label(index - self._delay, now)
            if index % 50 == 49 or index == total - 1:
                self._progress(index + 1, total, right / (index + 1))
        for step in range(self._delay):
            if total - self._delay + step >= 0:
                self._label(total - self._delay + step, START + (total + step) / RATE)
        self._drain(START + (total + self._delay) / RATE)

    def close(self) -> None:
        """End a round that still runs."""
        if self.core.round is not None:
            self.core.round.kill()
        self.core.store.close()

    def _label(self, index: int, now: float) -> None:
        event = LabelledEvent(
            id=str(index),
            input=self.rows[index].text,
            correction=LabelCorrection(label=self.fed[index]),
            source="file",
            time=now,
        )
        self._clock.set(now)
        self._log.append([Outgoing(topic=self._labels, value=to_json(event))])
        records = self._log.read(self._labels, 0, self._offset, 1)
        self._offset = records[-1].offset + 1
        self.story.at(index)
        applied = self.core.ingest(records, now)
        for example in applied.examples:
            self.story.fed(example.seq, now)
        self._freshen(now)
        self._fed_count += 1
        if self._fed_count == FROZEN_AFTER:
            self.frozen = _Frozen(base=self.core.state.base, head=self.core.head, after=index + 1)
        self._plan(now)

    def _freshen(self, now: float) -> None:
        while self.core.freshen(now):
            pass

    def _round(self, now: float) -> None:
        """Bring in a round whose simulated time is over."""
        while self._due is not None and now >= self._due and self.core.round is not None:
            due, self._due = self._due, None
            self._clock.set(due)
            self.core.finish(self.core.round.wait(), due)
            self._freshen(due)
            self._plan(due)

    def _plan(self, now: float) -> None:
        if self.core.round is not None and self._due is None:
            job = self.core.round.job
            self._due = now + round_seconds(job, self.core.round.train_examples)

    def _drain(self, now: float) -> None:
        end = now + DRAIN_S
        while now < end:
            self.core.perform([], now)
            self._plan(now)
            wait = self.core.learner.decision.next_s
            if self._due is not None:
                now = max(now, self._due)
                self._round(now)
            elif wait is not None:
                now += max(wait, 0.5)
            else:
                return

    def _tell(self, happening: Happening) -> None:
        self.story.happened(happening)


def simulate(
    file: str | Path,
    *,
    text_column: str,
    label_column: str,
    out: str | Path,
    test: str | Path | None = None,
    phase_column: str | None = None,
    order: str = "file",
    seed: int = 0,
    limit: int | None = None,
    noise: float = 0.0,
    label_delay: int = 0,
    permute_labels: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Try a policy on a file before it goes live.

    Args:
        file: CSV, TSV or JSON lines with one labelled text a row.
        text_column, label_column, phase_column: names, or numbers from 0 for a file without a header.
        out: folder for ``summary.json`` and ``report.html``.
        test: file of the same shape for the last score; never looked at before.
        order: ``file`` or ``shuffle``.
        seed: fixes order, noise, training and sampling.
        limit: feed only this many rows.
        noise: share of the labels fed that is replaced by another class; scores use the true label.
        label_delay: events between a text and its label.
        permute_labels: permute the true labels at random first: a check that the score measures learning.
        settings: of the learner; the defaults, environment included, if not given.
        progress: called with events done, events in all and the accuracy so far.

    Returns:
        The summary, as written to ``out/summary.json``.

    Raises:
        ConfigError: a file, column or flag cannot be used.
        ModelNotFoundError: the base model is not there.
    """
    settings = settings if settings is not None else Settings()
    settings = settings.model_copy(update={"seed": seed})
    if label_delay < 0:
        raise ConfigError("The label delay is negative.", "Give the number of events between a text and its label.")
    rows = read_rows(Path(file), text_column=text_column, label_column=label_column, phase_column=phase_column)
    read = order_rows(rows, order=order, seed=seed, limit=limit)
    rows = [row for row in read if usable(row)]
    if read and not rows:
        raise ConfigError(f"No row of {file} has a text and a label.", "Check the columns.")
    if permute_labels:
        rows = permuted(rows, seed)
    fed = fed_labels(rows, noise=noise, seed=seed)
    tests = (
        read_rows(Path(test), text_column=text_column, label_column=label_column, phase_column=phase_column)
        if test
        else []
    )
    tests = [row for row in tests if usable(row)]
    folder = out_folder(Path(out))
    with tempfile.TemporaryDirectory(prefix="stream-ft-") as work:
        run = Simulation(
            settings,
            rows,
            fed,
            folder=Path(work),
            label_delay=label_delay,
            progress=progress or (lambda done, total, accuracy: None),
        )
        try:
            with Meter() as meter:
                run.run()
            final = _final(run, tests)
            compared = _compare(run, tests)
        finally:
            run.close()
    scores = Scores(
        rows=rows,
        outputs=run.outputs,
        chances=run.chances,
        frozen=compared.frozen,
        softmax=compared.softmax,
        final=final,
        frozen_final=compared.frozen_final,
        softmax_final=compared.softmax_final,
        refused=len(read) - len(rows),
    )
    result = summary(scores, run.story, meter, predict_cpu_s=run.predict_cpu_s, seed=seed, config=settings.model_dump())
    write_summary(folder / "summary.json", result)
    write_report(folder / "report.html", _report(Path(file).name, result, scores, run))
    return result


def answer(head: AnyHead, embedding: npt.NDArray[np.float16]) -> tuple[str, dict[str, float]]:
    """Label of an embedding ``[dim]``, and the probability of each label where there are few."""
    if not head.labels:
        return "", {}
    p = head.probabilities(embedding[None])[0]
    few = len(head.labels) <= MOST_RECALLS
    return head.labels[int(p.argmax())], dict(zip(head.labels, p.tolist(), strict=True)) if few else {}


def _final(run: Simulation, tests: Sequence[Row]) -> list[tuple[Row, str, dict[str, float]]]:
    """Row, output and probabilities, from the serving engine with the active version."""
    found: list[tuple[Row, str, dict[str, float]]] = []
    for start in range(0, len(tests), AHEAD):
        chunk = tests[start : start + AHEAD]
        embeddings = run.engine.encode([row.text for row in chunk])
        found += [(row, *answer(run.core.head, e)) for row, e in zip(chunk, embeddings, strict=True)]
    return found


@dataclass(frozen=True, kw_only=True)
class _Compared:
    frozen: list[str] | None
    frozen_final: list[str] | None
    softmax: list[str]
    softmax_final: list[str]


def _compare(run: Simulation, tests: Sequence[Row]) -> _Compared:
    """What the frozen copy and a plain online softmax would have answered: not part of the run that is measured."""
    texts = [row.text for row in run.rows]
    final = [row.text for row in tests]
    plain, plain_final = _under(run, run.genesis, texts), _under(run, run.genesis, final)
    softmax = OnlineSoftmax(run.engine.dim)
    guesses: list[str] = []
    for embedding, label in zip(plain, run.fed, strict=True):
        guesses.append(softmax.predict(embedding))
        softmax.learn(embedding, label)
    frozen = frozen_final = None
    if run.frozen is not None:
        late, final_rows = plain[run.frozen.after :], plain_final
        if run.frozen.base != run.genesis:
            late, final_rows = (_under(run, run.frozen.base, some) for some in (texts[run.frozen.after :], final))
        head = run.frozen.head
        frozen = run.outputs[: run.frozen.after] + [answer(head, e)[0] for e in late]
        frozen_final = [answer(head, e)[0] for e in final_rows]
    return _Compared(
        frozen=frozen,
        frozen_final=frozen_final,
        softmax=guesses,
        softmax_final=[softmax.predict(e) for e in plain_final],
    )


def _under(run: Simulation, base: str, texts: Sequence[str]) -> list[npt.NDArray[np.float16]]:
    """Embeddings of ``texts`` under a base, which stays active."""
    run.engine.prepare(base, run.registry.get(base))
    run.engine.activate(base)
    return [row for start in range(0, len(texts), AHEAD) for row in run.engine.encode(texts[start : start + AHEAD])]


def _report(title: str, result: dict[str, Any], scores: Scores, run: Simulation) -> Report:
    def hits(outputs: Sequence[str]) -> list[bool]:
        return [is_right(row.label, output) for row, output in zip(scores.rows, outputs, strict=True)]

    phases: dict[str, int] = {}
    for index, row in enumerate(scores.rows):
        if row.phase:
            phases.setdefault(row.phase, index)
    return Report(
        title=f"stream_ft on {title}",
        summary=result,
        live=hits(scores.outputs),
        frozen=None if scores.frozen is None else hits(scores.frozen),
        softmax=None if scores.softmax is None else hits(scores.softmax),
        story=run.story.told,
        phases=[(first, name) for name, first in phases.items()],
    )
