"""What it costs to be watched: throughput with and without scrapes in turns, and the console in a browser."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from common import ratio
from http_load import closed_loop

CLIENTS = 16
INTERVAL_S = 5.0
OFTEN = 20
"""A scrape every 5 s costs less than throughput varies from one turn to the next. So it is also scraped so many times
as often, and what that costs is divided by this."""
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def measured(ports: tuple[int, int], texts: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Cost of scrapes and of the console.

    Args:
        ports: of the serving process and of the learner; both are scraped.
        texts: to ask with.
        quick: two turns of seconds, in which a scrape every 5 s cannot be seen.
    """
    return scraped(ports, texts, turns=2 if quick else 6, seconds=2.0 if quick else 10.0) | console(ports[0])


def scraped(ports: tuple[int, int], texts: Sequence[str], *, turns: int, seconds: float) -> dict[str, Any]:
    """Requests per second of a closed loop, in turns: without scrapes, with one every 5 s, with many more."""
    endless = itertools.cycle(texts)
    begun = time.perf_counter()
    warm = 200
    closed_loop(ports[0], list(itertools.islice(endless, warm)), CLIENTS)
    count = max(warm, int(warm / (time.perf_counter() - begun) * seconds))
    arms = {"none": None, "at_5s": INTERVAL_S, "often": INTERVAL_S / OFTEN}
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(turns):
        # Which comes first in a turn changes, or a machine that gets slower would be taken for a cost.
        for arm in sorted(arms, reverse=turn % 2 == 1):
            part = list(itertools.islice(endless, count))
            with _scrapes(ports, arms[arm]):
                found[arm].append(closed_loop(ports[0], part, CLIENTS))
    often = ratio(found["often"], found["none"])
    return {
        "requests_per_s": {arm: statistics.median(speeds) for arm, speeds in found.items()},
        "throughput_ratio_at_5s": ratio(found["at_5s"], found["none"]),
        "throughput_ratio_at_5s_times_20": often,
        "scrape_cost_ratio": (1 - often["median"]) / OFTEN,
    }


@contextmanager
def _scrapes(ports: Sequence[int], interval_s: float | None) -> Iterator[None]:
    if interval_s is None:
        yield
        return
    stop, failed = threading.Event(), list[str]()

    def scrape() -> None:
        with httpx.Client(timeout=10, trust_env=False) as http:
            while True:
                for port in ports:
                    try:
                        http.get(f"http://127.0.0.1:{port}/metrics").raise_for_status()
                    except httpx.HTTPError as error:
                        failed.append(str(error))
                if stop.wait(interval_s):
                    return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise RuntimeError(f"A scrape failed: {failed[0]}")


def console(port: int) -> dict[str, Any]:
    """Size of the console, of the figures that it asks for while it loads, and how long that takes: median of five."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"console": "playwright is not installed"}
    if not CHROMIUM.exists():
        return {"console": f"there is no {CHROMIUM}"}
    times, sizes, data = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        for _ in range(5):
            context = browser.new_context()  # with an empty cache
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/console", wait_until="load")
            page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
            took, size, asked = page.evaluate(
                """() => {
                    const page = performance.getEntriesByType('navigation')[0];
                    const all = performance.getEntriesByType('resource');
                    const parts = all.filter((part) => part.startTime < page.loadEventEnd);
                    const size = (some) => some.reduce((sum, part) => sum + part.transferSize, 0);
                    const asked = parts.filter((part) => ['fetch', 'xmlhttprequest'].includes(part.initiatorType));
                    const own = parts.filter((part) => !asked.includes(part));
                    return [page.loadEventEnd, size([page, ...own]), size(asked)];
                }"""
            )
            times.append(took)
            sizes.append(size)
            data.append(asked)
            context.close()
        browser.close()
    return {
        "console_bytes": max(sizes),
        "console_data_bytes": max(data),
        "console_load_ms": statistics.median(times),
        "console_load_ms_max": max(times),
    }
