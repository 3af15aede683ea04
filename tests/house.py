"""The real processes on one state folder, and a ledger of what was acknowledged."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx

from stream_ft.config import load
from stream_ft.connectors.local import LocalLog
from stream_ft.ports import EventLog, Record
from stream_ft.topics import topic
from stream_ft.wiring.broker import open_event_log
from stream_ft.wiring.outbox import origin_of

START_S = 120.0
MODEL = "default"

QUICK = {
    "SCHEDULE__INTERVAL_S": "0",
    "SCHEDULE__MIN_NEW": "10",
    "SCHEDULE__MIN_EVALUATION": "20",
    "SCHEDULE__ADAPT_EVERY": "0",
    "SCHEDULE__ADAPT_ON_DRIFT": "false",
    "ROUND__PROJECTION": "0",
    "GATE__MARGIN": "1.0",
    "FAST__ENABLED": "false",  # what the tier answers by is a head of its own; its tests turn it on
    "MODEL__ENGINE": "torch",  # no test waits for an export that it does not look at
    "LOG__LEVEL": "info",
}
"""Settings under which a few dozen examples bring a promotion."""

WORDS = {
    "refund": "please give me my money back for order {}",
    "delivery": "where is my parcel number {}",
    "greeting": "hello there, this is message {}",
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(what: str, check: object, seconds: float = START_S, every: float = 0.05) -> object:
    """Poll ``check`` until it is true, and return what it gave.

    Raises:
        AssertionError: it did not become true in time.
    """
    assert callable(check)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := check():
            return value
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class House:
    """``serve`` and ``learn`` as processes of their own.

    Args:
        folder: of the state and the logs.
        settings: ``STREAM_FT_*`` without the prefix. With ``BROKER``, the ledger is read there.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self._broker = settings.get("BROKER", "")
        self.state = folder / "state"
        self.folder = folder
        self.port, self.learn_port = free_port(), free_port()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_FT_")} | {
            "STREAM_FT_" + name: value
            for name, value in (
                QUICK
                | {"STATE_DIR": str(self.state), "SERVE__PORT": str(self.port), "LEARN__PORT": str(self.learn_port)}
                | settings
            ).items()
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.accepted: dict[str, str] = {}
        """Id and input of every labelled event and correction that was acknowledged."""
        self.conflicts: list[tuple[str, int]] = []
        """Topic and offset of events whose identity was taken: dead letters all."""
        self._count = 0
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=15.0, trust_env=False)

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for role in list(self.processes):
            self.kill(role)
        self.http.close()
        if error is not None:
            for path in sorted(self.folder.glob("*.log")):
                print(f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-3000:]}")

    def command(self, *arguments: str) -> list[str]:
        """A command line of the program."""
        return [sys.executable, "-m", "stream_ft", *arguments]

    def environment(self, failpoint: str = "") -> dict[str, str]:
        """Of the processes; ``failpoint`` is ``name:kill:N``."""
        reached = {"STREAM_FT_FAILPOINT": failpoint, "STREAM_FT_FAILPOINT_LOG": str(self.folder / "failpoints")}
        return self._environment | (reached if failpoint else {})

    def start(self, role: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        """Start ``serve``, ``learn`` or ``up``."""
        with (self.folder / f"{role}.log").open("ab") as output:
            process = subprocess.Popen(
                self.command(role),
                env=self.environment(failpoint),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[role] = process
        return process

    def ready(self, role: str = "serve") -> None:
        """Wait until the probe says so."""
        port = self.port if role == "serve" else self.learn_port
        process = self.processes.get(role) or self.processes["up"]

        def check() -> bool:
            assert process.poll() is None, f"{role} ended with {process.returncode}: {self.log(role)}"
            try:
                return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(f"{role} ready", check)

    def status_of(self, role: str) -> int:
        """What the readiness probe of ``serve`` or ``learn`` answers; 0 for no answer."""
        port = self.port if role == "serve" else self.learn_port
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0, trust_env=False).status_code
        except httpx.TransportError:
            return 0

    def log(self, role: str) -> str:
        """The end of what the process wrote."""
        path = self.folder / f"{role}.log"
        return path.read_text("utf-8", "replace")[-2000:] if path.exists() else ""

    def stop(self, role: str, number: int = signal.SIGTERM) -> int:
        """End a process as an operator does; its exit code."""
        process = self.processes.pop(role)
        process.send_signal(number)
        return process.wait(30)

    def kill(self, role: str) -> None:
        """kill -9 the process alone: what it started must notice by itself."""
        process = self.processes.pop(role)
        if process.poll() is None:
            process.kill()
        process.wait(30)

    # --- events --------------------------------------------------------------------------------------------

    def send(self, count: int = 1) -> None:
        """Labelled events over HTTP; those that were acknowledged enter the ledger."""
        for _ in range(count):
            self._count += 1
            name = sorted(WORDS)[self._count % len(WORDS)]
            ident = f"label-{self._count}"
            text = WORDS[name].format(self._count)
            if self._post("/labels", {"id": ident, "input": text, "label": name}) is not None:
                self.accepted[ident] = text

    def conflict(self) -> None:
        """An event with an identity that was given to another: acknowledged, then a dead letter."""
        self._count += 1
        taken = next((ident for ident in self.accepted if ident.startswith("label")), None)
        if taken is None:
            return
        answer = self._post("/labels", {"id": taken, "input": f"other words {self._count}", "label": "greeting"})
        if answer is not None:
            offsets = answer["offsets"]
            assert isinstance(offsets, list)
            self.conflicts.append((topic(MODEL, "labels"), int(offsets[0])))

    def predict(self, text: str = "where is my parcel") -> dict[str, object] | None:
        """One prediction, or ``None`` if there was no answer."""
        answer = self._post("/predict", {"inputs": [text]})
        return answer if answer is None else dict(answer)

    def correct(self) -> None:
        """Predict and correct; an acknowledged correction enters the ledger."""
        self._count += 1
        name = sorted(WORDS)[self._count % len(WORDS)]
        text = WORDS[name].format(self._count)
        answer = self.predict(text)
        if answer is None:
            return
        ident = f"feedback-{self._count}"
        predictions = answer["predictions"]
        assert isinstance(predictions, list)
        body = {"id": ident, "prediction_id": predictions[0]["id"], "label": name}
        if self._post("/feedback", body) is not None:
            self.accepted[ident] = text

    def _post(self, path: str, body: dict[str, object]) -> dict[str, object] | None:
        try:
            response = self.http.post(path, json=body)
        except httpx.TransportError:
            return None
        if response.status_code not in (200, 202):
            return None
        answer: dict[str, object] = response.json()
        return answer

    # --- the ledger ----------------------------------------------------------------------------------------

    def version(self) -> str:
        """The version that answers."""
        response = self.http.get("/versions")
        response.raise_for_status()
        return str(next(row["version"] for row in response.json()["versions"] if row["active"]))

    def answering(self) -> tuple[str, str]:
        """Base and head of the version that answers: its name also changes when a learner takes the lead."""
        rows = self.http.get("/versions").json()["versions"]
        active = next(row for row in rows if row["active"])
        return active["base"], active["start_head"]

    def learned(self) -> int:
        """``examples_upto`` of the version that answers."""
        rows = self.http.get("/versions").json()["versions"]
        return int(next(row["examples_upto"] for row in rows if row["active"]))

    def caught_up(self) -> bool:
        """True once the store has every record of the topics that the learner reads."""
        with self.reading() as log:
            names = [topic(MODEL, kind) for kind in ("predictions", "feedback", "labels")]
            ends = {(name, part): log.bounds(name, part)[1] for name in names for part in log.partitions(name)}
        have = {(name, part): end for name, part, end in self.rows("SELECT topic, part, next FROM offsets")}
        return all(have.get(key, 0) == end for key, end in ends.items() if end)

    def applied(self) -> list[str]:
        """Inputs of the labels and corrections in the store, each as often as it was applied."""
        return [str(text) for (text,) in self.rows("SELECT input FROM claims WHERE correction IS NOT NULL")]

    def identities(self) -> list[str]:
        """Ids of the events that the store knows."""
        days = [day for (day,) in self.rows("SELECT day FROM days")]
        return [str(ident) for day in days for (ident,) in self.rows(f"SELECT id FROM ids_{day}")]

    def dead_letters(self) -> list[tuple[str, int]]:
        """Topic and offset of every dead letter, each as often as it is there."""
        found = []
        for record in self.records("dlq"):
            name, _, offset = origin_of(record.headers)
            found.append((name.decode(), int(offset)))
        return found

    def records(self, kind: str) -> list[Record]:
        """All that is on the topics of a kind."""
        found = []
        with self.reading() as log:
            for part in log.partitions(topic(MODEL, kind)):
                offset = log.bounds(topic(MODEL, kind), part)[0]
                while records := log.read(topic(MODEL, kind), part, offset, 100_000):
                    found += records
                    offset = records[-1].offset + 1
        return found

    @contextmanager
    def reading(self) -> Iterator[EventLog]:
        """The log, read only."""
        log: EventLog
        if self._broker:
            log = open_event_log(load(None, {"broker": self._broker, "state_dir": str(self.state)}), writes=())
        else:
            log = LocalLog(self.state, writes=())
        try:
            yield log
        finally:
            log.close()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Rows of the store."""
        connection = sqlite3.connect(f"file:{self.state / 'store.db'}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()
