"""The report: one HTML file that needs nothing else. Words first, then the curve, the versions and the speed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from stream_ft.wiring.chart import Mark, Point, buckets, curve_svg, histogram_svg, rolling
from stream_ft.wiring.summary import Told

MOST_REASONS = 5
"""Refusals whose reasons are told in words; all are in the table."""
MOST_ROWS = 400
"""Rows of a table; of longer ones the newest are shown, and that is said."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made of.

    Attributes:
        title: its heading.
        summary: ``summary.json``; keys that are missing or ``None`` are left out of the page.
        live: for each event, in order, was the live answer right?
        frozen: the same for the model frozen after its first labels; ``None`` if there was none.
        story: what happened, in order.
        phases: first event and name of each phase of the stream.
        latency_s: how long each answer took, seconds; empty where nothing was served.
        window: events over which accuracy rolls.
    """

    title: str
    summary: Mapping[str, Any]
    live: Sequence[bool]
    frozen: Sequence[bool] | None = None
    story: Sequence[Told] = ()
    phases: Sequence[tuple[int, str]] = ()
    latency_s: Sequence[float] = field(default=())
    window: int = 200


def write_report(path: Path, report: Report) -> None:
    """Write the page to ``path``."""
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page as HTML. Nothing in it is fetched, and every text is escaped."""
    points = rolling(report.live, report.frozen, window=report.window)
    marks = [_mark(told) for told in report.story]
    pictures = {
        name: curve_svg(points, marks, len(report.live), phases=report.phases, width=width, ident=name)
        for name, width in (("wide", 1000), ("narrow", 380))
    }
    page = Template(files("stream_ft.wiring").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(report.title),
        headline=escape(headline(report.summary)),
        words=_words(report.summary, report.story),
        figures=_figures(report.summary),
        key=_key(points),
        caption=_caption(report),
        phases=_phases(report.summary),
        versions=_versions(report.summary),
        speed=_speed(report),
        story=_story(report.story),
        json=escape(json.dumps(report.summary, indent=1, ensure_ascii=False, default=str)),
        **pictures,
    )


def headline(summary: Mapping[str, Any]) -> str:
    """The last line of the demo: the three learners side by side, whoever is ahead.

    Of the final test where all three took it, else of the stream, each event before it was learned.
    """
    final = [summary.get(f"{name}final_test_accuracy") for name in ("frozen_", "online_softmax_", "")]
    stream = [summary.get(name) for name in ("frozen_accuracy", "online_softmax_accuracy", "prequential_accuracy")]
    frozen, softmax, ours = final if None not in final else stream
    cost = summary.get("cpu_ms_per_event")
    at = "" if cost is None else f", at {cost:.0f} ms per event"
    return (
        f"On this data: frozen {_share(frozen)}, plain online softmax {_share(softmax)}, stream_ft {_share(ours)}{at}."
    )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    return f"{abs(100 * value):.1f} points"


