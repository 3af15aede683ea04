"""What came of a run, in numbers: ``summary.json``."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stream_ft.connectors.files import Row
from stream_ft.errors import ConfigError
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.measure import Meter

MOST_RECALLS = 10
"""With more classes than this, recall at a precision is not listed."""
MACRO_F1_CLASSES = 2_000


@dataclass(frozen=True, kw_only=True)
class Told:
    """A happening, and the event at which it happened."""

    event: int
    happening: Happening


@dataclass
class Story:
    """Collects what happens while events pass.

    Attributes:
        told: in order.
        latencies: seconds from the arrival of each label to the first prediction by a version that covers it.
    """

    rate: float
    start: float
    told: list[Told] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    _event: int = 0
    _waiting: list[tuple[int, float]] = field(default_factory=list)

    def at(self, event: int) -> None:
        """What happens from now on happens at ``event``."""
        self._event = event

    def happened(self, happening: Happening) -> None:
        """Note a happening."""
        self.told.append(Told(event=self._event, happening=happening))

    def fed(self, seq: int, now: float) -> None:
        """An example with this ``seq`` got its label."""
        self._waiting.append((seq, now))

    def predicted(self, event: int, upto: int) -> None:
        """Event ``event`` was predicted by a version that covers examples up to ``upto``."""
        if not self._waiting or self._waiting[0][0] > upto:
            return
        now = self.start + event / self.rate
        cut = bisect_right(self._waiting, upto, key=lambda row: row[0])
        self.latencies += [now - fed for _, fed in self._waiting[:cut]]
        del self._waiting[:cut]

    def count(self, kind: str) -> int:
        """Happenings of a kind that came of a round; all of them for rollbacks and drift."""
        return sum(
            row.happening.kind == kind and (bool(row.happening.round_kind) or kind in ("rollback", "drift"))
            for row in self.told
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was answered.

    Attributes:
        rows: with the true labels.
        outputs: of the live version at each row's arrival.
        chances: with them, the probability of each label where there are few.
        frozen: of the copy frozen after the first labels (the live outputs before that); ``None`` if it never was.
        softmax: of the online softmax on the pretrained model's embeddings.
        frozen_final, softmax_final: the same two on the test rows.
        refused: rows without a text or label that could be learned from; they are no events.
        final: test rows with the active version's output and its probability, at the end.
    """

    rows: Sequence[Row]
    outputs: Sequence[str]
    chances: Sequence[dict[str, float]]
    frozen: Sequence[str] | None
    softmax: Sequence[str] | None
    final: Sequence[tuple[Row, str, dict[str, float]]]
    frozen_final: Sequence[str] | None = None
    softmax_final: Sequence[str] | None = None
    refused: int = 0


def accuracy(labels: Sequence[str], outputs: Sequence[str]) -> float | None:
    """Share of right answers; ``None`` for none. An empty output is no answer, and never right."""
    return sum(right(a, b) for a, b in zip(labels, outputs, strict=True)) / len(labels) if labels else None


def right(label: str, output: str) -> bool:
    """Whether an output is the label. A model that knows no label yet answers with an empty one: that is no answer."""
    return bool(output) and output == label


