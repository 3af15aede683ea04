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


def start(supervised: bool) -> subprocess.Popen[bytes]:
    environment = os.environ | ({SUPERVISED: "1"} if supervised else {SUPERVISED: ""})
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child


def test_a_supervised_child_ends_with_its_parents_pipe() -> None:
    with start(supervised=True) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(20) == -signal.SIGTERM


def test_a_child_that_nobody_supervises_ignores_its_standard_input() -> None:
    with start(supervised=False) as child:
        assert child.stdin is not None
        child.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.kill()