def _times(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _mark(told: Told) -> Mark:
    what = told.happening
    return Mark(
        event=told.event,
        kind=what.kind,
        text=f"{what.version} {what.text}".strip() if what.kind == "promotion" else what.text,
        heavy=what.kind == "promotion" and what.round_kind not in ("", "head"),
    )


# --- in words --------------------------------------------------------------------------------------------------


def _words(summary: Mapping[str, Any], story: Sequence[Told]) -> str:
    parts = ["<h2>What was gained</h2>", *_gained(summary), "<h2>What was refused, and why</h2>", *_refused(summary)]
    turned = [*_drifts(summary), *_rollbacks(story)]
    if turned:
        parts += ["<h2>What went wrong, and what was done</h2>", *turned]
    return "\n".join(parts)


def _p(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _gained(summary: Mapping[str, Any]) -> list[str]:
    live, frozen, events = (
        summary.get("prequential_accuracy"),
        summary.get("frozen_accuracy"),
        summary.get("events") or 0,
    )
    if live is None:
        return [_p("Nothing yet: there were no events.")]
    parts = [
        _p(
            f"Of {_times(events, 'message')} in {_times(summary.get('classes') or 0, 'class', 'classes')}, "
            f"the live model answered {_share(live)} right, each before it had learned from it."
            + (f" {_compare(live, frozen, 'over the stream')}" if frozen is not None else "")
        )
    ]
    final, frozen = summary.get("final_test_accuracy"), summary.get("frozen_final_test_accuracy")
    if final is not None:
        parts.append(
            _p(
                f"On the final test, which it never saw, the last version answers {_share(final)} right."
                + (f" {_compare(final, frozen, 'there')}" if frozen is not None else "")
            )
        )
    promotions, encoder = summary.get("promotions") or 0, _encoder_rounds(summary)
    if promotions:
        parts.append(
            _p(
                f"{_times(promotions, 'new version')} went live"
                + (f", {encoder} of them with a newly trained encoder." if encoder else ", each with a refitted head.")
            )
        )
    else:
        parts.append(_p("No new version went live."))
    return parts


def _compare(live: float, frozen: float, where: str) -> str:
    copy = f"The same model, frozen after its first 1,000 labels, reaches {_share(frozen)}"
    if abs(live - frozen) < 0.0005:
        return f"{copy}: learning on made no difference {where}."
    if live > frozen:
        return f"{copy}: learning on was worth {_points(live - frozen)} {where}."
    return f"{copy}: learning on cost {_points(frozen - live)} {where}."


def _encoder_rounds(summary: Mapping[str, Any]) -> int:
    return sum(
        row.get("verdict") == "accepted" and row.get("kind") not in ("", None, "head", "genesis")
        for row in summary.get("versions") or []
    )


def _refused(summary: Mapping[str, Any]) -> list[str]:
    refused = [row for row in summary.get("versions") or [] if row.get("verdict") in ("refused", "failed")]
    count = max(len(refused), summary.get("refusals") or 0)
    if not count:
        return [_p("No candidate was refused.")]
    reasons = Counter(str(row.get("reason") or "") for row in refused)
    latest = [reason for reason in dict.fromkeys(str(row.get("reason") or "") for row in reversed(refused)) if reason]
    said = (
        f"{_times(count, 'candidate')} did not go live, and no user saw an answer of {'it' if count == 1 else 'them'}."
    )
    if not latest:
        return [_p(said)]
    why = (
        "The reason:" if len(latest) == 1 else "The reasons:" if len(latest) <= MOST_REASONS else "The latest reasons:"
    )
    rows = [
        f"<li>{escape(reason)}{escape(f' ({reasons[reason]:,} times)') if reasons[reason] > 1 else ''}</li>"
        for reason in reversed(latest[:MOST_REASONS])
    ]
    return [_p(f"{said} {why}"), "<ul>" + "".join(rows) + "</ul>"]


def _drifts(summary: Mapping[str, Any]) -> list[str]:
    alarms = summary.get("drift_alarms") or []
    if not alarms:
        return []
    events = ", ".join(f"{alarm['event']:,}" for alarm in alarms[:8]) + (" and later" if len(alarms) > 8 else "")
    at = "at event" if len(alarms) == 1 else "at events"
    return [_p(f"Drift: {_times(len(alarms), 'alarm')} that the live version's errors had risen, {at} {events}.")]


def _rollbacks(story: Sequence[Told]) -> list[str]:
    return [
        _p(f"Rolled back at event {told.event:,}: {told.happening.text}")
        for told in story
        if told.happening.kind == "rollback"
    ]


# --- figures and tables ----------------------------------------------------------------------------------------


def _figures(summary: Mapping[str, Any]) -> str:
    final = summary.get("final_test_accuracy")
    rows = [
        ("Accuracy over the stream", _share(summary.get("prequential_accuracy"))),
        ("Frozen copy", _share(summary.get("frozen_accuracy"))),
        ("Final test", None if final is None else _share(final)),
        ("Promotions", summary.get("promotions")),
        ("Refusals", summary.get("refusals")),
        ("Rollbacks", summary.get("rollbacks")),
        ("Drift alarms", len(summary.get("drift_alarms") or [])),
        ("Requests dropped", summary.get("dropped_requests")),
    ]
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in rows if value is not None
    )


def _key(points: Sequence[Point]) -> str:
    key = "<li><span></span>live</li>"
    if any(point.frozen is not None for point in points):
        key += '<li><span class="is-frozen"></span>frozen after its first 1,000 labels</li>'
    return key


def _caption(report: Report) -> str:
    return (
        f"Share of right answers among the last {report.window} events, each answered before it was learned from. "
        "Larger circles: the encoder itself was trained."
    )


def _table(caption: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """``columns``: name and class of each; cells are HTML already."""
    shown = rows[-MOST_ROWS:]
    if len(shown) < len(rows):
        caption += f" The newest {MOST_ROWS:,} of {len(rows):,}."
    head = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{cell}</td>' for (_, kind), cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in shown
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _phases(summary: Mapping[str, Any]) -> str:
    rows = []
    for part, key in (("stream", "prequential_by_phase"), ("final test", "final_test_by_phase")):
        found = summary.get(key) or []
        if len(found) > 1:
            rows += [[part, escape(str(r["phase"])), f"{r['events']:,}", _share(r["accuracy"])] for r in found]
    columns = (("Part", ""), ("Phase", ""), ("Events", "number"), ("Accuracy", "number"))
    return _table("Accuracy by phase.", columns, rows) if rows else ""


def _versions(summary: Mapping[str, Any]) -> str:
    rows = [_version(row) for row in summary.get("versions") or []]
    if not rows:
        return _p("No candidate was judged.")
    columns = (
        ("Version", ""),
        ("Round", ""),
        ("Verdict", ""),
        ("Why", "reason"),
        ("Champion", "number"),
        ("Candidate", "number"),
        ("Lower bound", "number"),
        ("Examples", "number"),
    )
    return _table(
        "Each candidate and the gate's verdict. Lower bound: of candidate minus champion, one-sided.", columns, rows
    )


def _version(row: Mapping[str, Any]) -> list[str]:
    numbers = row.get("numbers") or {}
    verdict = str(row.get("verdict") or "")

    def number(name: str, sign: str = "") -> str:
        value = numbers.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return ""
        return f"{value:{sign}.3f}" if numbers.get("scale") == "loss" else f"{value:{sign}.1%}"

    return [
        escape(str(row.get("name") or str(row.get("sha256") or "")[:8])),
        escape(str(row.get("kind") or "")),
        f'<span class="verdict-{escape(verdict)}">{escape(verdict)}</span>',
        escape(str(numbers.get("reason") or row.get("reason") or "")),
        number("champion"),
        number("candidate"),
        number("lower_bound", "+"),
        escape(str(numbers.get("n", ""))),
    ]


def _speed(report: Report) -> str:
    summary = report.summary
    live = summary.get("feedback_to_live_s") or {}
    parts = []
    if live.get("p50") is not None:
        parts.append(
            _p(
                "From an acknowledged correction to the first answer by a version that had it: "
                f"{live['p50']:.1f} s in the middle, {live.get('p99') or live['p50']:.1f} s at the 99th percentile."
            )
        )
    cost = summary.get("cpu_ms_per_event")
    if cost is not None:
        memory = summary.get("peak_rss_mb")
        parts.append(
            _p(
                f"{cost:.1f} ms of CPU per event, everything included"
                + (f"; {memory:,.0f} MB of memory at the most, over all processes." if memory else ".")
            )
        )
    if report.latency_s:
        ordered = sorted(report.latency_s)
        middle, most = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        dropped = summary.get("dropped_requests") or 0
        parts.append(
            _p(
                f"{_times(len(ordered), 'answer')} over HTTP: {1000 * middle:.0f} ms in the middle, "
                f"{1000 * most:.0f} ms at the 99th percentile; {_times(dropped, 'request')} dropped."
            )
        )
        parts.append(f"<figure>{histogram_svg(buckets(ordered), ident='latency')}</figure>")
    return "\n".join(parts)


def _story(story: Sequence[Told]) -> str:
    if not story:
        return ""
    rows = [[f"{told.event:,}", escape(told.happening.kind), escape(told.happening.text)] for told in story]
    columns = (("Event", "number"), ("What", ""), ("In words", "reason"))
    return "<h2>What happened, in order</h2>" + _table("Rounds, verdicts, alarms and commands.", columns, rows)