def by_phase(rows: Sequence[Row], outputs: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of each phase, in the order of first sight."""
    phases: dict[str, list[bool]] = {}
    for row, output in zip(rows, outputs, strict=True):
        phases.setdefault(row.phase or "", []).append(row.label == output)
    return [{"phase": name, "events": len(hits), "accuracy": sum(hits) / len(hits)} for name, hits in phases.items()]


def macro_f1(labels: Sequence[str], outputs: Sequence[str]) -> float | None:
    """Mean over the true classes of ``2 tp / (2 tp + fp + fn)``."""
    truth, said = Counter(labels), Counter(outputs)
    if not truth or len(truth) > MACRO_F1_CLASSES:
        return None
    hits = Counter(a for a, b in zip(labels, outputs, strict=True) if right(a, b))
    return sum(2 * hits[name] / (truth[name] + said[name]) for name in truth) / len(truth)


def recall_at_precision(positive: Sequence[bool], scores: Sequence[float], precision: float) -> float | None:
    """Highest recall of any threshold on ``scores`` whose precision is at least ``precision``; 0 if none has it.

    Rows of equal score are taken together. ``None`` without positives.
    """
    total = sum(positive)
    if not total:
        return None
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    hits = np.cumsum(np.asarray(positive, np.int64)[order])
    taken = np.arange(1, len(order) + 1)
    ranked = np.asarray(scores, np.float64)[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    good = last & (hits >= precision * taken)
    return float(hits[good].max() / total) if good.any() else 0.0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of the values do not exceed; ``None`` for none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def versions(told: Sequence[Told]) -> list[dict[str, Any]]:
    """Every version that was live and every candidate that was not, in order."""
    rows = []
    for row in told:
        what = row.happening
        if what.kind == "promotion":
            rows.append(_version(what, what.version, "accepted"))
        elif what.kind in ("refusal", "failure") and what.round_kind:
            rows.append(_version(what, "", "refused" if what.kind == "refusal" else "failed"))
        elif what.kind == "rollback":
            rows.append(_version(what, what.version, "rollback"))
    return rows


def _version(what: Happening, name: str, verdict: str) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": what.sha256,
        "parent": what.parent,
        "kind": what.round_kind,
        "verdict": verdict,
        "reason": what.text,
        "numbers": what.numbers,
    }


def summary(
    scores: Scores, story: Story, meter: Meter, *, predict_cpu_s: float, seed: int, config: dict[str, Any]
) -> dict[str, Any]:
    """All of ``summary.json``. Accuracies are fractions; ``null`` where there is nothing to compute one from."""
    labels = [row.label for row in scores.rows]
    final_labels = [row.label for row, _, _ in scores.final]
    final_outputs = [output for _, output, _ in scores.final]
    tested = (final_labels, final_outputs) if final_labels else (labels, list(scores.outputs))
    events = len(labels)
    return {
        "events": events,
        "refused_rows": scores.refused,
        "classes": len(set(labels)),
        "prequential_accuracy": accuracy(labels, scores.outputs),
        "prequential_by_phase": by_phase(scores.rows, scores.outputs),
        "frozen_accuracy": None if scores.frozen is None else accuracy(labels, scores.frozen),
        "online_softmax_accuracy": None if scores.softmax is None else accuracy(labels, scores.softmax),
        "final_test_accuracy": accuracy(final_labels, final_outputs),
        "frozen_final_test_accuracy": _final(scores.frozen_final, final_labels),
        "online_softmax_final_test_accuracy": _final(scores.softmax_final, final_labels),
        "final_test_by_phase": by_phase([row for row, _, _ in scores.final], final_outputs),
        **outcome(story),
        "predict_cpu_s": round(predict_cpu_s, 3),
        "cpu_ms_per_event": round(1000 * meter.cpu_s / events, 3) if events else None,
        "feedback_to_live_s": {"p50": percentile(story.latencies, 0.5), "p99": percentile(story.latencies, 0.99)},
        "dropped_requests": 0,
        "wall_s": round(meter.wall_s, 3),
        "peak_rss_mb": round(meter.peak_rss_mb, 1),
        "macro_f1": macro_f1(*tested),
        "recall_at_precision_99": recalls(scores),
        "seed": seed,
        "config": config,
    }


def outcome(story: Story) -> dict[str, Any]:
    """The part of ``summary.json`` that comes of rounds and commands."""
    told = [row.happening for row in story.told]
    return {
        "promotions": story.count("promotion"),
        "refusals": story.count("refusal"),
        "failures": story.count("failure"),
        "rollbacks": story.count("rollback"),
        "drift_alarms": [
            {"event": row.event, **{k: row.happening.numbers.get(k) for k in ("kind", "direction", "size")}}
            for row in story.told
            if row.happening.kind == "drift"
        ],
        "rounds": story.count("promotion") + story.count("refusal") + story.count("failure"),
        "train_steps": sum(what.steps for what in told),
        "train_cpu_s": round(sum(what.cpu_s for what in told), 3),
        "versions": versions(story.told),
    }


def _final(outputs: Sequence[str] | None, labels: Sequence[str]) -> float | None:
    return None if outputs is None else accuracy(labels, outputs)


def recalls(scores: Scores) -> dict[str, float] | None:
    """Recall at 99 % precision of each class, on the final test or, without one, on the stream.

    ``None`` with more than :data:`MOST_RECALLS` classes.
    """
    if scores.final:
        labels, chances = [row.label for row, _, _ in scores.final], [chances for _, _, chances in scores.final]
    else:
        labels, chances = [row.label for row in scores.rows], list(scores.chances)
    names = sorted(set(labels))
    if not names or len(names) > MOST_RECALLS:
        return None
    found = {
        name: recall_at_precision(
            [label == name for label in labels], [chance.get(name, 0.0) for chance in chances], 0.99
        )
        for name in names
    }
    return {name: value for name, value in found.items() if value is not None}


def out_folder(out: Path) -> Path:
    """The folder for a summary and a report, made if it is not there.

    Raises:
        ConfigError: it cannot be made, because a file is in the way for example.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "is a file, not a folder" if out.is_file() else f"cannot be made: {error.strerror}"
        raise ConfigError(f"{out} {why}.", "Name another folder with --out.") from error
    return out


def write_summary(path: Path, result: dict[str, Any]) -> None:
    """As JSON, for people too; a value that is not a number is an error, never ``NaN``."""
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
