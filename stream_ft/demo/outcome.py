"""What came of a demo: its summary and its report, from what the client saw."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from stream_ft.connectors.files import Row
from stream_ft.demo.client import Dropped
from stream_ft.demo.plan import Plan
from stream_ft.demo.screen import News
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.report import Report
from stream_ft.wiring.summary import Told, accuracy, by_phase, macro_f1, percentile, versions


class Seen(Struct, frozen=True, kw_only=True):
    """What the client saw, and what the others would have answered.

    Attributes:
        rows: every message of the stream that was sent, with its right label.
        outputs: what was answered; empty where the request was dropped.
        frozen, softmax: what the frozen copy and the online softmax would have answered.
        frozen_from: first row that the frozen copy answered itself; before it is the live model.
        sent_at: when each row was sent, ascending.
        happenings: as the learner told them.
        import_verdicts: of the rounds that learned from the whole broken import.
        said: what the demo did itself is among these, of kind ``demo``.
        final: answers to the final test, live, frozen, softmax.
        waits: seconds from feedback to live, one for each event that got there.
        latencies: seconds of each answer.
        dropped: requests that were not answered in time.
    """

    rows: Sequence[Row]
    outputs: Sequence[str]
    frozen: Sequence[str]
    softmax: Sequence[str]
    frozen_from: int
    sent_at: Sequence[float]
    happenings: Sequence[Happening]
    final: tuple[Sequence[str], Sequence[str] | None, Sequence[str]]
    waits: Sequence[float]
    latencies: Sequence[float]
    dropped: Sequence[Dropped]
    sent: int
    cpu_s: float
    serve_cpu_s: float
    peak_rss_mb: float
    wall_s: float
    said: Sequence[News] = ()
    import_verdicts: Sequence[str] = ()


def story(seen: Seen) -> list[Told]:
    """Happenings with the event at which each came."""
    return [Told(event=bisect_right(seen.sent_at, what.time), happening=what) for what in seen.happenings]


def summary(plan: Plan, seen: Seen) -> dict[str, Any]:
    """``summary.json``; accuracies are fractions, ``None`` where there is nothing to compute one from."""
    told = story(seen)
    labels = [row.label for row in seen.rows]
    right = [row.label for row in plan.test]
    live, frozen, softmax = seen.final
    rounds = [row.happening for row in told if row.happening.round_kind]
    counts = {kind: sum(row.kind == kind for row in rounds) for kind in ("promotion", "refusal", "failure")}
    events = len(labels)
    return {
        "events": events,
        "classes": len(set(labels)),
        "prequential_accuracy": accuracy(labels, seen.outputs),
        "prequential_by_phase": by_phase(seen.rows, seen.outputs),
        "frozen_accuracy": accuracy(labels, seen.frozen),
        "frozen_after": seen.frozen_from,
        "online_softmax_accuracy": accuracy(labels, seen.softmax),
        "final_test_accuracy": accuracy(right, live),
        "final_test_by_phase": by_phase(plan.test, live),
        "frozen_final_test_accuracy": None if frozen is None else accuracy(right, frozen),
        "online_softmax_final_test_accuracy": accuracy(right, softmax),
        "promotions": counts["promotion"],
        "refusals": counts["refusal"],
        "failures": counts["failure"],
        "rollbacks": sum(row.happening.kind == "rollback" for row in told),
        "automatic_rollbacks": sum(
            row.happening.kind == "rollback" and bool(row.happening.numbers.get("automatic")) for row in told
        ),
        "drift_alarms": [
            {"event": row.event, **{name: row.happening.numbers.get(name) for name in ("kind", "direction", "size")}}
            for row in told
            if row.happening.kind == "drift"
        ],
        "rounds": sum(counts.values()),
        "train_steps": sum(row.steps for row in rounds),
        "train_cpu_s": round(sum(row.cpu_s for row in rounds), 3),
        "predict_cpu_s": round(seen.serve_cpu_s, 3),
        "cpu_ms_per_event": round(1_000 * seen.cpu_s / events, 3) if events else None,
        "feedback_to_live_s": {"p50": percentile(seen.waits, 0.5), "p99": percentile(seen.waits, 0.99)},
        "import_verdicts": list(seen.import_verdicts),
        "requests": seen.sent,
        "dropped_requests": len(seen.dropped),
        "dropped": [structs.asdict(row) for row in seen.dropped],
        "wall_s": round(seen.wall_s, 3),
        "peak_rss_mb": round(seen.peak_rss_mb, 1),
        "macro_f1": macro_f1(right, live),
        "recall_at_precision_99": None,
        "versions": versions(told),
        "seed": plan.seed,
        "config": {"min_evaluation": plan.min_evaluation, "freeze_after": plan.freeze_after},
    }


def report(plan: Plan, seen: Seen, result: dict[str, Any]) -> Report:
    """The report of the same run."""

    def hits(outputs: Sequence[str]) -> list[bool]:
        return [row.label == output for row, output in zip(seen.rows, outputs, strict=True)]

    return Report(
        title=f"stream_ft demo: {plan.title}",
        summary=result,
        live=hits(seen.outputs),
        frozen=hits(seen.frozen),
        softmax=hits(seen.softmax),
        story=story(seen),
        said=_said(plan, seen),
        phases=plan.phases(),
        phase_names=plan.phase_names,
        latency_s=seen.latencies,
    )


def _said(plan: Plan, seen: Seen) -> list[tuple[int, str]]:
    """What the demo told of itself, and where the messages change their meaning, which nobody tells the model."""
    found = [(min(news.at, len(seen.rows)), news.text) for news in seen.said if news.kind == "demo"]
    found += [
        (start, f"From here on: {plan.phase_names[name]}.")
        for start, name in plan.phases()[1:]
        if name in plan.phase_names and start < len(seen.rows)
    ]
    return sorted(found, key=lambda row: row[0])
