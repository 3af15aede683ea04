"""`stream-ft serve`: the process that answers."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from stream_ft import __version__, logs, metrics
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.errors import StreamFTError
from stream_ft.ingest.receive import received
from stream_ft.ingest.validate import parse
from stream_ft.lock import FolderLock
from stream_ft.memory import settle
from stream_ft.model.base import resolve
from stream_ft.parent import follow_parent
from stream_ft.ports import Brokered, EventLog
from stream_ft.release import state_file
from stream_ft.release.registry import Registry
from stream_ft.replay.fate import fates
from stream_ft.serve.appender import Appender
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Catalogue
from stream_ft.serve.challenger import Failure
from stream_ft.serve.follow import Follower
from stream_ft.serve.http import create_app
from stream_ft.serve.predictions_id import PredictionIds, load_key
from stream_ft.serve.recent import Recent
from stream_ft.serve.slots import Answer, Slots
from stream_ft.serve.trial import Trials
from stream_ft.wiring import encoding, genesis, learner_status
from stream_ft.wiring.broker import open_event_log, until_reached
from stream_ft.wiring.commanding import give
from stream_ft.wiring.otel import open_traces
from stream_ft.wiring.probes import bind
from stream_ft.wiring.processes import StopSignal, drain_s
from stream_ft.wiring.redacting import redaction

log = logging.getLogger("stream_ft.serve")

KEEP_ALIVE_S = 75
"""An idle connection is kept longer than clients keep theirs: one that is closed just as it is used fails a request."""
POLL_S = 0.1
PATIENCE_S = 2.0
"""A broker that does not answer holds nothing up for longer."""
KEPT = "serve.state"
"""File of the state folder with the control log as this process last folded it."""


def run(settings: Settings, *, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM (then 143) or SIGINT (130).

    Args:
        settings: of the process.
        ready_file: gets the URL, once a version answers.

    Raises:
        AlreadyRunningError: the port is taken, or another process serves from this state folder.
        StreamFTError: the model, the log or the registry cannot be opened.
    """
    logs.setup(settings.log.level, settings.log.json_lines)
    state = settings.state_path()
    state.mkdir(parents=True, exist_ok=True)
    stop = StopSignal()
    stop.install()
    follow_parent()
    with ExitStack() as open_parts:
        open_parts.enter_context(FolderLock(state / "serve.lock", "stream-ft serve"))
        listener = open_parts.enter_context(bind(settings.serve.host, settings.serve.port))
        event_log = open_event_log(settings, writes=["serve"], patience_s=PATIENCE_S)
        open_parts.callback(event_log.close)
        if isinstance(event_log, Brokered):
            event_log.connect()  # while the model is loaded
        port: int = listener.getsockname()[1]
        service = Service(settings, state, event_log, replica=f"serve@{socket.gethostname()}:{port}")
        open_parts.callback(service.close)
        if not until_reached(service.begin, stop=stop.event):
            return stop.exit_code
        server = HttpServer(service.app, listener, drain_s=drain_s(settings))
        open_parts.callback(server.close)
        settle()  # before anybody is answered, who would have to wait for it
        server.start()
        url = f"http://{_host(settings.serve.host)}:{port}"
        told = False
        while not stop.event.wait(POLL_S):
            if not server.alive:
                raise StreamFTError("The HTTP server ended by itself.", "The log has the reason.")
            if not told and service.follower.wait(0):
                told = True
                print(f"stream-ft serve: {url} answers with {service.version} of {settings.model.name}", flush=True)
                if ready_file is not None:
                    state_file.write(ready_file, url.encode())
    return stop.exit_code


