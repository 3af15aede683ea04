"""Before a serving process answers anybody, it has put aside what it would have to search for garbage."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import bert

from stream_ft.config import load
from stream_ft.wiring import serve


def test_what_is_there_is_settled_before_the_first_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    begin = serve.HttpServer.start

    class Stop(serve.StopSignal):
        def __init__(self) -> None:
            super().__init__()
            stops.append(self)

    stops: list[Stop] = []

    def start(server: serve.HttpServer) -> None:
        done.append("started")
        begin(server)
        stops[0].event.set()

    monkeypatch.setattr(serve, "StopSignal", Stop)
    monkeypatch.setattr(serve, "settle", lambda: done.append("settled"))
    monkeypatch.setattr(serve.HttpServer, "start", start)
    base = bert(tmp_path / "bert")
    named = {"model.base": str(base.path), "model.engine": "torch", "state_dir": str(tmp_path / "state")}
    serve.run(load(None, named | {"serve.port": 0}))
    assert done == ["settled", "started"]
