"""The demo's one screen: how the live model does beside the frozen one, its version, and what just happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len, chop_cells, set_cell_size
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
MOST_NEWS = 14
ROOMY = 30
"""Lines of a terminal that has some to spare."""
SCANT = 16
"""With fewer lines than this for news, each piece has one line, the newest two."""
FRESH = 3
"""The newest pieces stay, whatever they are."""
FRAMED = 12
"""Columns of a line of news that are not its text: frame, event, spaces."""


@dataclass(frozen=True, kw_only=True)
class News:
    """One line of what just happened."""

    at: int
    """Event at which it happened."""
    kind: str
    text: str

    @property
    def routine(self) -> bool:
        """A head that was refitted and went live: many of these in a row are one piece of news."""
        return self.kind == "promotion" and " head round" in self.text


@dataclass(kw_only=True)
class Picture:
    """Everything that the screen shows."""

    title: str = ""
    done: int = 0
    total: int = 1
    seconds: float = 0.0
    live: float | None = None
    frozen: float | None = None
    window: int = 200
    """Messages over which ``live`` and ``frozen`` are shares."""
    live_curve: Sequence[float] = ()
    frozen_curve: Sequence[float] = ()
    version: str = ""
    versions: int = 0
    """Releases so far, with v0.0.0: the one that knows nothing and never counts."""
    next_round: str = ""
    examples: int = 0
    sent: int = 0
    dropped: int = 0
    last_error: str = ""
    """What the last dropped request met."""
    latency_ms: float | None = None
    """Median of the answers so far."""
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


def render(picture: Picture, width: int = 100, height: int = 40) -> RenderableType:
    """The screen, ``width`` columns wide and at most ``height`` lines high: on a small one there is less news.

    The newest is at the top, where no terminal cuts it off.
    """
    gap: list[RenderableType] = [""] if height >= ROOMY else []
    facts = _facts(picture, width - 22)
    head: list[RenderableType] = [_progress(picture), *gap, _accuracy(picture, width), *gap, facts]
    used = 1 + 3 + facts.row_count + 2 * len(gap) + 4  # two frames of two lines
    news = Table.grid(padding=(0, 1))
    news.add_column(justify="right", style="dim", min_width=6)
    news.add_column(no_wrap=True)
    for row, lines in fitting(picture.news, width - FRAMED, max(1, height - used)):
        news.add_row(f"{row.at:,}", Text("\n".join(lines), style=COLOURS.get(row.kind, "default")))
    return Group(
        Panel(Group(*head), title=picture.title, width=width),
        Panel(news, title="What just happened, newest first", width=width),
    )


def _progress(picture: Picture) -> Table:
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    progress.add_row(
        ProgressBar(total=max(1, picture.total), completed=picture.done),
        f"{picture.done:,} of {picture.total:,} messages, {picture.seconds:.0f} s",
    )
    return progress


def _accuracy(picture: Picture, width: int) -> Group:
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
    return Group(Text(f"Right answers {_window(picture)}", style="dim", no_wrap=True), table)


def _window(picture: Picture) -> str:
    return f"among the last {min(picture.window, max(1, picture.done)):,} messages"


def _facts(picture: Picture, room: int) -> Table:
    """Names and values, one line of ``room`` columns each whatever their length."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(min_width=15)
    facts.add_column(no_wrap=True)
    count = picture.versions - 1
    so_far = f"   {count:,} {'version' if count == 1 else 'versions'} so far" if count > 0 else ""
    facts.add_row("version", Text(f"{picture.version or 'none yet'}{so_far}", style="bold"))
    facts.add_row("examples", f"{picture.examples:,}")
    facts.add_row("learner", Text(wrapped(picture.next_round or "starting", room, 1)[0], style="dim"))
    requests = Text(f"{picture.sent:,} sent, ")
    requests.append(f"{picture.dropped:,} dropped", style="bold red" if picture.dropped else "bold green")
    requests.append("" if picture.latency_ms is None else f", median {picture.latency_ms:.0f} ms")
    facts.add_row("requests", requests)
    if picture.dropped and picture.last_error:
        facts.add_row("last dropped", Text(wrapped(picture.last_error, room, 1)[0], style="red"))
    return facts


# --- the news that fit -----------------------------------------------------------------------------------------


def digest(news: Sequence[News]) -> list[News]:
    """Newest first; routine promotions in a row are one line that counts them."""
    found: list[News] = []
    counts: list[int] = []
    for row in reversed(news):
        if found and row.routine and found[-1].routine:
            counts[-1] += 1
        else:
            found.append(row)
            counts.append(1)
    return [
        row
        if count == 1
        else News(at=row.at, kind=row.kind, text=f"{count} promotions, the last {row.text.removeprefix('Live: ')}")
        for row, count in zip(found, counts, strict=True)
    ]


def fitting(news: Sequence[News], width: int, room: int) -> list[tuple[News, list[str]]]:
    """News with their lines, newest first, ``room`` lines in all.

    The newest always stay. Where room is short, of the others routine goes first, then verdicts, and of these the
    oldest: a drift or a rollback stays to be read while the learner goes on.
    """
    most = 1 if room < SCANT else 2
    shown = [
        (row, wrapped(row.text, width, min(room, most + 1 if place == 0 else 1 if row.routine else most)))
        for place, row in enumerate(digest(news))
    ]
    while len(shown) > 1 and (len(shown) > MOST_NEWS or sum(len(lines) for _, lines in shown) > room):
        places = range(min(FRESH, len(shown) - 1), len(shown))
        del shown[min(places, key=lambda place: (_weight(shown[place][0]), -place))]
    return shown


def _weight(row: News) -> int:
    return 0 if row.routine or row.kind in ("note", "round") else 1 if row.kind in ("refusal", "failure") else 2


def wrapped(text: str, width: int, most: int) -> list[str]:
    """``text`` in at most ``most`` lines of ``width`` columns, with an ellipsis if that is not all of it."""
    width = max(2, width)
    lines = [""]
    for word in text.split():
        grown = f"{lines[-1]} {word}".strip()
        if cell_len(grown) <= width:
            lines[-1] = grown
        else:
            lines += chop_cells(word, width)
    lines = [line for line in lines if line] or [""]
    if len(lines) <= most:
        return lines
    rest = " ".join(lines[most - 1 :])
    return [*lines[: most - 1], set_cell_size(rest, width - 1).rstrip() + "…"]


def plain(picture: Picture) -> str:
    """One line for a place that is no terminal."""
    dropped = f"{picture.dropped} dropped" + (
        f" (the last: {picture.last_error})" if picture.dropped and picture.last_error else ""
    )
    return (
        f"{picture.done:>5,} messages, {picture.seconds:>3.0f} s: {_window(picture)} live {share(picture.live)}, "
        f"frozen {share(picture.frozen)}; version {picture.version or 'none yet'}, {dropped}"
    )
