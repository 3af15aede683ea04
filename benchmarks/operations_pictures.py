"""Grafana's dashboards without a Grafana: the preview, built and served, and a picture of each board as it draws it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from operations_cost import ARGUMENTS, CHROMIUM

GRAFANA = Path(__file__).parents[1] / "grafana"
BOARDS = ("overview", "quality", "training", "streaming", "serving")
SIZE = {"width": 1500, "height": 900}
MOST_BYTES = 300_000
"""Of one picture."""
PAINTED = """(wanted) => {
    const painted = [...document.querySelectorAll('canvas')].filter((canvas) => {
        const blank = document.createElement('canvas');
        [blank.width, blank.height] = [canvas.width, canvas.height];
        return canvas.width > 0 && canvas.toDataURL() !== blank.toDataURL();
    });
    return painted.length >= wanted;
}"""
"""A canvas that was painted on is longer, as a picture, than one of its size that was not."""


def missing() -> str:
    """What the preview needs and is not here; empty if nothing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    if shutil.which("npm") is None or not CHROMIUM.exists():
        return f"npm or {CHROMIUM} is not installed"
    return ""


def built(folder: Path) -> Path:
    """The preview, built below ``folder`` as its lock file has it; the folder to serve."""
    shutil.copytree(GRAFANA / "dashboards", folder / "dashboards")
    shutil.copytree(GRAFANA / "preview", folder / "preview", ignore=shutil.ignore_patterns("node_modules", "dist"))
    for command in (["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=folder / "preview", capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return folder / "preview" / "dist"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL at which the files of a folder are."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each file says nothing of the run."""


def draw(page: Any, url: str, board: str, prometheus: str, start: float, end: float) -> tuple[list[str], list[str]]:
    """Draw a board, and wait until all of it is there.

    Args:
        page: of playwright.
        url: of the preview.
        board: one of :data:`BOARDS`.
        prometheus: its URL.
        start, end: of what is drawn.

    Returns:
        The titles of panels without rows, and what went wrong.
    """
    page.goto("about:blank")
    page.goto(f"{url}/index.html#board={board}&prometheus={prometheus}&from={start:.0f}&to={end:.0f}")
    page.wait_for_selector(".cell")
    page.wait_for_function("document.querySelectorAll('[data-waiting]').length === 0")
    empty = page.eval_on_selector_all("[data-empty]", "all => all.map(one => one.dataset.empty)")
    wrong = page.eval_on_selector_all("[data-error]", "all => all.map(one => one.dataset.error)")
    if not wrong:
        panels = json.loads((GRAFANA / "dashboards" / f"{board}.json").read_text("utf-8"))["panels"]
        drawn = sum(panel["type"] != "row" for panel in panels) - len(empty)
        page.wait_for_function(PAINTED, arg=drawn)
    return empty, wrong


def pictures(folder: Path, prometheus: str, start: float, end: float, *, scratch: Path) -> dict[str, int]:
    """A PNG of each board; the bytes of each.

    Args:
        folder: where they go; made.
        prometheus: URL of one that runs.
        start, end: of what is drawn.
        scratch: where the preview is built.

    Raises:
        RuntimeError: a panel could not be drawn, or a picture is too large to be kept beside code.
    """
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with served(built(scratch)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(60_000)
        sizes = {}
        for board in BOARDS:
            _, wrong = draw(page, url, board, prometheus, start, end)
            if wrong:
                raise RuntimeError(f"{board}: {wrong[0]}")
            path = folder / f"{board}.png"
            page.screenshot(path=path, full_page=True)
            sizes[board] = path.stat().st_size
            if sizes[board] > MOST_BYTES:
                raise RuntimeError(f"{path} has {sizes[board]} bytes: more than {MOST_BYTES}")
        browser.close()
    return sizes
