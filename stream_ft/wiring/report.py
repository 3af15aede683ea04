"""The report: one HTML file that needs nothing else. Words first, then the curve, the versions and the speed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from stream_ft.wiring import report_tables as tables
from stream_ft.wiring.chart import TOLD, Mark, Point, buckets, curve_svg, histogram_svg, rolling
from stream_ft.wiring.report_words import frozen_when, paragraph, times, words
from stream_ft.wiring.standing import (
    EVEN,
    FROZEN,
    OURS,
    SOFTMAX,
    Standing,
    before_headline,
    headline,
    losses,
    on_final,
    on_stream,
    points,
    share,
)
from stream_ft.wiring.summary import Told


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made of.

    Attributes:
        title: its heading.
        summary: ``summary.json``; keys that are missing or ``None`` are left out of the page.
        live: for each event, in order, was the live answer right?
        frozen: the same for the model frozen after its first labels; ``None`` if there was none.
        softmax: the same for the plain online softmax; ``None`` if there was none.
        story: what happened, in order.
        said: event and words of what was done to the system, in order: a demo tells what it does itself.
        phases: first event and name of each phase of the stream.
        phase_names: what each phase is, in words.
        latency_s: how long each answer took, seconds; empty where nothing was served.
        window: events over which accuracy rolls.
    """

    title: str
    summary: Mapping[str, Any]
    live: Sequence[bool]
    frozen: Sequence[bool] | None = None
    softmax: Sequence[bool] | None = None
    story: Sequence[Told] = ()
    said: Sequence[tuple[int, str]] = ()
    phases: Sequence[tuple[int, str]] = ()
    phase_names: Mapping[str, str] = field(default_factory=dict)
    latency_s: Sequence[float] = field(default=())
    window: int = 200


