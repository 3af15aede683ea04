"""Over HTTP: requests per second of our server process, and of LitServe's with torch and with ONNX Runtime.

LitServe has no best number of threads and workers that holds for every model: of several ways to start it the fastest
is found first, and then takes its turns against ours.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from common import ratio
from http_load import closed_loop, free_port, wait_ready

CLIENTS = 32
KINDS = ("torch", "onnx")
Way = tuple[int, int, int]
WAYS: dict[str, tuple[Way, ...]] = {
    "torch": ((1, 1, 5), (2, 1, 5), (1, 2, 5), (1, 2, 1), (1, 2, 20)),
    "onnx": ((1, 1, 5), (2, 1, 5), (1, 2, 5), (0, 1, 5)),
}
"""Threads of each worker (0: those that our own server would take), workers, and milliseconds that a batch waits to be
filled: of LitServe, on two cores."""
CHECKED = 50
"""Texts whose answers are compared between the servers."""
SEARCH_TURNS, SEARCHED = 3, 150
MOST = 490
"""Texts in one turn."""
HERE = Path(__file__).parent
VERSION = "v1.1.0"
"""What our server serves: the adapter that was promoted, and not what it starts with."""


class Server:
    """A server in processes of its own, stopped unless it is asked: one that waits may poll, at others' cost.

    Args:
        name: of the file that serves.
        arguments: that it takes before and after its port.
    """

    def __init__(self, name: str, before: list[str], after: list[str]) -> None:
        self._port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / name), *before, str(self._port), *after],
            start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as the command line does for its processes
        )

    def wait(self) -> None:
        """Until it answers."""
        wait_ready(self._port, "are you there?")
        os.killpg(self._process.pid, signal.SIGSTOP)

    @contextmanager
    def _going(self) -> Iterator[None]:
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGSTOP)

    def speed(self, texts: list[str]) -> float:
        """Requests per second of 32 clients."""
        with self._going():
            return closed_loop(self._port, texts, CLIENTS)

    def answers(self, texts: list[str]) -> list[dict[str, Any]]:
        """To one text after the other."""
        with self._going(), httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30) as client:
            return [client.post("/predict", json={"inputs": text}).raise_for_status().json() for text in texts]

    def close(self) -> None:
        """LitServe's workers outlive a SIGTERM to their parent."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def over_http(scratch: Path, texts: list[str], *, rounds: int, quick: bool) -> dict[str, Any]:
    """The servers in turns, no text twice to any.

    Args:
        scratch: has peft's adapter as ``adapter``.
    """
    try:
        import litserve  # noqa: F401
    except ImportError:
        return {"http_ratio_to_litserve": None, "http": "LitServe is not installed: pip install litserve"}
    turns, searched = (1, 60) if quick else (SEARCH_TURNS, SEARCHED)
    waiting = iter(texts)

    def next_texts(count: int) -> list[str]:
        return [next(waiting) for _ in range(count)]

    count = 150 if quick else min(MOST, (len(texts) - CHECKED - turns * searched) // rounds)
    adapter = str(scratch / "adapter")
    with ExitStack() as stack:
        ours = _started(stack, "served.py", [str(scratch / "state"), adapter], [])
        theirs = {
            (kind, way): _started(stack, "litserved.py", [kind, adapter], [str(number) for number in way])
            for kind in KINDS
            for way in WAYS[kind]
        }
        _check_same(ours, theirs, next_texts(CHECKED))
        found: dict[tuple[str, Way], list[float]] = {arm: [] for arm in theirs}
        for _ in range(turns):
            part = next_texts(searched)
            ours.speed(part)  # it warms up, too
            for arm, server in theirs.items():
                found[arm].append(server.speed(part))
        best = {kind: max(WAYS[kind], key=lambda way, kind=kind: statistics.median(found[kind, way])) for kind in KINDS}
        for arm, server in theirs.items():
            if arm[1] != best[arm[0]]:
                server.close()
        arms = {"stream_ft": ours} | {f"litserve_{kind}": theirs[kind, way] for kind, way in best.items()}
        speeds: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            part = next_texts(count)
            for name, server in arms.items():
                speeds[name].append(server.speed(part))
    against = {name: ratio(speeds["stream_ft"], speeds[name]) for name in arms if name != "stream_ft"}
    return {
        "http_ratio_to_litserve": against["litserve_torch"]["median"],
        "http": {
            "requests_per_turn": count,
            "requests_per_s": {arm: statistics.median(values) for arm, values in speeds.items()},
            "ratio_to": against,
            "litserve_threads_workers_and_wait": {
                kind: {
                    "best": _told(best[kind]),
                    "requests_per_s_when_sought": {
                        _told(way): statistics.median(found[kind, way]) for way in WAYS[kind]
                    },
                }
                for kind in KINDS
            },
        },
    }


def _told(way: Way) -> str:
    threads, workers, wait_ms = way
    return f"{threads or 'as ours'} x {workers}, {wait_ms} ms"


def _started(stack: ExitStack, name: str, before: list[str], after: list[str]) -> Server:
    server = Server(name, before, after)
    stack.callback(server.close)
    server.wait()
    return server


def _check_same(ours: Server, theirs: dict[tuple[str, Way], Server], texts: list[str]) -> None:
    """All serve the same model, or the comparison says nothing."""
    answers = ours.answers(texts)
    if versions := {answer["version"] for answer in answers} - {VERSION}:
        sys.exit(f"Our server answers by {', '.join(sorted(versions))}, not by {VERSION}.")
    labels = [answer["predictions"][0]["label"] for answer in answers]
    if len(set(labels)) == 1:
        sys.exit("Every text has the same label: that the servers agree says nothing.")
    for (kind, way), server in theirs.items():
        other = [answer["label"] for answer in server.answers(texts)]
        if odd := [text for text, one, two in zip(texts, labels, other, strict=True) if one != two]:
            sys.exit(f"LitServe ({kind}, {_told(way)}) gives {len(odd)} other labels than our server, to {odd[0]!r}.")
