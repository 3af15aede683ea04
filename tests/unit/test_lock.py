"""The lock on a state folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_ft.errors import AlreadyRunningError, ConfigError
from stream_ft.lock import FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from stream_ft.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "stream-ft learn")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    first = FolderLock(tmp_path / "learn.lock", "stream-ft learn")
    second = FolderLock(tmp_path / "learn.lock", "stream-ft learn")
    first.acquire()
    with pytest.raises(AlreadyRunningError) as caught:
        second.acquire()
    assert str(os.getpid()) in caught.value.message
    assert "stream-ft learn" in caught.value.message
    assert "state_dir" in caught.value.remedy
    assert not second.held
    first.release()
    second.acquire()
    assert second.held
    second.release()


def test_acquire_and_release_may_be_repeated(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "a.lock", "a")
    lock.acquire()
    lock.acquire()
    lock.release()
    lock.release()
    assert not lock.held


def test_the_context_manager_releases_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.lock"

    def fail() -> None:
        with FolderLock(path, "a"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with FolderLock(path, "a") as lock:
        assert lock.held


def test_no_pid_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with FolderLock(path, "a"):
        assert path.read_text() == str(os.getpid())
    assert path.read_text() == ""


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "learn.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        mine = FolderLock(path, "stream-ft learn")
        with pytest.raises(AlreadyRunningError, match=str(holder.pid)):
            mine.acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        mine.acquire()
        assert path.read_text() == str(os.getpid())
        mine.release()


def test_a_lock_file_that_was_removed_does_not_split_the_lock(tmp_path: Path) -> None:
    """The new file is another lock, but taking it must lock the file that is there, not the one that was."""
    path = tmp_path / "a.lock"
    with FolderLock(path, "a"):
        path.unlink()
        with FolderLock(path, "a"), pytest.raises(AlreadyRunningError):
            FolderLock(path, "a").acquire()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = FolderLock(path, "a")
    lock.acquire()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        lock.release()
        with FolderLock(path, "a"):
            assert child.poll() is None
        assert child.stdin is not None
        child.stdin.close()


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        FolderLock(tmp_path / "file" / "a.lock", "a").acquire()
