"""The ledger: what a publisher was told is acknowledged, against what the store applied, with kills all the way.

    python benchmarks/ledger.py --kills N --out FILE [--quick] [--events N] [--sabotage offset-first|no-dedup]

Needs KAFKA_HOME. Events go publisher -> Kafka -> two ingest workers -> Kafka -> learner, all real processes. Each of
them is killed with SIGKILL at named points, a real training round too, and started again; the broker is killed and
frozen in between. At the end every number in the publisher's journal must be in the store once, or among the dead
letters. Ends with 1 if one is lost or applied twice. ``--sabotage`` gives the learner a defect that must show.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path

from common import Benchmark
from ledger_publisher import POINTS as PUBLISHER_POINTS
from ledger_sabotage import SABOTAGE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from broker import Broker, missing
from house import QUICK, free_port
from ingest_house import Ingest

HERE = Path(__file__).parent
STORE_POINTS = (
    "store.before_commit", "ingest.after_poll", "store.after_commit", "outbox.before_publish", "outbox.after_publish",
)  # fmt: skip
ROUND_POINTS = ("round.after_step", "round.before_train", "round.before_result")
RELEASE_POINTS = ("release.before_rename", "release.before_fsync", "release.after_rename", "release.before_promote")
INGEST_POINTS = ("forward.before_ack", "forward.before_send", "forward.after_ack")
REACHED_S = 240.0
NUMBER = re.compile(r"\bn(\d+)x\b")


class Run:
    """Processes, and who is killed when.

    Args:
        folder: for everything.
        broker: started.
        rate: events a second that are published.
        later: batches after which the learner is killed at a point that every batch passes.
        sabotage: defect of the learner; empty for none.
    """

    def __init__(self, folder: Path, broker: Broker, *, rate: float, later: int, sabotage: str) -> None:
        self.folder = folder
        self.broker = broker
        self.ingest = Ingest(folder, broker.address)
        self.journal, self.stop = folder / "journal", folder / "stop"
        self.journal.touch()
        self.kills: Counter[str] = Counter()
        self.failed = ""
        self._rate = rate
        self._later = later
        self._started: list[subprocess.Popen[bytes]] = []
        self._sabotage = sabotage
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_FT_")} | {
            f"STREAM_FT_{name}": value
            for name, value in (
                QUICK
                | self.ingest.settings
                | {"LEARN__PORT": str(free_port()), "LEARN__READS": "ingested", "KAFKA__DEADLINE_S": "5"}
            ).items()
        }

    # --- who is killed -------------------------------------------------------------------------------------------

    def learner(self, points: Iterator[str], count: int) -> None:
        """Kill the learner, or its round, at so many points; then leave it running."""
        for _ in range(count):
            name = next(points)
            reached = self.folder / "reached-learn"
            reached.unlink(missing_ok=True)
            # Not the first batch: what a killed worker had forwarded comes again, and would hide that it was lost.
            hit = self._later if name in ("store.before_commit", "store.after_commit", "ingest.after_poll") else 1
            point = {"STREAM_FT_FAILPOINT": f"{name}:kill:{hit}", "STREAM_FT_FAILPOINT_LOG": str(reached)}
            process = self._learn(point)
            self._wait(f"{name} to be reached", reached.exists)
            if name in ROUND_POINTS:
                process.send_signal(signal.SIGTERM)  # only its round has died
            self._ended(process)
            self.kills[name] += 1
        self.learning = self._learn({})

    def workers(self, points: Iterator[str], count: int) -> None:
        """One of two workers works on while the other is killed so many times."""
        self.ingest.start()
        for turn in range(count):
            name = next(points)
            reached = self.folder / "failpoints"
            reached.unlink(missing_ok=True)
            process = self.ingest.start(f"{name}:kill:{20 + turn}")
            self._wait(f"{name} to be reached", reached.exists)
            self._ended(process)
            self.kills[name] += 1
        self.ingest.start()

    def publisher(self, points: Iterator[str], count: int) -> None:
        """Kill the publisher so many times; then leave it running."""
        for turn in range(count):
            name = next(points)
            self._ended(self._publish({"LEDGER_KILL": f"{name}:{2 + turn % 3}"}))
            self.kills[name] += 1
        self.publishing = self._publish({})

    def disturb(self, kills: int, freeze_s: float, done: threading.Event) -> None:
        """Kill the broker so many times, and freeze it once, while the others work."""
        for _ in range(kills):
            if done.wait(20):
                return
            self.broker.kill()
            time.sleep(3)
            self.broker.start()
        if freeze_s and not done.wait(10):
            self.broker.freeze()
            time.sleep(freeze_s)
            self.broker.thaw()

    def guarded(self, what: Callable[[], None]) -> threading.Thread:
        """A thread; what it raises is told."""

        def work() -> None:
            try:
                what()
            except Exception as error:
                self.failed = f"{type(error).__name__}: {error}"

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    # --- the end -------------------------------------------------------------------------------------------------

    def acknowledged(self) -> set[int]:
        """What the publisher was told, as it wrote it down."""
        return {int(line) for line in self.journal.read_text().split()}

    def settle(self) -> None:
        """The publisher ends, and everything comes to rest."""
        self.stop.touch()
        assert self.publishing.wait(120) == 0
        self._wait("ingest to have forwarded all", lambda: self.ingest.behind() == 0)
        self._wait("the learner to have read all", self._learned)
        self.learning.send_signal(signal.SIGTERM)
        self._ended(self.learning)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.ingest.__exit__(None, None, None)

    def count(self) -> dict[str, object]:
        """Lost, and applied twice."""
        acknowledged = self.acknowledged()
        with closing(sqlite3.connect(f"file:{self.folder / 'state' / 'store.db'}?mode=ro", uri=True)) as db:
            applied = Counter(
                int(found[1]) for (text,) in db.execute("SELECT input FROM claims") if (found := NUMBER.search(text))
            )
            days = [day for (day,) in db.execute("SELECT day FROM days")]
            known = Counter(id for day in days for (id,) in db.execute(f"SELECT id FROM ids_{day}"))
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        letters = {
            int(found[1])
            for record in self.ingest.read("dlq")
            if (found := NUMBER.search(record.value.decode("utf-8", "replace")))
        }
        twice = {number for number, count in applied.items() if count > 1 or number in letters}
        twice |= {int(id[1:]) for id, count in known.items() if count > 1 and id.startswith("e")}
        lost = acknowledged - applied.keys() - letters
        return {
            "events": len(acknowledged), "applied": len(applied), "dead_letters": len(letters),
            "lost": len(lost), "applied_twice": len(twice),
        }  # fmt: skip

    # --- inside --------------------------------------------------------------------------------------------------

    def _learn(self, more: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "stream_ft", "learn"]
        if self._sabotage:
            command = [sys.executable, str(HERE / "ledger_sabotage.py"), self._sabotage]
        return self._start("learn", command, self._environment | more)

    def _publish(self, more: dict[str, str]) -> subprocess.Popen[bytes]:
        arguments = [self.broker.address, self.ingest.topic("labels"), self.journal, self.stop, self._rate]
        command = [sys.executable, str(HERE / "ledger_publisher.py"), *map(str, arguments)]
        return self._start("publisher", command, dict(os.environ) | more)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        self._wait(f"process {process.pid} to end", lambda: process.poll() is not None)

    def _wait(self, what: str, check: Callable[[], bool]) -> None:
        end = time.monotonic() + REACHED_S
        while not check():
            if self.failed or time.monotonic() > end:
                raise RuntimeError(self.failed or f"waited {REACHED_S:.0f} s for {what}")
            time.sleep(0.05)

    def _learned(self) -> bool:
        name = self.ingest.topic("events")
        with closing(sqlite3.connect(f"file:{self.folder / 'state' / 'store.db'}?mode=ro", uri=True)) as db:
            have = dict(db.execute("SELECT part, next FROM offsets WHERE topic = ?", (name,)))
            (waiting,) = db.execute("SELECT count(*) FROM outbox").fetchone()
        ends = Counter(record.partition for record in self.ingest.read("events"))
        return not waiting and all(have.get(part, 0) == end for part, end in ends.items())


def shares(kills: int) -> tuple[int, int, int]:
    """Kills of the learner (store, round and release), of workers, and of the publisher."""
    other = max(1, kills // 5)
    return max(1, kills - 2 * other), other, other


def main() -> None:
    bench = Benchmark(
        "ledger",
        more={
            "--kills": {"type": int, "default": 0, "help": "how many; 100, or 6 with --quick"},
            "--events": {"type": int, "default": 0, "help": "least number of events; 100,000, or 500 with --quick"},
            "--sabotage": {"choices": sorted(SABOTAGE), "default": "", "help": "a defect that must show"},
        },
    )
    if why := missing():
        sys.exit(why)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes end as well
    kills = bench.arguments.kills or (6 if bench.quick else 100)
    events = bench.arguments.events or (500 if bench.quick else 100_000)
    learner, workers, publisher = shares(kills)
    # The store, its round and what it releases have their turns in this proportion.
    turns = zip(cycle(STORE_POINTS), cycle(ROUND_POINTS), cycle(RELEASE_POINTS), strict=False)
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    try:
        with Broker(folder / "broker") as broker:
            run = Run(
                folder,
                broker,
                rate=25.0 if bench.quick else 100.0,
                later=5 if bench.quick else 10,
                sabotage=bench.arguments.sabotage,
            )
            done = threading.Event()
            broker_kills, freeze_s = (0, 0.0) if bench.arguments.sabotage else (1, 5.0 if bench.quick else 60.0)
            try:
                threads = [
                    run.guarded(lambda: run.publisher(cycle(reversed(PUBLISHER_POINTS)), publisher)),
                    run.guarded(lambda: run.workers(cycle(INGEST_POINTS), workers)),
                    run.guarded(lambda: run.learner((name for turn in turns for name in turn), learner)),
                ]
                disturbing = run.guarded(lambda: run.disturb(broker_kills, freeze_s, done))
                for thread in threads:
                    thread.join()
                done.set()
                disturbing.join()
                while len(run.acknowledged()) < events and not run.failed:
                    time.sleep(0.5)
                if run.failed:
                    raise SystemExit(run.failed)
                run.settle()
                counted = run.count()
            except BaseException:
                for path in sorted(folder.glob("*.log")):
                    print(f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-2000:]}", file=sys.stderr)
                raise
            finally:
                run.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bench.finish(
        {
            "kills": sum(run.kills.values()),
            "failpoints": len(run.kills),
            "broker_kills": broker_kills,
            "broker_freezes": int(freeze_s > 0),
            "freeze_s": freeze_s,
            "sabotage": bench.arguments.sabotage,
            **counted,
            "by_failpoint": dict(sorted(run.kills.items())),
        }
    )
    sys.exit(1 if counted["lost"] or counted["applied_twice"] else 0)


if __name__ == "__main__":
    main()
