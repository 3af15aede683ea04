"""Threads that give way."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stream_ft import priority


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux only")
def test_only_the_calling_thread_gives_way() -> None:
    def give() -> tuple[int, int]:
        priority.give_way()
        priority.give_way()  # again: no further
        return niceness(), threading.get_native_id()

    before = niceness()
    with ThreadPoolExecutor(1) as pool:
        given, thread = pool.submit(give).result()
    assert given == max(priority.NICE, before)
    assert thread != threading.get_native_id()
    assert niceness() == before


@pytest.mark.skipif(sys.platform != "linux", reason="nothing happens elsewhere")
def test_a_thread_that_may_not_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    with caplog.at_level(logging.WARNING, "stream_ft.priority"):
        priority.give_way()
    assert "cannot give way" in caplog.text
