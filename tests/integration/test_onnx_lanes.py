"""Several forwards of one call at once: the same answers, from as many threads as there are lanes and no more."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors.numpy import save
from tiny import bert, texts

from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import choose, onnx_engine
from stream_ft.model.engines.graph import GRAPH
from stream_ft.model.engines.onnx_engine import OnnxEngine
from stream_ft.model.export import export

MANY = [f"{words} {n}" for n, (words, _) in enumerate(texts(40))]
"""More than one forward takes."""
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def graph(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "graph"
    export(base, folder)
    return folder


@pytest.fixture(autouse=True)
def _small_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "BATCH_TOKENS", 48)


class Watched(OnnxEngine):
    """Tells how many forwards run at once; each waits until ``together`` of them have."""

    together = 1
    broken = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.running = self.most = self.ran = 0
        self.met = threading.Event()
        self._count = threading.Lock()
        super().__init__(*arguments, **options)

    def _pooled(self, *arguments: Any) -> Any:
        with self._count:
            self.running += 1
            self.ran += 1
            self.most = max(self.most, self.running)
            if self.running >= self.together:
                self.met.set()
        try:
            assert self.met.wait(PATIENCE_S), "no other forward came beside this one"
            if self.broken:
                raise RuntimeError("no memory")
            return super()._pooled(*arguments)
        finally:
            with self._count:
                self.running -= 1


def test_lanes_give_what_one_after_the_other_gives(base: BaseFolder, graph: Path) -> None:
    one = Watched(base, graph, max_tokens=32)
    three = Watched(base, graph, max_tokens=32, lanes=3)
    expected = one.encode(MANY)
    assert one.most == 1
    for _ in range(20):
        np.testing.assert_array_equal(three.encode(MANY), expected)
    assert one.ran > 4, "or nothing could run beside another"


def test_they_run_at_once(base: BaseFolder, graph: Path) -> None:
    engine = Watched(base, graph, max_tokens=32, lanes=2)
    engine.together = 2
    engine.met.clear()
    engine.encode(MANY)
    assert engine.most == 2


def test_a_small_call_and_a_trial_use_one_thread(base: BaseFolder, graph: Path) -> None:
    engine = Watched(base, graph, max_tokens=32, lanes=2)
    engine.prepare("v", {})
    engine.most = 0
    engine.encode(MANY[:1])
    engine.trial("v", MANY)
    assert engine.most == 1, "a trial is made beside forwards that must not feel it"


def completed(engine: OnnxEngine) -> None:
    """All that it can do without at first is done."""
    end = time.monotonic() + PATIENCE_S
    while not engine.complete():
        assert time.monotonic() < end
        time.sleep(0.01)


class Told(OnnxEngine):
    """Tells which of a base's sessions runs a forward."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.used: list[int] = []
        super().__init__(*arguments, **options)

    def _pooled(self, inner: Any, *arguments: Any) -> Any:
        self.used.append(id(inner))
        return super()._pooled(inner, *arguments)

    def ran(self, texts: list[str]) -> set[str]:
        """The sessions of the active base that encoded them."""
        self.used.clear()
        self.encode(texts)
        session = self._active[1]
        names = {id(session.one): "one", id(session.spread): "spread"}
        return {names[used] for used in self.used}


def test_a_lone_forward_is_spread_over_threads_and_several_are_not(base: BaseFolder, graph: Path) -> None:
    engine = Told(base, graph, max_tokens=32, threads=2, lanes=2)
    assert engine.ran(MANY[:1]) == {"spread"}
    assert engine.ran(MANY) == {"one"}
    alone = Told(base, graph, max_tokens=32, threads=2)
    assert alone.ran(MANY[:1]) == alone.ran(MANY) == {"spread"}
    np.testing.assert_allclose(engine.encode(MANY).astype(np.float32), alone.encode(MANY).astype(np.float32), atol=1e-3)


def test_a_version_answers_in_lanes_until_it_is_complete(base: BaseFolder, graph: Path) -> None:
    engine = Told(base, graph, max_tokens=32, threads=2, lanes=2)
    weight = next(name for name in engine._map.places if name.endswith("attention.self.query.weight"))
    shape = engine._map.shapes[weight]
    changed = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    engine.prepare("v", {"tensors.safetensors": save({weight: changed})})
    engine.activate("v")
    assert engine.ran(MANY[:1]) == {"one"}
    before = engine.encode(MANY[:1])
    completed(engine)
    assert engine._active[1].weights == ((), ()), "what it is built of is let go"
    assert engine._active[1].spread is not engine._active[1].one
    assert engine.ran(MANY[:1]) == {"spread"}
    np.testing.assert_allclose(
        engine.encode(MANY[:1]).astype(np.float32), before.astype(np.float32), atol=1e-3, err_msg="of the same weights"
    )
    spread = engine._active[1].spread
    completed(engine)
    assert engine._active[1].spread is spread, "it is built once"
    engine.prepare("w", {})
    completed(engine)
    assert engine._sessions["w"].spread is None, "it does not answer"
    engine.hold(["v", "w"])
    assert not engine.complete(), "it does not wait for it"
    completed(engine)
    assert engine._sessions["w"].spread is not None


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_cannot_be_spread_answers_as_it_is(
    fails: bool, base: BaseFolder, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Told(base, graph, max_tokens=32, threads=2, lanes=2)
    engine.prepare("version", {})
    engine.activate("version")
    expected = engine.encode(MANY[:1])

    def no_memory(session: Any) -> None:
        raise MemoryError("no memory")

    if fails:
        monkeypatch.setattr(onnx_engine, "initialize", no_memory)
    else:
        monkeypatch.setattr(Told, "_off", staticmethod(lambda found, expected: 0.5))
    completed(engine)
    assert "base version are not spread" in caplog.text
    assert ("no memory" if fails else "off by 5.0e-01") in caplog.text
    assert engine._active[1].spread is engine._active[1].one
    np.testing.assert_array_equal(engine.encode(MANY[:1]), expected)


def test_one_that_fails_ends_the_call_when_all_have_ended(base: BaseFolder, graph: Path) -> None:
    engine = Watched(base, graph, max_tokens=32, lanes=2)
    expected = engine.encode(MANY)
    engine.broken = True
    with pytest.raises(RuntimeError, match="no memory"):
        engine.encode(MANY)
    assert engine.running == 0
    engine.broken = False
    np.testing.assert_array_equal(engine.encode(MANY), expected)


def test_there_are_as_many_lanes_as_a_forward_may_have_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "cores", lambda: 4)
    assert [choose.lanes(threads) for threads in (1, 2, 4, 8)] == [4, 2, 4, 4]
    monkeypatch.setattr(choose, "cores", lambda: 64)
    assert choose.lanes(1) == choose.MOST_LANES


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_cores_are_those_of_the_container(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "CGROUP", tmp_path)
    monkeypatch.setattr(choose.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert choose.cores() == expected


@pytest.mark.parametrize("slow", [frozenset(), onnx_engine.SLOW_FUSIONS])
def test_what_is_slower_in_one_is_left_in_two(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: frozenset[str]
) -> None:
    monkeypatch.setattr(onnx_engine, "SLOW_FUSIONS", slow)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnx_engine.initialize(onnx_engine.started(str(graph / GRAPH), options))
    ran = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node}
    assert ("SkipLayerNormalization" in ran) == (not slow), "or the name of the fusion is not the right one"