class Service:
    """The parts of one serving process, put together.

    Args:
        settings: of the process.
        state: the state folder.
        event_log: its topics of predictions, feedback, labels and acks are written by this process alone.
        replica: its name on ``.acks``.
    """

    def __init__(self, settings: Settings, state: Path, event_log: EventLog, *, replica: str) -> None:
        clock = SystemClock()
        model = settings.model.name
        base = resolve(settings.model.base)
        engine = encoding.open_engine(settings, base, serving=True)
        registry = Registry(settings.registry_path())
        series = metrics.ServeMetrics(metrics.new_registry())
        series.queue_limit.set(settings.serve.queue)
        metrics.watch_process(series.registry)
        self.traces = open_traces(settings, "serve")
        slots = Slots(engine)
        self._slots = slots
        self._settings = settings
        self._genesis = partial(genesis.artifacts, registry, base, dim=engine.dim)
        self._ensure = partial(genesis.ensure, event_log, registry, base, model=model, dim=engine.dim)
        self._kept = state / KEPT
        self._started = clock.now()
        self.batcher: Batcher[Answer] = Batcher(
            slots.forward,
            challenger=slots.forward_challenger,
            max_batch=settings.serve.max_batch,
            queue=settings.serve.queue,
            deadline_s=settings.serve.deadline_s,
            max_wait_s=settings.serve.max_wait_s,
            on_batch=series.batch.observe,
            on_queue=series.queue.set,
            on_wait=series.queue_wait.observe,
            on_forward=series.forward.observe,
        )
        self.appender = Appender(event_log, on_published=series.published.inc, on_failed=series.appends_failed.inc)
        self.follower = Follower(
            model=model,
            replica=replica,
            log=event_log,
            artifacts=registry,
            engine=engine,
            slots=slots,
            batcher=self.batcher,
            publish=self.appender.publish,
            metrics=series,
            clock=clock,
            state_path=state / KEPT,
            keep_versions=settings.serve.keep_versions,
        )
        self._trials = Trials(
            trial=lambda: self.follower.state.trial, slots=slots, batcher=self.batcher, metrics=series
        )
        redact = redaction(settings)
        catalogue = Catalogue(
            model=model,
            artifacts=registry,
            state=lambda: self.follower.state,
            active=lambda: self.version,
            newest_head=lambda: self.follower.newest_head,
            status=self.status,
            learner_status=learner_status.reader(state / "learn.status.json", settings.serve.learner_url),
        )
        self.app = create_app(
            model=model,
            batcher=self.batcher,
            current=lambda: slots.current,
            publish=self.appender.publish,
            append=self.appender.append,
            parse=lambda record, now: parse(record, now=now),
            ids=PredictionIds(load_key(settings.key_path())),
            trials=self._trials,
            catalogue=catalogue,
            recent=Recent(
                model=model,
                log=event_log,
                receive=lambda record, now: received(record, now=now, redact=redact),
                fates=lambda said: fates(state / "store.db", said),
            ),
            command=lambda asked: give(settings, asked),
            metrics=series,
            traces=self.traces,
            clock=clock,
            ready=self.follower.ready,
            alive=lambda: self.batcher.alive,
            token=settings.serve.token,
            max_inputs=settings.serve.queue,
            max_body_bytes=settings.serve.max_body_bytes,
            timeout_s=settings.serve.deadline_s,
        )

    @property
    def version(self) -> str:
        """Name of the version that answers; ``""`` for none."""
        current = self._slots.current
        return "" if current is None else current.name

    def status(self) -> dict[str, Any]:
        """This process' part of ``/status``."""
        state, current = self.follower.state, self._slots.current
        ready, reason = self.follower.ready()
        return {
            "pid": os.getpid(),
            "software": __version__,
            "started": self._started,
            "ready": ready,
            "not_ready": reason,
            "version": self.version,
            "labels": 0 if current is None else len(current.head.labels),
            "wanted": state.version,
            "epoch": state.epoch,
            "leader": state.leader or "",
            "pinned": state.pinned,
            "paused": state.paused,
            "failure": _told(self.follower.failure),
            "trial": self._trials.status(),
            "trial_failure": _told(self.follower.challenger_failure),
            "halted": self.follower.halted,
            "control_offset": self.follower.offset,
            "waiting": self.batcher.waiting,
        }

    def begin(self) -> None:
        """Start the threads: at once with what was kept, else as soon as the log can be read.

        Raises:
            StreamFTError: nothing was kept, and the log cannot be read.
        """
        if self._kept.exists():
            self._genesis()  # whoever kept a state has read the log's
        else:
            self._ensure(now=SystemClock().now())
        self.start()

    def start(self) -> None:
        """Start the threads."""
        self.batcher.start()
        self.appender.start()
        self.follower.start()

    def close(self) -> None:
        """Stop to follow, answer and append what waits."""
        self.follower.close()
        self.batcher.close()
        self.appender.close()
        self.traces.close()


class HttpServer:
    """uvicorn in a thread of its own: the main thread keeps the signals.

    Args:
        app: the application.
        listener: a bound socket.
        drain_s: requests that are under way when it is closed may take this long.
    """

    def __init__(self, app: Any, listener: socket.socket, *, drain_s: int) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=drain_s,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._listener = listener
        self._drain_s = drain_s
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start to accept connections."""
        self._thread.start()

    def close(self) -> None:
        """Answer what is under way, then end."""
        self._server.should_exit = True
        self._thread.join(self._drain_s + 2)


def _told(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"step": failure.step, "reason": failure.reason}


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
