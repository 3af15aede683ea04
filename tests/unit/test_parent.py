"""A child ends when the pipe from its parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from stream_ft.parent import SUPERVISED

CHILD = (
    "import time; from stream_ft.parent import follow_parent; follow_parent(); print('up', flush=True); time.sleep(60)"
)


def start(supervised: bool, child: str = CHILD) -> subprocess.Popen[bytes]:
    environment = os.environ | ({SUPERVISED: "1"} if supervised else {SUPERVISED: ""})
    process = subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_supervised_child_ends_with_its_parents_pipe() -> None:
    with start(supervised=True) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(20) == -signal.SIGTERM


def test_one_that_cannot_end_is_killed_after_a_grace() -> None:
    busy = CHILD.replace("import time;", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);")
    busy = busy.replace("follow_parent();", "import stream_ft.parent as p; p.GRACE_S = 0.1; follow_parent();")
    with start(supervised=True, child=busy) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(20) == -signal.SIGKILL


def test_a_child_that_nobody_supervises_ignores_its_standard_input() -> None:
    with start(supervised=False) as child:
        assert child.stdin is not None
        child.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.kill()
