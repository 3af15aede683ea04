"""Runs the command line in this process, and makes a state folder with a history to command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream_ft import cli, control
from stream_ft.connectors.registry import open_log
from stream_ft.events import to_json
from stream_ft.model.heads import Head
from stream_ft.ports import Outgoing
from stream_ft.release import dossier
from stream_ft.release.registry import Registry

TOPIC = "stream_ft.default.control"
LEARNER = "learner/one"


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> Done:
    """Run ``stream-ft WORDS``."""
    monkeypatch.setattr(sys, "argv", ["stream-ft", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return Done(code=code, out=captured.out, err=captured.err)


class StateFolder:
    """A state folder as processes leave it: a control log and a registry.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.registry = Registry(path / "registry")
        self.bases: list[str] = []
        self.heads: list[str] = []

    def append(self, kind: type[control.Command], by: str, now: float = 1_700_000_000.0, **fields: Any) -> None:
        """Append one control message."""
        log = open_log("sqlite://", folder=self.path, writes=[])
        try:
            log.append([Outgoing(topic=TOPIC, value=to_json(control.new(kind, by=by, now=now, **fields)))])
        finally:
            log.close()

    def make(self, number: int) -> None:
        """Put the base and the head of this number into the registry."""
        told = dossier.Dossier(
            kind="lora" if number else "genesis",
            train_examples=100 * number,
            verdict={"difference": 0.05, "lower_bound": 0.01} if number else {},
            created=1_700_000_000.0 + number,
        )
        self.bases.append(self.registry.put({"base.json": f'{{"number": {number}}}'.encode()}))
        self.heads.append(self.registry.put_head(dossier.stamp(Head.empty(8).to_bytes(), told)))

    def genesis(self) -> None:
        """Epoch 0, and a learner that leads (epoch 1)."""
        self.make(0)
        self.append(control.Genesis, "operator/genesis", log_id="here", base=self.bases[0], start_head=self.heads[0])
        self.append(control.Lead, LEARNER, expected_epoch=0)

    def promote(self, epoch: int) -> None:
        """One more base, promoted by the learner at ``epoch``."""
        parent = self.bases[-1]
        self.make(len(self.bases))
        self.append(
            control.Promote,
            LEARNER,
            base=self.bases[-1],
            start_head=self.heads[-1],
            parent=parent,
            expected_epoch=epoch,
        )
