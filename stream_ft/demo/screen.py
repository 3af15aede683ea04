"""The demo's one screen: how the live model does beside the frozen one, its version, and what just happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {
    "promotion": "green",
    "refusal": "red",
    "failure": "red",
    "rollback": "magenta",
    "drift": "yellow",
    "round": "dim",
    "note": "default",
    "demo": "cyan",
}
NEWEST = 10


@dataclass(frozen=True, kw_only=True)
class News:
    """One line of what just happened."""

    at: int
    """Event at which it happened."""
    kind: str
    text: str


@dataclass(kw_only=True)
class Picture:
    """Everything that the screen shows."""

    title: str = ""
    done: int = 0
    total: int = 1
    seconds: float = 0.0
    live: float | None = None
    frozen: float | None = None
    live_curve: Sequence[float] = ()
    frozen_curve: Sequence[float] = ()
    version: str = ""
    versions: int = 0
    next_round: str = ""
    examples: int = 0
    sent: int = 0
    dropped: int = 0
    latency_ms: float | None = None
    news: list[News] = field(default_factory=list)


def sparkline(values: Sequence[float], width: int) -> str:
    """Fractions as blocks, the newest at the right; the mean of what falls into one block."""
    if not values or width < 1:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int(value * len(BLOCKS))))] for value in means)


def share(value: float | None) -> str:
    """A fraction for people; a dash where there is none yet."""
    return "–" if value is None else f"{value:.1%}"


def render(picture: Picture, width: int = 100) -> RenderableType:
    """The screen, ``width`` columns wide."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=15)
    table.add_column(justify="right", min_width=6)
    table.add_column(no_wrap=True)
    room = max(8, width - 36)
    for name, value, curve, style in (
        ("live model", picture.live, picture.live_curve, "bold blue"),
        ("frozen copy", picture.frozen, picture.frozen_curve, "yellow"),
    ):
        table.add_row(name, Text(share(value), style=style), Text(sparkline(curve, room), style=style))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(min_width=15)
    facts.add_column()
    facts.add_row("version", Text(f"{picture.version or 'none yet'}   ({picture.versions} so far)", style="bold"))
    facts.add_row("examples", f"{picture.examples:,}")
    facts.add_row("learner", Text(picture.next_round or "starting", style="dim"))
    latency = "" if picture.latency_ms is None else f", {picture.latency_ms:.0f} ms in the middle"
    dropped = Text(f"{picture.sent:,} sent{latency}, ")
    dropped.append(f"{picture.dropped} dropped", style="bold red" if picture.dropped else "bold green")
    facts.add_row("requests", dropped)
    news = Table.grid(padding=(0, 1))
    news.add_column(justify="right", style="dim", min_width=6)
    news.add_column()
    for row in picture.news[-NEWEST:]:
        news.add_row(f"{row.at:,}", Text(row.text, style=COLOURS.get(row.kind, "default")))
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    progress.add_row(
        ProgressBar(total=max(1, picture.total), completed=picture.done),
        f"{picture.done:,} of {picture.total:,} messages, {picture.seconds:.0f} s",
    )
    return Group(
        Panel(Group(progress, "", table, "", facts), title=picture.title, width=width),
        Panel(news, title="What just happened", width=width),
    )


def plain(picture: Picture) -> str:
    """One line for a place that is no terminal."""
    return (
        f"{picture.done:>5,} messages, {picture.seconds:>3.0f} s: live {share(picture.live)}, "
        f"frozen {share(picture.frozen)}, version {picture.version or 'none yet'}, {picture.dropped} dropped"
    )
