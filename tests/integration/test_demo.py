"""The whole demo, as a stranger runs it: three minutes of a live system, and then a look at what it left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from stream_ft.errors import ModelNotFoundError
from stream_ft.model.base import resolve

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    try:
        resolve("sentence-transformers/all-MiniLM-L6-v2")
    except ModelNotFoundError as error:
        pytest.skip(f"the demo's encoder is not here: {error}")
    out = tmp_path_factory.mktemp("demo") / "demo-out"
    done = subprocess.run(
        [sys.executable, "-m", "stream_ft", "demo", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done, out


def last(lines: Sequence[str], start: str) -> str:
    return next(line for line in reversed(lines) if line.startswith(start))


def test_the_demo_shows_what_it_promises(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = demo
    assert done.returncode == 0, done.stderr + done.stdout[-2_000:]
    assert "Traceback" not in done.stderr + done.stdout
    result = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert result["dropped"] == []
    assert result["dropped_requests"] == 0
    assert result["requests"] / result["wall_s"] >= 20
    assert result["promotions"] >= 1
    assert result["refusals"] >= 1
    # Where the guard undoes it first, a round that it overtook has no verdict.
    assert "refusal" in result["import_verdicts"] or result["automatic_rollbacks"] >= 1
    assert "promotion" not in result["import_verdicts"], "what learned from the broken import must not go live"
    assert len(result["drift_alarms"]) >= 1
    assert result["rollbacks"] - result["automatic_rollbacks"] == 1, "by the operator"
    assert 0.55 <= result["frozen_final_test_accuracy"] <= 0.80
    assert result["final_test_accuracy"] >= 0.90
    assert result["wall_s"] < 240
    # Whether an encoder that was trained for seconds is surely as good is the gate's to say, not the test's.
    assert any(row["verdict"] in ("accepted", "refused") and row["kind"] == "lora" for row in result["versions"])


def test_its_last_lines_tell_who_won_and_where_the_report_is(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, out = demo
    lines = done.stdout.splitlines()
    result = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert f"stream_ft {result['final_test_accuracy']:.1%}, at " in last(lines, "On this data: frozen ")
    assert lines[-1].endswith("report.html")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Over the stream, each message predicted before it was learned: frozen " in done.stdout
    assert "What was gained" in page
    assert "Rolled back at event" in page


def test_nothing_is_left_running(demo: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, out = demo
    left = [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []
    statuses = json.loads((out / "state" / "learn.status.json").read_text(encoding="utf-8"))
    assert not psutil.pid_exists(statuses["pid"])


def test_ctrl_c_is_answered_at_once_and_ends_everything(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    with (tmp_path / "errors").open("w+") as told:
        demo = subprocess.Popen(
            [sys.executable, "-m", "stream_ft", "demo", "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            # A shell that puts a job in the background has it ignore Ctrl-C, and so whatever that job starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert demo.stdout is not None
        with demo.stdout as lines:
            try:
                if not any("Customers begin" in line for line in lines):
                    pytest.skip("the demo did not start: its encoder is not here")
                begun = time.monotonic()
                demo.send_signal(signal.SIGINT)
                stopping = next((line for line in lines if line.startswith("Stopping")), None)
                answered_s = time.monotonic() - begun
                demo.wait(60)
            finally:
                demo.kill()
                demo.wait()
        told.seek(0)
        errors = told.read()
    assert (errors, demo.returncode) == ("", 130)
    assert stopping
    assert answered_s < 3


def test_a_demo_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    with subprocess.Popen(
        [sys.executable, "-m", "stream_ft", "demo", "--out", str(out)], stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        if not any("It serves at" in line for line in demo.stdout):
            pytest.skip("the demo did not start: its encoder is not here")
        started = psutil.Process(demo.pid).children(recursive=True)
        demo.kill()
    assert len(started) >= 3, "the supervisor and its two children"
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
