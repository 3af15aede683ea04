"""The report's pictures: accuracy over events with what happened below it, and a histogram. SVG text, no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

LANES = (("drift", "Drift"), ("promotion", "Promoted"), ("refusal", "Refused"), ("rollback", "Rolled back"))
"""Kinds that have a row of their own below the curve, and its name."""
TOLD = "demo"
"""Kind of what the demo did itself: numbered, in a row of its own that is there only if it did something."""
MOST_POINTS = 400
GLYPH = 7.2
"""Width of a letter, about: texts of 13 units are placed by it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Rolling accuracy up to an event, as fractions; ``None`` where there is nothing to compare with."""

    event: int
    live: float
    frozen: float | None = None
    softmax: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at an event. ``heavy`` ones are drawn larger: the encoder changed."""

    event: int
    kind: str
    text: str
    heavy: bool = False


def rolling(
    live: Sequence[bool],
    frozen: Sequence[bool] | None = None,
    softmax: Sequence[bool] | None = None,
    *,
    window: int = 200,
) -> list[Point]:
    """Mean of the last ``window`` answers (fewer at the start), thinned to at most :data:`MOST_POINTS` points."""
    stride = max(1, math.ceil(len(live) / MOST_POINTS))
    ends = list(range(stride, len(live) + 1, stride))
    if live and (not ends or ends[-1] != len(live)):
        ends.append(len(live))
    points = []
    for end in ends:
        start = max(0, end - window)
        width = end - start
        points.append(
            Point(
                event=end,
                live=sum(live[start:end]) / width,
                frozen=None if frozen is None else sum(frozen[start:end]) / width,
                softmax=None if softmax is None else sum(softmax[start:end]) / width,
            )
        )
    return points


def ticks(top: int, most: int) -> list[int]:
    """Round numbers from 0 up to ``top``, at most ``most`` + 1 of them."""
    if top <= 0:
        return [0]
    rough = top / max(1, most)
    scale = 10 ** math.floor(math.log10(rough))
    step = max(1, math.ceil(next(s for s in (1, 2, 2.5, 5, 10) if s * scale >= rough) * scale))
    return list(range(0, top + 1, step))


def curve_svg(
    points: Sequence[Point],
    marks: Sequence[Mark],
    events: int,
    *,
    phases: Sequence[tuple[int, str]],
    phase_names: Mapping[str, str] | None = None,
    width: int,
    ident: str,
) -> str:
    """Accuracy, live beside the others, and the lanes of what happened, on one axis of events.

    Args:
        points: ascending by event.
        marks: those of kinds that are neither in :data:`LANES` nor :data:`TOLD` are left out.
        events: right end of the axis.
        phases: first event and name of each phase; drawn when there are two or more.
        phase_names: what a phase is, in words; written where there is room.
        width: of the picture, in its own units; text is 13 of them high.
        ident: prefix of element ids, unique on the page.
    """
    wide = width > 600
    told = [mark for mark in marks if mark.kind == TOLD]
    lanes = ((TOLD, "The demo"), *LANES) if told else LANES
    left, right, top = (112 if wide else 46), 16, 22
    plot_height = 230 if wide else 200
    lane = 25 if wide else 38  # a narrow picture has no room beside a lane: its name goes above it
    lanes_top = top + plot_height + 18
    axis_y = lanes_top + lane * len(lanes) + 4
    height = axis_y + 40
    label_left = 4
    top_event = max(1, events)

    def x(event: float) -> float:
        return left + (width - left - right) * min(max(event, 0), top_event) / top_event

    def y(value: float) -> float:
        return top + plot_height * (1 - value)

    def line(name: str, values: Sequence[tuple[int, float | None]]) -> str:
        known = [(event, value) for event, value in values if value is not None]
        steps = " ".join(f"{'M' if i == 0 else 'L'}{x(e):.1f} {y(v):.1f}" for i, (e, v) in enumerate(known))
        return f'<path class="{name}" d="{steps}"/>' if known else ""

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{ident}-t {ident}-d" class="curve">',
        f'<title id="{ident}-t">Rolling accuracy, and what happened</title>',
        f'<desc id="{ident}-d">{escape(_describe(points, marks))}</desc>',
    ]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{left} {y(value):.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0%}</text>')
    if len(phases) > 1:
        rooms = [x(end) - x(start) - 8 for (start, _), (end, _) in pairwise([*phases, (top_event, "")])]
        texts = _phase_texts([name for _, name in phases], phase_names or {}, rooms)
        for number, ((start, _), text) in enumerate(zip(phases, texts, strict=True)):
            if number:
                parts.append(f'<path class="phase" d="M{x(start):.1f} {top}V{axis_y}"/>')
            parts.append(f'<text class="phase-name" x="{x(start) + 4:.1f}" y="{top - 8}">{escape(text)}</text>')
    parts.append(line("softmax", [(point.event, point.softmax) for point in points]))
    parts.append(line("frozen", [(point.event, point.frozen) for point in points]))
    parts.append(line("live", [(point.event, point.live) for point in points]))
    for row, (kind, name) in enumerate(lanes):
        bottom = lanes_top + lane * (row + 1)
        middle = bottom - 12.5
        parts.append(f'<path class="grid" d="M{label_left} {bottom}H{width - right}"/>')
        own = [mark for mark in marks if mark.kind == kind]
        parts.append(f'<g class="{kind}">')
        if kind == TOLD:
            parts += _numbers(own, [x(mark.event) for mark in own], middle, left, width - right)
        else:
            parts += [_symbol(kind, x(mark.event), middle, mark) for mark in own]
        parts.append("</g>")
        base = middle + 4 if wide else bottom - 25
        count = "" if kind == TOLD else f" {len(own):,}"
        parts.append(f'<text class="lane" x="{label_left}" y="{base}">{name}{count}</text>')
    for tick in ticks(top_event, 8 if wide else 4):
        # Near the right end a centred number would be cut off.
        over = x(tick) + GLYPH * len(f"{tick:,}") / 2 > width - 2
        place, anchor = (width - 2.0, "end") if over else (x(tick), "middle")
        parts.append(f'<text class="tick" x="{place:.1f}" y="{axis_y + 16}" text-anchor="{anchor}">{tick:,}</text>')
    parts.append(f'<text x="{width - right}" y="{axis_y + 34}" text-anchor="end">events</text>')
    parts.append("</svg>")
    return "".join(parts)


