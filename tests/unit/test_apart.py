"""Threads that help with a forward are kept off the core of the thread that they help."""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from stream_ft.model.engines import apart
from stream_ft.model.engines.apart import Apart, with_helpers

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
PATIENCE_S = 10.0


class Helper:
    """A thread that the module ``threading`` does not know, as those of a library are."""

    def __init__(self) -> None:
        self.native = 0
        self._known, self._end = threading.Event(), threading.Event()
        _thread.start_new_thread(self._run, ())
        assert self._known.wait(PATIENCE_S)

    def _run(self) -> None:
        self.native = _thread.get_native_id()
        self._known.set()
        self._end.wait(60)

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def helper() -> Iterator[Callable[[], Helper]]:
    made: list[Helper] = []

    def make() -> Helper:
        made.append(Helper())
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_a_helper_may_run_on_all_cores_but_that_of_the_caller(
    helper: Callable[[], Helper], monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = helper()
    keep = Apart([thread.native])
    for core in (*sorted(CORES), min(CORES)):
        monkeypatch.setattr(keep, "_getcpu", lambda core=core: core)
        keep()
        assert os.sched_getaffinity(thread.native) == CORES - {core}
    assert os.sched_getaffinity(0) == CORES, "the caller itself goes where it likes"


def test_the_core_is_the_one_it_runs_on(helper: Callable[[], Helper]) -> None:
    thread = helper()
    mine = max(CORES)
    os.sched_setaffinity(0, {mine})
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(apart.os, "sched_getaffinity", lambda pid: CORES)
            Apart([thread.native])()
    finally:
        os.sched_setaffinity(0, CORES)
    assert os.sched_getaffinity(thread.native) == CORES - {mine}


def test_those_that_were_started_are_found(helper: Callable[[], Helper]) -> None:
    helper()
    started, keep = with_helpers(lambda: (helper(), helper()), 2)
    keep()
    assert [len(os.sched_getaffinity(thread.native)) for thread in started] == [len(CORES) - 1] * 2


def test_where_others_started_as_well_all_are_left_alone(helper: Callable[[], Helper]) -> None:
    started, keep = with_helpers(lambda: (helper(), helper()), 1)
    keep()
    assert all(os.sched_getaffinity(thread.native) == CORES for thread in started)


def test_one_that_python_comes_to_know_or_that_ends_is_no_helper(helper: Callable[[], Helper]) -> None:
    def start() -> Helper:
        short = helper()
        threading.Timer(apart.SHED_S / 2, short.end).start()
        return helper()

    started, keep = with_helpers(start, 1)
    keep()
    assert len(os.sched_getaffinity(started.native)) == len(CORES) - 1


def test_a_single_core_is_shared(
    helper: Callable[[], Helper], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thread = helper()
    keep = Apart([thread.native])
    monkeypatch.setattr(keep, "_getcpu", lambda: 0)
    monkeypatch.setattr(apart.os, "sched_getaffinity", lambda pid: {0})
    keep()
    monkeypatch.undo()
    assert os.sched_getaffinity(thread.native) == CORES
    assert not caplog.records, "the system was not even asked"


def test_a_system_that_forbids_it_is_asked_once(
    helper: Callable[[], Helper], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep = Apart([helper().native])

    def forbidden(thread: int, cores: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(apart.os, "sched_setaffinity", forbidden)
    with caplog.at_level(logging.WARNING):
        keep()
        keep()
    assert [record.getMessage() for record in caplog.records] == [
        "threads of forwards cannot be kept apart: Operation not permitted"
    ]


def test_elsewhere_nothing_is_done(helper: Callable[[], Helper], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.sys, "platform", "darwin")
    started, keep = with_helpers(helper, 1)
    keep()
    assert os.sched_getaffinity(started.native) == CORES
