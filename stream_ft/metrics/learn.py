"""Every series of a learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product

from prometheus_client import CollectorRegistry, Gauge

from stream_ft.metrics.labels import (
    AGES,
    DEAD_LETTERS,
    EVENT_KINDS,
    LIMITS,
    ORIGINS,
    ROUND_KINDS,
    TIERS,
    TOPICS,
    VERDICTS,
    WORST,
    LastBases,
    base_and_tier,
    short,
    slug,
)
from stream_ft.metrics.registry import kinds

SECONDS_BUCKETS = (0.1, 1.0, 5.0, 10.0, 60.0, 300.0)
LIVE_BUCKETS = (0.5, 1.0, 2.5, 5.0, 30.0, 120.0, 300.0, 1800.0)


class LearnMetrics:
    """Series of the learner; one instance per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge, histogram = kinds(registry)
        # fmt: off
        # --- what comes in
        self._events = counter("stream_ft_events", "Events taken from the log, by kind.", ["kind"])
        self._dead = counter("stream_ft_dead_letters", "Events refused, by reason.", ["reason"])
        self.ingest_seconds = histogram("stream_ft_ingest_seconds",
            "Time of one batch of events: parsed, answered, committed.", buckets=SECONDS_BUCKETS)
        self._records = counter("stream_ft_consumer_records", "Records whose offsets were committed.", ["topic"])
        self._lag = gauge("stream_ft_consumer_lag_events", "Records in the log that were not taken yet.", ["topic"])
        self._behind = gauge("stream_ft_consumer_lag_seconds",
            "Age of the oldest record that was not taken when the log was read last; 0 if none waits.", ["topic"])
        self._partitions = gauge("stream_ft_consumer_partitions", "Partitions that are read.", ["topic"])
        self._stalled = gauge("stream_ft_consumer_stalled_seconds",
            "Of the partition that has stood still for longest with records waiting: for how long.", ["topic"])
        self.halted = gauge("stream_ft_consumer_halted",
            "1 while nothing can be taken in: a log was cut, or something cannot be written.")
        self.pass_age = gauge("stream_ft_learner_pass_age_seconds", "Since the loop last ended a whole pass.")
        self._waiting = gauge("stream_ft_waiting_events",
            "Events that wait for their prediction, or for their label to be allowed.", ["reason"])
        self.outbox = gauge("stream_ft_outbox_messages", "Messages waiting to be published.")
        self.store_bytes = gauge("stream_ft_store_bytes", "Size of the store's file and log.")
        self.disk_free = gauge("stream_ft_disk_free_bytes", "Free on the disk of the state folder.")
        self.disk_size = gauge("stream_ft_disk_size_bytes", "Size of that disk.")
        # --- how good it is
        self._accuracy = gauge("stream_ft_live_accuracy_ratio",
            "Rolling accuracy of a base's answers, where labels cover what they sample.", ["base", "tier"])
        self._rolling = gauge("stream_ft_accuracy_ratio", "Rolling accuracy, whatever version answered.", ["window"])
        self._scored = counter("stream_ft_scored_answers",
            "Answers whose label came regardless of whether they were right.", ["base", "result"])
        self._bases = LastBases(self._accuracy, self._scored)
        self._recall = gauge("stream_ft_class_recall_ratio",
            "Rolling recall of the classes that do worst, and of all the rest together.", ["class"])
        self._worst: set[str] = set()
        self._judged = counter("stream_ft_user_judgements", "Answers that users judged.", ["result"])
        self._corrections = gauge("stream_ft_correction_ratio",
            "Of the last answers that users judged, the share that they rejected or corrected.", ["window"])
        self._rating = gauge("stream_ft_rating_mean", "Mean of the last ratings that users gave.", ["window"])
        self.to_live = histogram("stream_ft_feedback_to_live_seconds",
            "From the append of a label or correction to the promotion of a version that learned from it.",
            buckets=LIVE_BUCKETS)
        self.unlearned = gauge("stream_ft_unlearned_examples", "New or revised since the active version's examples.")
        self.drift_alarms = counter("stream_ft_drift_alarms", "Alarms of the drift detector.")
        self._drift = gauge("stream_ft_drift_statistic", "What the drift detector watches.", ["detector"])
        self._threshold = gauge("stream_ft_drift_threshold", "Where the statistic is an alarm.", ["detector"])
        self._error = gauge("stream_ft_drift_error_ratio", "Error of the last answers that the drift detector saw.",
            ["detector"] )
        # --- what is remembered
        self._examples = gauge("stream_ft_examples", "Examples held.", ["split"])
        self._capacity = gauge("stream_ft_examples_capacity", "Most examples held.", ["split"])
        self._replay = gauge("stream_ft_replay_examples",
            "Training examples by who said what is right, and by whether an encoder round had them.", ["origin", "age"])
        self._class_size = gauge("stream_ft_replay_class_examples",
            "Training examples of the largest, the median and the smallest class.", ["class"])
        self.examples_upto = gauge("stream_ft_examples_upto", "Store sequence number that the active version covers.")
        self.classes = gauge("stream_ft_classes", "Labels that the active version can answer.")
        # --- rounds
        self._rounds = counter("stream_ft_rounds", "Rounds by kind and verdict.", ["kind", "verdict"])
        self._round_seconds = histogram("stream_ft_round_seconds", "Wall time of a round.", buckets=SECONDS_BUCKETS)
        self._round_cpu = counter("stream_ft_round_cpu_seconds", "CPU time of rounds.")
        self.round_running = gauge("stream_ft_round_elapsed_seconds",
            "Of the round that runs: since its start; 0 if none." )
        self.round_budget = gauge("stream_ft_round_budget_seconds", "A round is to end itself within this.")
        self.cpu_budget = gauge("stream_ft_rounds_cpu_budget_seconds", "CPU time that rounds may take in an hour.")
        self._over = counter("stream_ft_rounds_over_budget", "Rounds that were killed, by the limit they broke.",
            ["limit"] )
        self.fruitless = gauge("stream_ft_rounds_without_promotion", "Rounds in a row that brought no promotion.")
        self._memory = gauge("stream_ft_round_memory_bytes", "Largest resident size of the last round.", ["kind"])
        self._gpu = gauge("stream_ft_round_gpu_memory_bytes", "Largest GPU memory of the last round.", ["kind"])
        self._loss = gauge("stream_ft_trainer_loss", "Mean loss of the first and of the last steps of the last round.",
            ["steps"] )
        self._step = gauge("stream_ft_trainer_step_seconds", "Mean time of a step of the last round.", ["kind"])
        self._steps = counter("stream_ft_trainer_steps", "Optimiser steps, by result.", ["result"])
        self._gate_score = gauge("stream_ft_gate_score_ratio", "Mean score at the last verdict.", ["version"])
        self._gate_bound = gauge("stream_ft_gate_bound_ratio",
            "Lower bound of challenger minus champion at the last verdict.", ["kind"] )
        self._gate_examples = gauge("stream_ft_gate_examples", "Examples judged by at the last verdict.", ["kind"])
        self.gate_margin = gauge("stream_ft_gate_margin_ratio", "The bound may be this much below zero.")
        # --- releases
        self._promotions = counter("stream_ft_promotions", "Promotions, by the kind of round behind them.", ["kind"])
        self.rollbacks = counter("stream_ft_rollbacks", "Rollbacks and denials that took effect.")
        self.leading = gauge("stream_ft_leading", "1 while this learner leads.")
        self.epoch = gauge("stream_ft_control_epoch", "Epoch of the control log.")
        self.paused = gauge("stream_ft_paused", "1 while an operator has paused learning.")
        self.pinned = gauge("stream_ft_pinned", "1 while an operator has pinned the version.")
        # fmt: on
        # A series that is born with its first event has no rate of it: alerts would miss it.
        for family, values in (
            (self._events, EVENT_KINDS),
            (self._dead, (*DEAD_LETTERS, "other")),
            (self._over, LIMITS),
            (self._steps, ("taken", "skipped")),
            (self._promotions, (*ROUND_KINDS, "operator")),
        ):
            for name in values:
                family.labels(name)
        for kind, verdict in product(ROUND_KINDS, VERDICTS):
            self._rounds.labels(kind, verdict)

    def event(self, kind: str, count: int = 1) -> None:
        """Count events taken from the log."""
        self._events.labels(slug(kind, EVENT_KINDS)).inc(count)

    def dead_letter(self, reason: str) -> None:
        """Count one refused event."""
        self._dead.labels(slug(reason, DEAD_LETTERS)).inc()

    def consumed(self, topic: str, count: int) -> None:
        """Count records whose offsets were committed; a topic by its kind (one of :data:`TOPICS`)."""
        self._records.labels(slug(topic, TOPICS)).inc(count)

    def consumer(
        self, topic: str, *, lag: int, behind_s: float, partitions: int, stalled_s: Callable[[], float]
    ) -> None:
        """Set how far the reading of a topic is.

        Args:
            topic: its kind, not its name.
            lag: records that were not taken yet, of all partitions.
            behind_s: age of the oldest of them.
            partitions: that are read.
            stalled_s: asked at every scrape: for how long the slowest partition has stood still with records waiting.
        """
        topic = slug(topic, TOPICS)
        self._lag.labels(topic).set(lag)
        self._behind.labels(topic).set(behind_s)
        self._partitions.labels(topic).set(partitions)
        self._stalled.labels(topic).set_function(stalled_s)

    def waiting(self, orphans: int, new_labels: int) -> None:
        """Set how many events wait, and for what."""
        self._waiting.labels("orphan").set(orphans)
        self._waiting.labels("new_label").set(new_labels)

    def scored(self, version: str, correct: bool) -> None:
        """Count one answer whose label covers what it samples."""
        base, _ = base_and_tier(version)
        self._bases.touch(base)
        self._scored.labels(base, "right" if correct else "wrong").inc()

    def accuracy(self, base: str, tier: str, ratio: float) -> None:
        """Set the rolling accuracy of a base's answers."""
        self._bases.touch(base)
        self._accuracy.labels(base, slug(tier, TIERS)).set(ratio)

    def recall(self, worst: Mapping[str, float], rest: float | None) -> None:
        """Set the recall of the classes that do worst; all others lose their series.

        Args:
            worst: class to recall; no more than :data:`~stream_ft.metrics.labels.WORST` are taken.
            rest: of all the others together; ``None`` if there are none.
        """
        shown = {short(name): value for name, value in list(worst.items())[:WORST]}
        if rest is not None:
            shown["other"] = rest
        for name in self._worst - shown.keys():
            self._recall.remove(name)
        for name, value in shown.items():
            self._recall.labels(name).set(value)
        self._worst = set(shown)

    def judged(self, right: bool) -> None:
        """Count one answer that a user judged."""
        self._judged.labels("right" if right else "wrong").inc()

    def rolling(self, *, accuracy: float | None, corrections: float | None, rating: float | None) -> None:
        """Set the numbers that are of the last answers, whatever version gave them; what is not known has no series."""
        for family, value in ((self._rolling, accuracy), (self._corrections, corrections), (self._rating, rating)):
            if value is not None:
                family.labels("last").set(value)

    def drift(self, detector: str, *, statistic: float, threshold: float, error: float) -> None:
        """Set what the drift detector watches, and where that is an alarm."""
        self._drift.labels(detector).set(statistic)
        self._threshold.labels(detector).set(threshold)
        self._error.labels(detector).set(error)

    def examples(self, train: int, holdout: int) -> None:
        """Set how many examples are held."""
        self._examples.labels("train").set(train)
        self._examples.labels("holdout").set(holdout)

    def capacity(self, train: int, holdout: int) -> None:
        """Set how many examples may be held."""
        self._capacity.labels("train").set(train)
        self._capacity.labels("holdout").set(holdout)

    def replay(self, counts: Mapping[tuple[str, str], int], class_sizes: Iterable[int]) -> None:
        """Set what the training examples are.

        Args:
            counts: by origin (of :data:`ORIGINS`) and age (of :data:`AGES`).
            class_sizes: training examples of each class.
        """
        for origin in ORIGINS:
            for age in AGES:
                self._replay.labels(origin, age).set(counts.get((origin, age), 0))
        if sizes := sorted(class_sizes):
            for name, size in (("largest", sizes[-1]), ("median", sizes[len(sizes) // 2]), ("smallest", sizes[0])):
                self._class_size.labels(name).set(size)

    def round(self, kind: str, verdict: str) -> None:
        """Count one round that ended."""
        self._rounds.labels(slug(kind, ROUND_KINDS), slug(verdict, VERDICTS)).inc()

    def round_cost(self, seconds: float, cpu_s: float) -> None:
        """Wall and CPU time of a round that ended, however it did."""
        self._round_seconds.observe(seconds)
        self._round_cpu.inc(max(0.0, cpu_s))

    def over_budget(self, limit: str) -> None:
        """Count one round that was killed: for its ``time`` or its ``memory``."""
        self._over.labels(slug(limit, LIMITS)).inc()

    def trained(
        self, kind: str, *, losses: tuple[float, float] | None, step_s: float, steps: int, skipped: int,
        memory_bytes: float, gpu_bytes: float,
    ) -> None:  # fmt: skip
        """What a round says of its training.

        Args:
            kind: of the round.
            losses: mean of the first and of the last steps; ``None`` where nothing was trained by steps.
            step_s: mean seconds of a step.
            steps, skipped: taken, and passed over for want of a finite loss or of memory.
            memory_bytes: largest resident size.
            gpu_bytes: largest GPU memory; 0 where no GPU was used, which has no series.
        """
        kind = slug(kind, ROUND_KINDS)
        _only(self._memory, kind, memory_bytes)
        if gpu_bytes > 0:
            _only(self._gpu, kind, gpu_bytes)
        if losses is not None:
            self._loss.labels("first").set(losses[0])
            self._loss.labels("last").set(losses[1])
            _only(self._step, kind, step_s)
            self._steps.labels("taken").inc(steps)
            self._steps.labels("skipped").inc(skipped)

    def verdict(
        self, kind: str, *, champion: float | None, challenger: float | None, bound: float | None, examples: int
    ) -> None:
        """Set the numbers of the gate's last verdict; what could not be computed has no series."""
        kind = slug(kind, ROUND_KINDS)
        for version, score in (("champion", champion), ("challenger", challenger)):
            if score is not None and math.isfinite(score):
                self._gate_score.labels(version).set(score)
        if bound is not None and math.isfinite(bound):
            _only(self._gate_bound, kind, bound)
        _only(self._gate_examples, kind, examples)

    def promoted(self, kind: str) -> None:
        """Count one promotion: by a round of ``kind``, or by an ``operator``."""
        self._promotions.labels(slug(kind, (*ROUND_KINDS, "operator"))).inc()


def _only(family: Gauge, label: str, value: float) -> None:
    """Set one series and remove the others: what is of the last round is of no round before."""
    family.clear()
    family.labels(label).set(value)