def _phase_texts(phases: Sequence[str], names: Mapping[str, str], rooms: Sequence[float]) -> list[str]:
    """In words if there is room for those of every phase, for they are read beside each other."""
    short = [f"phase {phase}" for phase in phases]
    long = [f"{text}: {names[phase]}" if phase in names else text for text, phase in zip(short, phases, strict=True)]
    return long if all(GLYPH * len(text) <= room for text, room in zip(long, rooms, strict=True)) else short


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``places``, ascending, moved as little as it takes for ``gap`` between them, within ``low`` and ``high``."""
    found: list[float] = []
    for place in places:
        found.append(max(place, low, found[-1] + gap if found else low))
    for index in reversed(range(len(found))):
        found[index] = min(found[index], high if index + 1 == len(found) else found[index + 1] - gap)
    return found


def _numbers(marks: Sequence[Mark], places: Sequence[float], y: float, low: float, high: float) -> list[str]:
    """Numbered discs: the list below the picture has the words."""
    parts = []
    for number, (mark, x) in enumerate(zip(marks, spread(places, 19, low, high), strict=True), 1):
        parts.append(
            f'<g><title>Event {mark.event:,}: {escape(mark.text)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="8.5"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number}</text></g>'
        )
    return parts


def _symbol(kind: str, x: float, y: float, mark: Mark) -> str:
    """A shape of its own for each kind: nobody has to tell them by colour."""
    r = 7.0 if mark.heavy or kind in ("drift", "rollback") else 4.5
    shape = {
        "drift": f"M{x:.1f} {y - r:.1f}l{r:.1f} {1.8 * r:.1f}h{-2 * r:.1f}z",
        "promotion": f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        "refusal": f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
        "rollback": f"M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z",
    }[kind]
    return f'<path d="{shape}"><title>Event {mark.event:,}: {escape(mark.text)}</title></path>'


def _describe(points: Sequence[Point], marks: Sequence[Mark]) -> str:
    """The picture in a sentence, for those who do not see it."""
    if not points:
        return "There were no events."
    last = points[-1]
    low = min(points[len(points) // 10 :], key=lambda point: point.live)
    counts = ", ".join(f"{name.lower()} {sum(m.kind == kind for m in marks)} times" for kind, name in LANES)
    frozen = "" if last.frozen is None else f" The frozen copy ended at {last.frozen:.0%}."
    frozen += "" if last.softmax is None else f" The plain online softmax ended at {last.softmax:.0%}."
    return (
        f"After {last.event:,} events the live model's rolling accuracy is {last.live:.0%}; "
        f"it was lowest, {low.live:.0%}, at event {low.event:,}.{frozen} What happened: {counts}."
    )


EDGES_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


def buckets(seconds: Sequence[float]) -> list[tuple[str, int]]:
    """Counts between :data:`EDGES_MS`, without the empty ends: ``("5-10 ms", 12)``."""
    counts = [0] * (len(EDGES_MS) + 1)
    for value in seconds:
        counts[sum(1_000 * value > edge for edge in EDGES_MS)] += 1
    names = [f"up to {EDGES_MS[0]} ms"]
    names += [f"{a:,}-{b:,} ms" for a, b in pairwise(EDGES_MS)] + [f"over {EDGES_MS[-1]:,} ms"]
    used = [i for i, count in enumerate(counts) if count]
    return [(names[i], counts[i]) for i in range(used[0], used[-1] + 1)] if used else []


def histogram_svg(rows: Sequence[tuple[str, int]], *, ident: str) -> str:
    """Horizontal bars, each with its count; an empty string for no rows."""
    if not rows:
        return ""
    width, row, left = 400, 26, 116
    most = max(count for _, count in rows)
    parts = [
        f'<svg viewBox="0 0 {width} {row * len(rows) + 6}" role="img" aria-labelledby="{ident}-t" class="bars">',
        f'<title id="{ident}-t">How many answers took how long: '
        + escape("; ".join(f"{name}: {count:,}" for name, count in rows))
        + "</title>",
    ]
    for number, (name, count) in enumerate(rows):
        y = 4 + row * number
        length = max(1.0, (width - left - 70) * count / most) if count else 0.0
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{row - 6}" rx="2"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 15}">{count:,}</text>')
    parts.append("</svg>")
    return "".join(parts)
