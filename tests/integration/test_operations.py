"""What an operator sees of a running system: every panel drawn with what Prometheus gathered, every alert raised."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from browser import Watched, chromium
from http_server import listener

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import operations_pictures as preview  # noqa: E402

BOARDS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The figures of a quick run, and what Prometheus has gathered in it."""
    folder = tmp_path_factory.mktemp("operations")
    command = [sys.executable, "benchmarks/operations.py", "--quick", "--out", folder / "out.json"]
    if not preview.missing():
        command += ["--pictures", folder / "pictures"]
    done = subprocess.run(
        [*command, "--keep", folder / "kept"], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (folder / "out.json").exists(), done.stdout + done.stderr
    print(done.stdout)  # shown when a test fails
    return json.loads((folder / "out.json").read_text("utf-8")), folder / "kept"


def test_every_panel_has_rows_that_are_not_all_zero(watched: tuple[dict[str, Any], Path]) -> None:
    figures, _ = watched
    assert figures["panels"] == len(PANELS) >= 30
    assert figures["panels_without_rows_named"] == []
    assert figures["panels_that_show_nothing"] == []
    assert len(figures["exceptions"]) <= 5, "three need an ingest worker, one a GPU, one what does not last here"
    assert all(figures["exceptions"].values()), "each has its reason"


def test_every_alert_fires_when_its_fault_is_made_and_none_before(watched: tuple[dict[str, Any], Path]) -> None:
    figures, _ = watched
    assert figures["alerts"] >= 9
    assert figures["alerts_that_did_not_fire"] == []
    assert figures["alert_expressions_without_rows_named"] == []
    assert figures["alerts_left_out"].keys() <= {"StoreNearlyFull"}, "only what needs a disk of its own"
    others = f"others took {figures['cores_taken_by_others_while_healthy']:.1f} cores"
    assert figures["fired_while_healthy"] == [], others


def test_a_flood_of_users_labels_and_paths_makes_no_series(watched: tuple[dict[str, Any], Path]) -> None:
    figures, _ = watched
    assert 100 < figures["series_under_flood"] <= 500


def test_the_console_is_small_and_there_at_once(watched: tuple[dict[str, Any], Path]) -> None:
    figures, _ = watched
    if "console" in figures:
        pytest.skip(figures["console"])
    assert 1_000 < figures["console_bytes"] <= 200_000
    assert figures["console_load_ms"] < 1_000


def test_the_preview_draws_every_panel(watched: tuple[dict[str, Any], Path], page: str, prometheus: str) -> None:
    figures, _ = watched
    start, end = figures["window"]
    drawn = 0
    with chromium() as browser:
        seen = Watched(browser, viewport={"width": 1500, "height": 900})
        for board in BOARDS:
            empty, wrong = preview.draw(seen.page, page, board, prometheus, start, end)
            assert wrong == [], board
            assert {f"{board} / {title}" for title in empty} <= figures["exceptions"].keys()
            panels = [panel for name, panel in PANELS if name == board]
            for panel in panels:
                assert seen.page.get_by_text(panel["title"], exact=True).count() >= 1, panel["title"]
            drawn += len(panels) - len(empty)
        assert seen.outside(page, prometheus) == []
        seen.close()
    assert drawn >= len(PANELS) - len(figures["exceptions"])


def test_a_picture_of_every_dashboard_is_left(watched: tuple[dict[str, Any], Path]) -> None:
    if why := preview.missing():
        pytest.skip(why)
    _, kept = watched
    sizes = {path.stem: path.stat().st_size for path in (kept.parent / "pictures").glob("*.png")}
    assert sizes.keys() == BOARDS.keys()
    assert all(10_000 < size <= preview.MOST_BYTES for size in sizes.values()), sizes


def test_a_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-u", "benchmarks/operations.py", "--quick", "--keep", tmp_path / "kept"],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert started.stdout is not None
    with started, started.stdout as said:
        assert "nobody says" in next(said), "the system is up, and Prometheus scrapes"
        children = [one for one in psutil.Process(started.pid).children(recursive=True) if one.is_running()]
        assert {"prometheus"} < {one.name() for one in children}
        started.send_signal(signal.SIGTERM)
        said.read()
    assert started.returncode == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text("utf-8")
    assert list(tmp_path.glob("stream-ft-*")) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The preview, built elsewhere as its lock file has it, and served."""
    if why := preview.missing():
        pytest.skip(why)
    with preview.served(preview.built(tmp_path_factory.mktemp("grafana"))) as url:
        yield url


@pytest.fixture(scope="module")
def prometheus(watched: tuple[dict[str, Any], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that scrapes nothing and has what the run gathered."""
    _, kept = watched
    config = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    config.write_text("global: {}\n", "utf-8")
    with listener() as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={kept / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass  # it does not listen yet
            assert process.poll() is None, "Prometheus did not start"
            assert time.monotonic() < end, "Prometheus is not ready"
            time.sleep(0.2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)