def write_report(path: Path, report: Report) -> None:
    """Write the page to ``path``."""
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page as HTML. Nothing in it is fetched, and every text is escaped."""
    curve = rolling(report.live, report.frozen, report.softmax, window=report.window)
    marks = [_mark(told) for told in report.story] + [Mark(event=at, kind=TOLD, text=text) for at, text in report.said]
    pictures = {
        name: curve_svg(
            curve,
            marks,
            len(report.live),
            phases=report.phases,
            phase_names=report.phase_names,
            width=width,
            ident=name,
        )
        for name, width in (("wide", 1000), ("narrow", 380))
    }
    page = Template(files("stream_ft.wiring").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(report.title),
        before="".join(
            f'<p class="{"lost" if line.startswith(OURS) else "before"}">{escape(line)}</p>'
            for line in before_headline(report.summary)
        ),
        headline=escape(headline(report.summary)),
        words=words(report.summary, report.story),
        standings=_standings(report.summary),
        figures=_figures(report.summary),
        key=_key(curve, report.summary),
        caption=_caption(report),
        said=_said(report.said),
        phases=tables.phases(report.summary, report.phase_names),
        versions=tables.versions(report.summary, report.story),
        speed=_speed(report),
        story=tables.story(report.story, report.said),
        json=escape(json.dumps(report.summary, indent=1, ensure_ascii=False, default=str)),
        **pictures,
    )


def _mark(told: Told) -> Mark:
    what = told.happening
    return Mark(
        event=told.event,
        kind=what.kind,
        text=f"{what.version} {what.text}".strip() if what.kind == "promotion" else what.text,
        heavy=what.kind == "promotion" and what.round_kind not in ("", "head"),
    )


def _standings(summary: Mapping[str, Any]) -> str:
    """A card for the stream and one for the final test: the three side by side, and who is ahead in words."""
    cards = (
        ("Over the stream", "each message predicted before it was learned", on_stream(summary)),
        ("Final test", "messages that nobody learned from", on_final(summary)),
    )
    return "".join(_standing(title, what, standing) for title, what, standing in cards if standing.ours is not None)


def _standing(title: str, what: str, standing: Standing) -> str:
    rows = "".join(
        f'<tr class="{kind}"><th scope="row">{name}</th><td class="bar"><span style="width:{100 * value:.1f}%"></span>'
        f'</td><td class="number">{share(value)}</td></tr>'
        for kind, name, value in (
            ("is-live", OURS, standing.ours),
            ("is-softmax", SOFTMAX, standing.softmax),
            ("is-frozen", FROZEN, standing.frozen),
        )
        if value is not None
    )
    lost = losses(standing)
    note = f'<p class="lost">{escape(lost)}</p>' if lost else _won(standing)
    table = f"<table><caption><b>{title}</b> {what}</caption><tbody>{rows}</tbody></table>"
    return f'<div class="standing">{table}{note}</div>'


def _won(standing: Standing) -> str:
    others = ((SOFTMAX, standing.softmax), (FROZEN, standing.frozen))
    ahead = [
        f"{points((standing.ours or 0.0) - value)} ahead of the {name}"
        for name, value in others
        if value is not None and (standing.ours or 0.0) - value >= EVEN
    ]
    return paragraph(f"{OURS} is {', '.join(ahead)}.") if ahead else ""


def _figures(summary: Mapping[str, Any]) -> str:
    rows = [
        ("Promotions", summary.get("promotions")),
        ("Refusals", summary.get("refusals")),
        ("Rollbacks", summary.get("rollbacks")),
        ("Drift alarms", len(summary.get("drift_alarms") or [])),
        ("Requests dropped", summary.get("dropped_requests")),
    ]
    return "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in rows if value is not None
    )


def _key(curve: Sequence[Point], summary: Mapping[str, Any]) -> str:
    key = f'<li><span class="is-live"></span>{OURS}, live</li>'
    if any(point.softmax is not None for point in curve):
        key += f'<li><span class="is-softmax"></span>{SOFTMAX}</li>'
    if any(point.frozen is not None for point in curve):
        key += f'<li><span class="is-frozen"></span>{FROZEN}, {frozen_when(summary)}</li>'
    return key


def _caption(report: Report) -> str:
    names = [
        f"Phase {tables.phase_title(name, report.phase_names)}."
        for _, name in report.phases
        if name in report.phase_names
    ]
    return escape(
        f"Share of right answers among the last {report.window} events, each answered before it was learned from. "
        + " ".join([*names, "Larger circles: the encoder itself was trained."])
    )


def _said(said: Sequence[tuple[int, str]]) -> str:
    """What the numbers of the picture's first lane stand for."""
    if not said:
        return ""
    rows = "".join(f"<li><span>Event {event:,}.</span> {escape(text)}</li>" for event, text in said)
    return f'<h3>What the demo did</h3><ol class="said">{rows}</ol>'


def _speed(report: Report) -> str:
    summary = report.summary
    live = summary.get("feedback_to_live_s") or {}
    parts = []
    if live.get("p50") is not None:
        parts.append(
            paragraph(
                "From an acknowledged correction to the first answer by a version that had it: "
                f"median {live['p50']:.1f} s, 99th percentile {live.get('p99') or live['p50']:.1f} s."
            )
        )
    cost = summary.get("cpu_ms_per_event")
    if cost is not None:
        memory = summary.get("peak_rss_mb")
        parts.append(
            paragraph(
                f"{cost:.1f} ms of CPU per event, everything included"
                + (f"; {memory:,.0f} MB of memory at the most, over all processes." if memory else ".")
            )
        )
    if report.latency_s:
        ordered = sorted(report.latency_s)
        middle, most = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        dropped = summary.get("dropped_requests") or 0
        parts.append(
            paragraph(
                f"{times(len(ordered), 'answer')} over HTTP: median {1000 * middle:.0f} ms, "
                f"99th percentile {1000 * most:.0f} ms; {times(dropped, 'request')} dropped."
            )
        )
        parts.append(f"<figure>{histogram_svg(buckets(ordered), ident='latency')}</figure>")
    return "\n".join(parts)
