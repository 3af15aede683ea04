"""``stream-ft status --watch``: the same facts on a screen that is drawn again, until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream_ft.demo.screen import COLOURS, share, sparkline
from stream_ft.errors import StreamFTError

MARGIN = 34
"""Columns of a line that are not its curve."""
HEAD = 18
"""Lines that are no news."""


def watch(
    facts: Callable[[], Mapping[str, Any]],
    *,
    every_s: float,
    console: Console,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Draw ``facts()`` each ``every_s`` seconds, until interrupted.

    What goes wrong between two pictures (the folder is being restored, say) is shown, and asked again. A terminal that
    cannot be drawn over (``TERM=dumb``), or a file, gets one picture below the other.

    Args:
        facts: as ``stream-ft status --json`` tells them.
        every_s: seconds between two pictures.
        console: of the terminal.
        now, sleep: time.
    """
    with ExitStack() as stack:
        show: Callable[[RenderableType], None] = console.print
        if console.is_terminal and not console.is_dumb_terminal:
            live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
            show = partial(live.update, refresh=True)
        while True:
            try:
                picture = render(facts(), now=now(), width=console.width, height=console.height)
            except StreamFTError as error:
                picture = Panel(Text(str(error), style="red"), title="stream-ft status")
            show(picture)
            sleep(every_s)


def render(facts: Mapping[str, Any], *, now: float, width: int = 100, height: int = 40) -> RenderableType:
    """One picture of what ``status --json`` tells."""
    learner = facts["learner"] or {}
    parts: list[RenderableType] = [
        Panel(_standing(facts, learner, now), title=Text(str(facts["state_dir"])), width=width),
        Panel(_accuracy(learner, width), title="Right answers", width=width),
    ]
    lines = _news(learner, max(3, height - HEAD))
    if lines.row_count:
        parts.append(Panel(lines, title="What happened, newest first", width=width))
    return Group(*parts)


def _standing(facts: Mapping[str, Any], learner: Mapping[str, Any], now: float) -> Table:
    table = _two_columns()
    flags = "".join(f", {name}" for name in ("pinned", "paused") if facts[name])
    in_force = f"{facts['version']} (epoch {facts['epoch']}{flags}), led by {facts['leader'] or 'nobody'}"
    table.add_row("in force", Text(in_force, style="bold"))
    if (trial := facts["trial"]) is not None:
        table.add_row("on trial", Text(f"{trial['version']}, {trial['kind']}, share {trial['share']:g}"))
    pids = facts["running"]
    table.add_row("processes", ", ".join(f"{role} {pids[role] or 'not running'}" for role in ("serve", "learn")))
    if not learner:
        table.add_row("learner", Text("has not written a status yet", style="yellow"))
        return table
    if facts["running"]["learn"] is None:
        ago = max(0.0, now - learner.get("time", now))
        table.add_row("", Text(f"the rest is as it was {ago:.0f} s ago", style="yellow"))
    if not learner.get("ready", True):
        table.add_row("trouble", Text(str(learner.get("why", "")), style="red"))
    counts = learner.get("counts", {})
    train, held, waiting = (counts.get(name, 0) for name in ("train", "holdout", "waiting"))
    held_too = f"{train:,} to train on, {held:,} held out, {waiting:,} wait"
    table.add_row("examples", f"{held_too}; {learner.get('lag', 0):,} events not read yet")
    table.add_row("round", Text(_round(learner)))
    table.add_row("drift", _drift(learner))
    return table


def _round(learner: Mapping[str, Any]) -> str:
    if (running := learner.get("round")) is not None:
        return f"a {running['kind']} round is running"
    coming = learner.get("next_round") or {}
    when = coming.get("in_s")
    return f"{coming.get('reason', 'unknown')}" + (f" (in {when:.0f} s)" if when else "")


def _drift(learner: Mapping[str, Any]) -> Text:
    alarms = learner.get("drift_alarms", 0)
    drift = learner.get("drift") or {}
    text = f"{alarms:,} alarm{'' if alarms == 1 else 's'}"
    if drift.get("error") is not None:
        text += f"; error now {share(drift['error'])}"
    return Text(text, style="yellow" if drift.get("pending") else "")


def _accuracy(learner: Mapping[str, Any], width: int) -> RenderableType:
    curve = learner.get("curve") or []
    frozen = learner.get("frozen") or {}
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=15)
    table.add_column(justify="right", min_width=6)
    table.add_column(no_wrap=True)
    room = max(8, width - MARGIN)
    for name, value, key, style in (
        ("live", learner.get("accuracy"), "live", "bold blue"),
        ("frozen copy", frozen.get("accuracy"), "frozen", "yellow"),
    ):
        values = [point[key] for point in curve if point.get(key) is not None]
        table.add_row(name, Text(share(value), style=style), Text(sparkline(values, room), style=style))
    over = learner.get("accuracy_over", 0)
    said = f"of the last {over:,} labelled events" if over else "no labelled events yet"
    if judged := learner.get("corrections_over"):
        said += f"; of the last {judged:,} answers that users judged, {share(learner['correction_ratio'])} were wrong"
    return Group(table, Text(said, style="dim"))


def _news(learner: Mapping[str, Any], most: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True, min_width=8)
    table.add_column(no_wrap=True, overflow="ellipsis")
    told = [one for one in learner.get("happenings", []) if one["kind"] != "round"]
    for one in reversed(told[-most:]):
        at = time.strftime("%H:%M:%S", time.localtime(one["time"]))
        table.add_row(at, Text(f"{one['kind']}: {one['text']}", style=COLOURS.get(one["kind"], "default")))
    return table


def _two_columns() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=9)
    table.add_column(overflow="fold")
    return table
