"""What the learner shows of its state once a second; a scrape reads it and computes nothing."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from stream_ft import metrics
from stream_ft.config import Settings
from stream_ft.learn import gate
from stream_ft.learn.job import Result
from stream_ft.replay.store import Counts
from stream_ft.wiring.core import Core
from stream_ft.wiring.rounds import Outcome

COMPOSITION_S = 10.0
"""What the training examples are is counted this often: it reads all of them."""
ENDS = 8
"""Steps at either end of a training that its loss is told of."""
ORIGIN_OF = {2: "label_topic", 1: "user"}
"""By the trust of an example."""


class Gauges:
    """Sets the series that are of the state, not of a single event.

    Args:
        settings: of the process.
        core: whose state.
        series: to set.
    """

    def __init__(self, settings: Settings, core: Core, series: metrics.LearnMetrics) -> None:
        self._core = core
        self._series = series
        self._folder = settings.state_path()
        self._composed = -math.inf
        series.capacity(settings.replay.capacity, settings.replay.holdout_capacity)
        series.gate_margin.set(settings.gate.margin)
        series.round_budget.set(settings.round.seconds)
        series.cpu_budget.set(settings.schedule.budget_cpu_s_per_hour)
        series.round_running.set_function(lambda: 0.0 if (running := core.round) is None else running.elapsed_s)

    def show(self, counts: Counts, *, outbox: int, halted: bool, monotonic: float) -> None:
        """Set them all.

        Args:
            counts: of the store.
            outbox: messages that wait to be published.
            halted: nothing can be taken in.
            monotonic: time, in seconds.
        """
        core, learner, series = self._core, self._core.learner, self._series
        series.examples(counts.train, counts.holdout)
        series.waiting(counts.orphans, counts.waiting - counts.orphans)
        series.examples_upto.set(core.tiers.examples_upto)
        series.unlearned.set(learner.unlearned)
        series.classes.set(len(core.head.labels))
        series.leading.set(learner.leading)
        series.epoch.set(core.state.epoch)
        series.paused.set(core.state.paused)
        series.pinned.set(core.state.pinned)
        series.fruitless.set(learner.fruitless)
        series.outbox.set(outbox)
        series.halted.set(halted)
        if (reading := learner.drift()) is not None:
            series.drift(
                reading.detector, statistic=reading.statistic, threshold=reading.threshold, error=reading.error
            )
        if monotonic - self._composed >= COMPOSITION_S:
            self._composed = monotonic
            self._compose()

    def _compose(self) -> None:
        found = self._core.store.composition(self._core.learner.memory.adapt_upto)
        counts: dict[tuple[str, str], int] = {}
        for (trust, fresh), count in found.by_trust.items():
            counts[ORIGIN_OF.get(trust, "user"), "fresh" if fresh else "replayed"] = count
        self._series.replay(counts, found.class_sizes)
        self._series.store_bytes.set(sum(_size(self._folder / name) for name in ("store.db", "store.db-wal")))
        try:
            disk = shutil.disk_usage(self._folder)
        except OSError:
            return  # the folder is away: what cannot be written says so louder
        self._series.disk_free.set(disk.free)
        self._series.disk_size.set(disk.total)


def ended(series: metrics.LearnMetrics, outcome: Outcome) -> None:
    """A round is over: what it cost, and what it says of its training."""
    series.round_cost(outcome.seconds, outcome.cpu_s)
    if outcome.broke:
        series.over_budget(outcome.broke)
    if (result := outcome.result) is not None:
        series.trained(
            result.kind,
            losses=_ends(result),
            step_s=result.train_s / max(1, result.steps + result.skipped_steps),
            steps=result.steps,
            skipped=result.skipped_steps,
            memory_bytes=result.peak_rss_mb * 2**20,
            gpu_bytes=result.gpu_peak_mb * 2**20,
        )


def judged(series: metrics.LearnMetrics, kind: str, verdict: gate.Verdict) -> None:
    """The gate has decided on a round of this kind."""
    series.verdict(
        kind,
        champion=verdict.champion,
        challenger=verdict.candidate,
        bound=verdict.lower_bound,
        examples=verdict.n,
    )


def _ends(result: Result) -> tuple[float, float] | None:
    if not result.losses:
        return None
    first, last = result.losses[:ENDS], result.losses[-ENDS:]
    return sum(first) / len(first), sum(last) / len(last)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
