"""``stream-ft demo``: starts the system, plays, reports, and on a terminal stays for a talk."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from stream_ft.config import ModelSettings
from stream_ft.demo import plan as plans
from stream_ft.demo.compare import Comparison
from stream_ft.demo.outcome import report, summary
from stream_ft.demo.play import Play
from stream_ft.demo.screen import Picture, plain, render
from stream_ft.demo.system import System
from stream_ft.demo.talk import talk
from stream_ft.errors import ConfigError
from stream_ft.wiring.report import write_report
from stream_ft.wiring.standing import before_headline, headline
from stream_ft.wiring.summary import write_summary

PLAIN_S = 10.0
WIDEST = 110
STOPPING = "Stopping: the server and the learner are asked to end ..."
ADAPT_AT = 0.25
"""The encoder is trained once there are this many training examples, as a share of the stream."""


def run(
    *,
    out: Path,
    data: Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    interactive: bool | None = None,
) -> int:
    """Play the demo; ``summary.json`` and ``report.html`` go to ``out``, the system's state to ``out/state``.

    Args:
        out: folder.
        data: the user's own labelled texts; the shop's messages if ``None``.
        text_column, label_column: columns of ``data``; guessed if ``None``.
        model: Hugging Face name or path of the encoder.
        limit: only this many messages of the shop.
        interactive: stay and talk at the end; on a terminal if ``None``.

    Returns:
        Exit code 0.

    Raises:
        ConfigError: the file or the folder cannot be used.
        StreamFTError: the system did not start or did not stay up.
    """
    console = Console()
    if data is None and (text_column is not None or label_column is not None):
        raise ConfigError("--text-column and --label-column are of a file.", "Say which one with --data.")
    plan = (
        plans.of_shop(limit)
        if data is None
        else plans.of_file(data, text_column=text_column, label_column=label_column)
    )
    if plan.told:
        console.print(plan.told, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    console.print("Starting stream-ft up: one process serves, one learns.", highlight=False)
    system = System(
        out / "state", model=model, min_evaluation=plan.min_evaluation, adapt_first=int(ADAPT_AT * len(plan.stream))
    )
    comparison = None
    try:
        seconds = _started(console, system)
        console.print(
            f"It serves at {system.url} after {seconds:.0f} s; its log is {system.folder / 'log.txt'}.", highlight=False
        )
        comparison = Comparison(system.folder / "registry", model or ModelSettings().base)
        stay = console.is_terminal and sys.stdin.isatty() if interactive is None else interactive
        asyncio.run(interruptible(console, _perform(console, plan, system, comparison, out, stay=stay)))
    finally:
        if comparison is not None:
            comparison.close()
        system.stop()
    return 0


def _started(console: Console, system: System) -> float:
    try:
        return system.wait_ready()
    except KeyboardInterrupt:
        console.print(STOPPING, highlight=False)
        raise


async def interruptible(console: Console, performance: Coroutine[Any, Any, None]) -> None:
    """On Ctrl-C say at once what goes on: a round that runs, and two processes, take seconds to end."""
    try:
        await performance
    except asyncio.CancelledError:
        console.print(STOPPING, highlight=False)
        raise


async def _perform(
    console: Console, plan: plans.Plan, system: System, comparison: Comparison, out: Path, *, stay: bool
) -> None:
    with _screen(console) as show:
        play = Play(plan, system, comparison, show)
        try:
            seen = await play.run()
        except BaseException:
            await play.client.close()
            raise
    try:
        result = summary(plan, seen)
        write_summary(out / "summary.json", result)
        write_report(out / "report.html", report(plan, seen, result))
        last_words(console, result, out)
        if stay:
            await talk(console, system.url, play.client, plan)
            last_words(console, result, out)
    finally:
        await play.client.close()


def last_words(console: Console, result: dict[str, Any], out: Path) -> None:
    """What came of it: counts, the three learners over the stream, where stream_ft lost, the headline, the report."""
    counts = [
        _count(result["promotions"], "promotion"),
        _count(result["refusals"], "refusal"),
        _count(len(result["drift_alarms"]), "drift alarm"),
        _count(result["rollbacks"] - result["automatic_rollbacks"], "rollback") + " by the operator",
        _count(result["automatic_rollbacks"], "rollback") + " by the guard of the fast tier",
        f"{result['dropped_requests']} of {result['requests']:,} requests dropped",
    ]
    console.print(f"{', '.join(counts)}.", highlight=False, soft_wrap=True)
    for line in before_headline(result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(headline(result), style="bold", highlight=False, soft_wrap=True)
    console.print(f"The report: {(out / 'report.html').resolve()}", highlight=False, soft_wrap=True)


def _count(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"


@contextmanager
def _screen(console: Console) -> Iterator[Callable[[Picture], None]]:
    """On a terminal a live screen, elsewhere a line every ten seconds and one for each piece of news."""
    if console.is_terminal:

        def drawn(picture: Picture) -> RenderableType:
            # Asked each time: a window may be resized. The last line is left free, so that nothing is cut off.
            return render(picture, min(WIDEST, console.width), console.height - 1)

        with Live(drawn(Picture()), console=console, refresh_per_second=4) as live:
            yield lambda picture: live.update(drawn(picture))
        return
    told = 0
    last = -PLAIN_S

    def show(picture: Picture) -> None:
        nonlocal told, last
        for news in picture.news[told:]:
            print(f"  {news.at:>5,}  {news.text}", flush=True)
        told = len(picture.news)
        if time.monotonic() - last >= PLAIN_S:
            last = time.monotonic()
            print(plain(picture), flush=True)

    yield show
