"""``stream-ft status --watch``: what is on the screen, and that it outlives what goes wrong."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Done, StateFolder, command
from rich.console import Console

from stream_ft.cli_watch import render, watch
from stream_ft.errors import StreamFTError

NOW = 1_700_000_100.0
PATIENCE_S = 30.0
ON, OFF = b"\x1b[?1049h", b"\x1b[?1049l"
"""Of a terminal's alternate screen."""
LEARNER: dict[str, Any] = {
    "time": NOW - 40,
    "ready": True,
    "why": "",
    "next_round": {"reason": "Waiting for 23 more examples.", "in_s": 4.0},
    "round": None,
    "counts": {"train": 1_200, "holdout": 70, "waiting": 2},
    "accuracy": 0.91,
    "accuracy_over": 300,
    "frozen": {"version": "v0.4.0", "accuracy": 0.734},
    "curve": [{"events": 10 * i, "time": NOW, "live": i / 100, "frozen": 0.5 if i > 50 else None} for i in range(100)],
    "correction_ratio": 0.25,
    "corrections_over": 40,
    "drift_alarms": 1,
    "drift": {"error": 0.09, "pending": True},
    "lag": 3,
    "happenings": [{"kind": "refusal", "text": f"head {i}: [red]worse[/] by 3 points", "time": NOW} for i in range(50)]
    + [{"kind": "round", "text": "began", "time": NOW}],
}
FACTS: dict[str, Any] = {
    "state_dir": "/srv/[bold]shop",
    "version": "v3.7.0",
    "epoch": 7,
    "leader": "learner/one",
    "pinned": True,
    "paused": False,
    "trial": None,
    "running": {"up": "1", "serve": "11", "learn": "12"},
    "learner": LEARNER,
}


def drawn(facts: dict[str, Any], *, width: int = 100, height: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(render(facts, now=NOW, width=width, height=height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_shows_what_status_tells() -> None:
    text = drawn(FACTS)
    for part in (
        "v3.7.0 (epoch 7, pinned), led by learner/one", "serve 11, learn 12", "1,200 to train on, 70 held out, 2 wait",
        "3 events not read yet", "Waiting for 23 more examples. (in 4 s)", "1 alarm; error now 9.0%", "91.0%", "73.4%",
        "of the last 300 labelled events", "25.0% were wrong", "refusal: head 49",
    ):  # fmt: skip
        assert part in text, part
    assert "began" not in text
    assert "▁" in text
    assert "█" in text


def test_no_text_is_markup() -> None:
    text = drawn(FACTS)
    assert "[red]worse[/]" in text
    assert "/srv/[bold]shop" in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (60, 20)])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    lines = drawn(FACTS, width=width, height=height).rstrip("\n").split("\n")
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= height + 2


def test_trouble_and_silence_are_seen() -> None:
    stopped = FACTS | {"running": {"up": None, "serve": None, "learn": None}}
    assert "the rest is as it was 40 s ago" in drawn(stopped)
    assert "learn not running" in drawn(stopped)
    assert "has not written a status yet" in drawn(FACTS | {"learner": None})
    broken = FACTS | {"learner": LEARNER | {"ready": False, "why": "The disk is full.", "round": {"kind": "lora"}}}
    assert "The disk is full." in drawn(broken)
    assert "a lora round is running" in drawn(broken)
    trial = {"kind": "canary", "version": "trial-9", "share": 0.1}
    assert "trial-9, canary, share 0.1" in drawn(FACTS | {"trial": trial})


@pytest.mark.parametrize("terminal", ["xterm", "dumb", ""])
def test_it_draws_until_it_is_interrupted_and_survives_an_error(terminal: str) -> None:
    console = Console(
        file=io.StringIO(),
        width=100,
        height=30,
        force_terminal=bool(terminal),
        color_system=None,
        _environ={"TERM": terminal},
    )
    told = iter([FACTS, None, FACTS | {"version": "v3.8.0"}])
    slept: list[float] = []

    def facts() -> dict[str, Any]:
        found = next(told)
        if found is None:
            raise StreamFTError("The log is away.")
        return found

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(facts, every_s=0.5, console=console, now=lambda: NOW, sleep=sleep)
    assert slept == [0.5] * 3
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.index("v3.7.0") < text.index("The log is away.") < text.index("v3.8.0")
    assert ("\x1b" in text) == (terminal == "xterm")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    folder = StateFolder(tmp_path / "state")
    folder.genesis()
    return lambda *words: command(capsys, monkeypatch, *words, "--state-dir", folder.path)


def test_the_command_line_wants_a_terminal_for_it(run: Callable[..., Done]) -> None:
    done = run("status", "--watch")
    assert done.code == 2
    assert "needs a terminal" in done.err
    assert "do not go together" in run("status", "--watch", "--json").err


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
def test_on_a_terminal_it_draws_until_ctrl_c_and_leaves_the_screen_as_it_was(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.genesis()
    ours, its = pty.openpty()
    # Whoever runs the tests in the background has them ignore SIGINT, and what is ignored is inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_ft", "status", "--watch", "--state-dir", str(folder.path)],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    os.close(its)
    seen = b""

    def read() -> bool:
        nonlocal seen
        try:
            more = os.read(ours, 65_536) if select.select([ours], [], [], PATIENCE_S)[0] else b""
        except OSError:  # the other end has been closed
            more = b""
        seen += more
        return bool(more)

    try:
        while b"led by learner" not in seen:
            assert read(), seen
        assert ON in seen
        process.send_signal(signal.SIGINT)
        while read():
            pass
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert seen.rindex(OFF) > seen.rindex(b"led by learner")
    assert b"Traceback" not in seen
