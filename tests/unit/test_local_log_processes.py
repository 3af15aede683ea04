"""Log files between processes: kill -9, readers beside a writer, several writers of the control log."""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stream_ft.connectors.local import LocalLog
from stream_ft.ports import Outgoing, Record
from stream_ft.topics import topic

FEEDBACK = topic("m", "feedback")
CONTROL = topic("m", "control")

APPEND_AND_DIE = """
import os, signal, sys
from pathlib import Path
from stream_ft.connectors.local import LocalLog
from stream_ft.ports import Outgoing
folder, topic, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = LocalLog(folder, writes=["serve"])
for i in range(count):
    for offset in log.append([Outgoing(topic=topic, value=b"%d" % (2 * i + j)) for j in (0, 1)]):
        print(offset, flush=True)
if sys.argv[4] == "between":
    os.kill(os.getpid(), signal.SIGKILL)

class Poison:
    # Dies in the middle of a transaction: some messages of the append are in, the others are not.
    def __init__(self):
        self.given = 0
    def __iter__(self):
        for i in range(1000):
            yield Outgoing(topic=topic, value=b"x" * 5000)
        os.kill(os.getpid(), signal.SIGKILL)
    def __len__(self):
        return 1001

name = "control" if topic.endswith("control") else "serve"
log._logs[name].append(Poison())
"""

APPEND_MANY = """
import sys
from pathlib import Path
from stream_ft.connectors.local import LocalLog
from stream_ft.ports import Outgoing
folder, topic, count, who = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
log = LocalLog(folder, writes=["serve"] if who == "serve" else [])
sys.stdin.readline()
for i in range(count):
    (offset,) = log.append([Outgoing(topic=topic, value=f"{who} {i}".encode())])
    print(offset)
log.close()
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def drain(log: LocalLog, name: str, process: subprocess.Popen[str]) -> list[Record]:
    """Read beside a running writer, and once more after its end."""
    records: list[Record] = []
    running = True
    while running:
        running = process.poll() is None
        while more := log.read(name, 0, len(records), 10):
            records += more
    return records


@pytest.mark.parametrize("when", ["between", "within"])
@pytest.mark.parametrize("name", [FEEDBACK, CONTROL])
def test_after_kill_9_every_acknowledged_offset_is_there(tmp_path: Path, name: str, when: str) -> None:
    with start(APPEND_AND_DIE, tmp_path, name, 20, when) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == -9
    acknowledged = [int(line) for line in out.split()]
    assert acknowledged == list(range(40))
    if (name, when) == (CONTROL, "within"):
        assert (tmp_path / "control.db-journal").exists(), "the crash left nothing to roll back"
    # First the process that only reads, then the one that writes again: either may be the first to come after a crash.
    with closing(LocalLog(tmp_path, writes=[])) as reader:
        assert [int(r.value) for r in reader.read(name, 0, 0, 2_000)] == list(range(40))
    with closing(LocalLog(tmp_path, writes=["serve"])) as log:
        assert log.bounds(name, 0) == (0, 40)
        assert log.append([Outgoing(topic=name, value=b"40")]) == [40]
        assert [int(r.value) for r in log.read(name, 0, 0, 2_000)] == list(range(41))


def test_a_reader_beside_a_writing_process_sees_all_in_order(tmp_path: Path) -> None:
    count = 300
    with (
        closing(LocalLog(tmp_path, writes=["learn"])) as reader,
        start(APPEND_MANY, tmp_path, FEEDBACK, count, "serve") as writer,
    ):
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
        records = drain(reader, FEEDBACK, writer)
        writer.communicate(timeout=60)
    assert writer.returncode == 0
    assert [record.offset for record in records] == list(range(count))
    assert [record.value for record in records] == [b"serve %d" % i for i in range(count)]


def test_several_processes_write_one_control_log(tmp_path: Path) -> None:
    """All create it and append at once: one file, one identity, every message once, each writer's own order."""
    count = 25
    names = ["serve", "learn", "operator"]
    writers = {who: start(APPEND_MANY, tmp_path, CONTROL, count, who) for who in names}
    for process in writers.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    offsets: dict[str, list[int]] = {}
    for who, process in writers.items():
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 0, who
        offsets[who] = [int(line) for line in out.split()]
    assert sorted(itertools.chain(*offsets.values())) == list(range(3 * count))
    with closing(LocalLog(tmp_path, writes=[])) as log:
        records = log.read(CONTROL, 0, 0, 1_000)
    for who in names:
        mine = [(r.offset, r.value) for r in records if r.value.startswith(who.encode() + b" ")]
        assert mine == [(offset, f"{who} {i}".encode()) for i, offset in enumerate(offsets[who])]
