"""Freed memory goes back to the system, where the allocator can be asked to."""

from __future__ import annotations

import ctypes
import gc
import resource
import subprocess
import sys

import pytest

from stream_ft import memory

# Blocks below glibc's threshold for maps of their own, each second one kept until all are there: the heap grows, and
# a last small one holds its end.
GROWN = """
import psutil
from stream_ft.memory import give_back
blocks = [bytearray(100_000) for _ in range(2_000)]
end = bytearray(50_000)
for block in blocks: block[::4096] = b"x" * len(block[::4096])
del blocks, block
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


# Twice the same: what the first round has left must be enough for the second.
AGAIN = """
import resource, sys
from stream_ft.memory import settle
def faults():
    blocks = [bytearray(2_000_000) for _ in range(50)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if sys.argv[1] == "settled": settle()
first = faults()
print(faults() - first)
"""


def is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not is_glibc(), reason="another allocator")
def test_what_was_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100 * 2**20


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.give_back() is False


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of another system")
def test_a_library_without_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.give_back() is False


@pytest.mark.skipif(not is_glibc(), reason="another allocator")
def test_what_is_freed_is_kept_for_what_is_allocated_next() -> None:
    came = {}
    for how in ("settled", "not"):
        done = subprocess.run([sys.executable, "-c", AGAIN, how], capture_output=True, text=True, check=True)
        came[how] = int(done.stdout)
    pages = 50 * 2_000_000 // resource.getpagesize()
    assert came["settled"] < pages / 20
    assert came["not"] > pages / 2, "or this test shows nothing"


def test_what_is_there_when_a_process_is_ready_is_searched_for_garbage_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # the allocator is that of all tests
    kept = [object() for _ in range(3)]
    rows = [[item] for item in kept]  # lists are searched, plain objects are not
    before = gc.get_freeze_count()
    try:
        memory.settle()
        assert gc.get_freeze_count() > before + len(rows)
        assert not any(found is rows for found in gc.get_objects())
        loop: list[object] = []
        loop.append(loop)
        del loop
        assert gc.collect() >= 1, "what comes later is"
    finally:
        gc.unfreeze()
