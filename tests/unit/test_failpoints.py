"""Failpoints: what kills, what does not, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_ft import failpoints


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own."""
    program = f"from stream_ft import failpoints\n{code}\nprint('survived')"
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin", **environment},
    )


def test_a_failpoint_that_nobody_names_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAM_FT_FAILPOINT", raising=False)
    failpoints.hit("store.before_commit")


def test_another_failpoint_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_FAILPOINT", "store.after_commit:kill")
    failpoints.hit("store.before_commit")


def test_a_name_that_does_not_exist_is_refused_once_failpoints_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_FT_FAILPOINT", "store.after_commit:kill")
    with pytest.raises(ValueError, match="befor_commit"):
        failpoints.hit("store.befor_commit")


def test_the_process_kills_itself_and_says_where(tmp_path: Path) -> None:
    log = tmp_path / "hits"
    done = run(
        "failpoints.hit('store.before_commit')",
        STREAM_FT_FAILPOINT="store.before_commit:kill",
        STREAM_FT_FAILPOINT_LOG=str(log),
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
    assert log.read_text() == "store.before_commit\n"


def test_it_happens_at_the_hit_that_is_named(tmp_path: Path) -> None:
    code = "for n in range(5):\n    print(n, flush=True)\n    failpoints.hit('round.after_step')"
    done = run(code, STREAM_FT_FAILPOINT="round.after_step:kill:3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]


def test_a_process_that_freezes_goes_on_where_it_was_when_it_is_let() -> None:
    code = "for n in range(3):\n    failpoints.hit('outbox.before_publish')\n    print(n)"
    with subprocess.Popen(
        [sys.executable, "-uc", f"from stream_ft import failpoints\n{code}"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin", "STREAM_FT_FAILPOINT": "outbox.before_publish:stop:2"},
    ) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    assert out.split() == ["0", "1", "2"]


def test_a_point_that_is_never_reached_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "hits"
    done = run("", STREAM_FT_FAILPOINT="store.before_commit:kill", STREAM_FT_FAILPOINT_LOG=str(log))
    assert done.stdout.strip() == "survived"
    assert not log.exists()


def test_names_are_unique_and_say_whose_they_are() -> None:
    assert len(set(failpoints.NAMES)) == len(failpoints.NAMES)
    assert {name.partition(".")[0] for name in failpoints.NAMES} == {
        "forward", "ingest", "store", "outbox", "round", "handover", "release", "serve", "state",
    }  # fmt: skip
