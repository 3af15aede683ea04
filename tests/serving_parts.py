"""A serving process in one object: real fold, registry, batcher and HTTP; log, engine and clock are fakes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import msgspec
import numpy as np

from stream_ft import config, control, metrics
from stream_ft.events import Event, Feedback, LabelledEvent, Reject
from stream_ft.ingest.receive import received
from stream_ft.ingest.validate import parse
from stream_ft.model.heads import Head
from stream_ft.ports import Outgoing, Record
from stream_ft.release import dossier
from stream_ft.release.manifest import manifest_file
from stream_ft.release.registry import Registry
from stream_ft.replay.fate import Fate
from stream_ft.serve.appender import Appender
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.catalogue import Catalogue
from stream_ft.serve.follow import Follower
from stream_ft.serve.http import create_app
from stream_ft.serve.operate import CommandRefused, ControlBody, ControlReply
from stream_ft.serve.predictions_id import PredictionIds
from stream_ft.serve.recent import Recent
from stream_ft.serve.slots import Answer, Slots
from stream_ft.serve.trial import Trials
from stream_ft.testing import FakeEngine, ManualClock, MemoryLog
from stream_ft.topics import topic
from stream_ft.tracing import NoTraces
from stream_ft.wiring import operator
from stream_ft.wiring.commanding import give

DIM = 16
CONTROL = topic("shop", "control")
KEY = b"k" * 32


def head(*labels: str, dim: int = DIM, upto: int = 0) -> bytes:
    """Bytes of a head; its rows are seeded by the labels, so the same labels give the same bytes."""
    rng = np.random.default_rng(len("".join(labels)))
    made = Head(
        labels=labels,
        weight=rng.standard_normal((len(labels), dim)).astype(np.float32),
        bias=np.zeros(len(labels), np.float32),
        projection=None,
        dim=dim,
    )
    return dossier.stamp(made.to_bytes(), dossier.Dossier(kind="head", examples_upto=upto, offsets={"feedback": upto}))


def base(name: str) -> dict[str, bytes]:
    """Files of a base with a manifest."""
    files = {"tensors.safetensors": name.encode()}
    return files | manifest_file(
        files,
        parent="0" * 64,
        base_model="tiny",
        base_model_sha256="1" * 64,
        method="lora",
        examples_upto=0,
        offsets={},
        verdict={},
        seed=0,
        created=0.0,
    )


class Serving:
    """Everything that a serving process has.

    Args:
        folder: for the registry and the kept state.
        app: settings of ``create_app`` that differ from the defaults.
    """

    def __init__(self, folder: Path, *, log: MemoryLog | None = None, keep_versions: int = 2, **app: Any) -> None:
        self.folder = folder
        self.clock = ManualClock(1_000.0)
        self.log = log or MemoryLog(clock=self.clock)
        self.engine = FakeEngine(DIM)
        self.registry = Registry(folder / "registry")
        self.metrics = metrics.ServeMetrics(metrics.new_registry())
        self.slots = Slots(self.engine)
        self.batcher: Batcher[Answer] = Batcher(self.slots.forward, challenger=self.slots.forward_challenger)
        self.appender = Appender(self.log)
        self.ids = PredictionIds(KEY)
        self.alive = True
        self.follower = Follower(
            model="shop",
            replica="serve@test",
            log=self.log,
            artifacts=self.registry,
            engine=self.engine,
            slots=self.slots,
            batcher=self.batcher,
            publish=self.appender.publish,
            metrics=self.metrics,
            clock=self.clock,
            state_path=folder / "serve.state",
            keep_versions=keep_versions,
        )

        self.trials = Trials(
            trial=lambda: self.follower.state.trial, slots=self.slots, batcher=self.batcher, metrics=self.metrics
        )

        def check(record: Record, now: float) -> Event | Reject:
            return parse(record, now=now)

        def receive(record: Record, now: float) -> tuple[Record, Event | Reject]:
            return received(record, now=now)

        catalogue = Catalogue(
            model="shop",
            artifacts=self.registry,
            state=lambda: self.follower.state,
            active=lambda: self.version,
            newest_head=lambda: self.follower.newest_head,
            status=self.status,
            learner_status=(folder / "learn.status.json").read_bytes,
        )
        self.app = create_app(
            **(
                {
                    "model": "shop",
                    "batcher": self.batcher,
                    "current": lambda: self.slots.current,
                    "publish": self.appender.publish,
                    "append": self.appender.append,
                    "parse": check,
                    "ids": self.ids,
                    "trials": self.trials,
                    "catalogue": catalogue,
                    "recent": Recent(model="shop", log=self.log, receive=receive, fates=self.fates),
                    "command": self.command,
                    "metrics": self.metrics,
                    "traces": NoTraces(),
                    "clock": self.clock,
                    "ready": self.follower.ready,
                    "alive": lambda: self.alive,
                }
                | app
            )
        )

    def __enter__(self) -> Serving:
        self.batcher.start()
        self.appender.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.batcher.close()
        self.appender.close()

    @property
    def version(self) -> str:
        current = self.slots.current
        return "" if current is None else current.name

    # --- the control log ---------------------------------------------------------------------------------------

    def say(self, kind: type[control.Command], by: str = "operator/ann", **fields: Any) -> None:
        """Append a control message."""
        message = control.new(kind, by=by, now=self.clock.now(), **fields)
        self.log.append([Outgoing(topic=CONTROL, value=msgspec.json.encode(message))])

    def genesis(self, *labels: str) -> str:
        """Begin the control log and serve; the base."""
        sha = self.registry.put(base("genesis"))
        start = self.registry.put_head(head(*labels))
        self.say(control.Genesis, log_id="log", base=sha, start_head=start)
        self.follower.step()
        return sha

    def promote(self, name: str, *labels: str, **fields: Any) -> str:
        """An operator's promotion; the base. Nothing is followed yet."""
        sha = self.registry.put(base(name))
        start = self.registry.put_head(head(*labels))
        state = self.follower.state
        self.say(
            control.Promote,
            **({"base": sha, "start_head": start, "parent": state.base, "expected_epoch": state.epoch} | fields),
        )
        return sha

    def challenge(self, name: str, *labels: str, kind: str = "canary", share: float = 1.0) -> str:
        """An operator's trial of a base; the base. Nothing is followed yet."""
        sha = self.registry.put(base(name))
        start = self.registry.put_head(head(*labels))
        self.say(control.Canary if kind == "canary" else control.Shadow, base=sha, start_head=start, share=share)
        return sha

    def status(self) -> dict[str, Any]:
        """This process' part of ``/status``."""
        state = self.follower.state
        ready, reason = self.follower.ready()
        return {
            "version": self.version,
            "wanted": state.version,
            "ready": ready,
            "not_ready": reason,
            "pinned": state.pinned,
            "paused": state.paused,
            "leader": state.leader or "",
            "failure": None,
            "trial": None,
            "halted": False,
            "control_offset": self.follower.offset,
        }

    def command(self, asked: ControlBody) -> ControlReply:
        """Append what was asked for, and fold it at once."""
        before = self.follower.state
        kinds = {"pin": control.Pin, "unpin": control.Unpin, "pause": control.Pause, "resume": control.Resume}
        if asked.type == "rollback":
            found = re.fullmatch(r"(?:v\d+\.)?(\d+)(?:\.\d+)?", asked.to)
            if not found:
                raise CommandRefused("There is no version before.")
            self.say(control.Rollback, to_epoch=int(found[1]), reason=asked.reason)
        else:
            self.say(kinds.get(asked.type, control.TrainNow))
        self.follower.step()
        state = self.follower.state
        return ControlReply(
            version=state.version, epoch=state.epoch, before=before.version, pinned=state.pinned, paused=state.paused
        )

    def fates(self, said: Sequence[tuple[Record, Feedback | LabelledEvent]]) -> list[Fate]:
        """There is no store here."""
        return [Fate(what="unknown") for _ in said]

    # --- HTTP --------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One request, answered."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **content)

        return asyncio.run(ask())

    def post(self, path: str, json: Any = None, **content: Any) -> httpx.Response:
        """One POST."""
        return self.request("POST", path, **(content if json is None else {"json": json} | content))

    def get(self, path: str, **content: Any) -> httpx.Response:
        """One GET."""
        return self.request("GET", path, **content)

    def written(self, kind: str) -> list[Any]:
        """What lies on a topic, once everything that waited was appended."""
        self.appender.close()
        return [msgspec.json.decode(record.value) for record in self.log.read(topic("shop", kind), 0, 0, 10_000)]


class Commanded(Serving):
    """A serving process whose commands go the whole way: checked, appended, folded and followed."""

    def command(self, asked: ControlBody) -> ControlReply:
        """As the process does it, but on the log in memory."""
        settings = config.load(flags={"state_dir": str(self.folder), "model.name": "shop", "operator": "console"})
        opened = patch.object(operator, "open_event_log", lambda *settings, **how: self.log)
        with opened, patch.object(self.log, "close"):
            told = give(settings, asked)
        self.follower.step()
        return told
