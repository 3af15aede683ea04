"""The engine on ONNX Runtime answers as torch does, whatever a version changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file
from tiny import bert, texts

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model import export as exporting
from stream_ft.model.base import BaseFolder, Tokenizer, base_files, load_model, resolve
from stream_ft.model.engines import choose
from stream_ft.model.engines.choose import Choice, Trial, best, open_engine
from stream_ft.model.engines.graph import GOLDEN, MAP, Weights, read_map
from stream_ft.model.engines.onnx_engine import RESIDENT, OnnxEngine
from stream_ft.model.engines.torch_engine import TorchEngine, live_tensors
from stream_ft.model.export import ExportError, export, find
from stream_ft.model.measure import ways
from stream_ft.model.plain_tokenizer import FILE, PROBES, PlainTokenizer
from stream_ft.model.tensors import TENSORS
from stream_ft.priority import NICE

WORDS = [words for words, _ in texts(20)] + ["", "where is my parcel it never came " * 6]
QUERY, KEY = (f"encoder.layer.1.attention.self.{part}.weight" for part in ("query", "key"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def graph(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs") / "graph"
    export(base, folder)
    return folder


@pytest.fixture
def engine(base: BaseFolder, graph: Path) -> OnnxEngine:
    return OnnxEngine(base, graph, max_tokens=32)


def tensors(base: BaseFolder) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in live_tensors(load_model(base.path)).items()}


def disturbed(base: BaseFolder, *names: str, seed: int = 0, scale: float = 0.2) -> dict[str, bytes]:
    """A version that changes these tensors (all without a name), each on its own."""
    rng = np.random.default_rng(seed)
    changed = {
        name: (value + rng.normal(scale=scale, size=value.shape)).astype(np.float32)
        for name, value in tensors(base).items()
        if not names or name in names
    }
    return {TENSORS: save(changed)}


def answers(engine: OnnxEngine | TorchEngine, files: dict[str, bytes], name: str = "v") -> np.ndarray:
    engine.prepare(name, files)
    engine.activate(name)
    return engine.encode(WORDS).astype(np.float32)


def in_torch(base: BaseFolder, files: dict[str, bytes]) -> np.ndarray:
    return answers(TorchEngine(base, max_tokens=32, threads=1, device="cpu"), files)


def test_embeddings_are_those_of_torch(engine: OnnxEngine, base: BaseFolder) -> None:
    found = answers(engine, base_files(base))
    assert found.shape == (len(WORDS), 32)
    assert engine.encode(WORDS).dtype == engine.trial("v", WORDS).dtype == np.float16, "as the head was trained on them"
    np.testing.assert_allclose(found, in_torch(base, base_files(base)), atol=2e-3)


def test_every_tensor_that_a_version_changes_is_changed(engine: OnnxEngine, base: BaseFolder) -> None:
    files = disturbed(base)
    np.testing.assert_allclose(answers(engine, files), in_torch(base, files), atol=4e-3)


@pytest.mark.parametrize("name", [QUERY, KEY])
def test_matrices_of_equal_shape_are_not_taken_for_each_other(engine: OnnxEngine, base: BaseFolder, name: str) -> None:
    other = KEY if name == QUERY else QUERY
    files = disturbed(base, name, scale=5.0)
    exchanged = {TENSORS: save({other: np.ascontiguousarray(_one(files))})}
    found = answers(engine, files)
    np.testing.assert_allclose(found, in_torch(base, files), atol=2e-3)
    assert np.abs(found - in_torch(base, exchanged)).max() > 0.01, "the test would not notice an exchange"


def _one(files: dict[str, bytes]) -> np.ndarray:
    from safetensors.numpy import load

    (value,) = load(files[TENSORS]).values()
    return value


def test_nothing_is_left_over_from_the_version_before(engine: OnnxEngine, base: BaseFolder) -> None:
    answers(engine, disturbed(base, QUERY), "one")
    files = disturbed(base, KEY, seed=1)
    np.testing.assert_allclose(answers(engine, files, "two"), in_torch(base, files), atol=2e-3)
    genesis = base_files(base)
    np.testing.assert_allclose(answers(engine, genesis, "genesis"), in_torch(base, genesis), atol=2e-3)


def test_preparing_does_not_touch_what_answers(engine: OnnxEngine, base: BaseFolder) -> None:
    before = answers(engine, base_files(base), "genesis")
    engine.prepare("one", disturbed(base))
    assert (engine.encode(WORDS) == before).all()


def test_a_trial_is_what_would_be_served_and_touches_nothing(engine: OnnxEngine, base: BaseFolder) -> None:
    before = answers(engine, base_files(base), "genesis")
    engine.prepare("one", disturbed(base))
    tried = engine.trial("one", WORDS)
    assert (engine.encode(WORDS) == before).all()
    engine.activate("one")
    assert (engine.encode(WORDS) == tried).all()
    with pytest.raises(KeyError):
        engine.trial("never prepared", WORDS)


def test_two_sessions_are_resident_and_the_active_one_stays(engine: OnnxEngine, base: BaseFolder) -> None:
    first = answers(engine, disturbed(base, seed=1), "1")
    for name in ("2", "3", "4"):
        engine.prepare(name, disturbed(base, seed=int(name)))
        assert [engine.prepared(n) for n in ("1", name)] == [True, True]
        assert sum(engine.prepared(n) for n in "1234") <= RESIDENT
        assert (engine.encode(WORDS) == first).all()
    with pytest.raises(KeyError):
        engine.activate("2")


def test_a_champion_and_a_challenger_take_turns_and_neither_makes_room(engine: OnnxEngine, base: BaseFolder) -> None:
    expected = {name: answers(engine, disturbed(base, seed=int(name)), name) for name in "12"}
    engine.hold({"1", "2"})
    engine.prepare("3", disturbed(base, seed=3))
    for name in "1212":
        engine.activate(name)
        assert (engine.encode(WORDS) == expected[name]).all()
    assert all(engine.prepared(name) for name in "123")
    engine.hold({"2", "3"})
    assert [engine.prepared(name) for name in "123"] == [False, True, True]


def test_the_active_session_survives_its_drop(engine: OnnxEngine, base: BaseFolder) -> None:
    served = answers(engine, disturbed(base), "one")
    engine.drop("one")
    engine.drop("never prepared")
    assert (engine.encode(WORDS) == served).all()
    with pytest.raises(KeyError):
        engine.activate("one")


@pytest.mark.parametrize(
    ("files", "step"),
    [
        ({TENSORS: save({"nowhere": np.zeros(3, np.float32)})}, "keys"),
        ({TENSORS: save({QUERY: np.zeros((32, 3), np.float32)})}, "shapes"),
        ({TENSORS: save({QUERY: np.zeros((32, 32), np.float16)})}, "dtypes"),
        ({TENSORS: save({QUERY: np.full((32, 32), np.nan, np.float32)})}, "finite"),
    ],
)
def test_a_refused_base_leaves_the_engine_as_it_was(
    engine: OnnxEngine, base: BaseFolder, files: dict[str, bytes], step: str
) -> None:
    before = answers(engine, base_files(base), "genesis")
    with pytest.raises(ArtifactError) as caught:
        engine.prepare("bad", files)
    assert caught.value.step == step
    assert not engine.prepared("bad")
    assert (engine.encode(WORDS) == before).all()


def test_a_set_with_one_of_two_tied_names_is_refused(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_model(base.path)
    module.get_submodule(KEY.removesuffix(".weight")).weight = module.get_parameter(QUERY)
    monkeypatch.setattr(exporting, "load_model", lambda path: module)
    export(base, tmp_path / "graph")
    engine = OnnxEngine(base, tmp_path / "graph", max_tokens=32)
    with pytest.raises(ArtifactError, match="shares its memory") as caught:
        engine.prepare("one", disturbed(base, QUERY))
    assert caught.value.step == "keys"
    assert not engine.prepared("one")


def test_pretrained_weights_are_read_back_as_they_were(base: BaseFolder, graph: Path) -> None:
    weights = Weights(graph, read_map(graph))
    for name, value in tensors(base).items():
        assert (weights(name) == value).all(), name
    with pytest.raises(KeyError):
        weights("nowhere")


def test_a_graph_that_differs_from_torch_is_not_used(base: BaseFolder, graph: Path, tmp_path: Path) -> None:
    shutil.copytree(graph, tmp_path / "graph")
    golden = load_file(tmp_path / "graph" / GOLDEN)
    golden["pooled"] = golden["pooled"] + np.float32(0.05)
    save_file(golden, tmp_path / "graph" / GOLDEN)
    with pytest.raises(ArtifactError, match="off by") as caught:
        OnnxEngine(base, tmp_path / "graph")
    assert caught.value.step == "golden"


def test_a_graph_of_another_model_is_not_used(base: BaseFolder, graph: Path) -> None:
    other = BaseFolder(name=base.name, path=base.path, sha256="0" * 64)
    with pytest.raises(ArtifactError) as caught:
        OnnxEngine(other, graph)
    assert caught.value.step == "base"


# --- the map ---------------------------------------------------------------------------------------------------


def test_a_tensor_is_found_as_it_is_or_transposed() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 5), (5, 3), (4,)))
    found = find({"a": a, "b": b, "c": c}, {"x": a.T.copy(), "y": b, "z": c, "other": np.ones(4, np.float32)})
    assert {name: (place.initializer, place.transposed) for name, place in found.items()} == {
        "a": ("x", True), "b": ("y", False), "c": ("z", False)
    }  # fmt: skip


def test_a_tensor_that_lies_in_two_places_cannot_be_replaced() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    with pytest.raises(ExportError, match="2 times"):
        find({"a": value}, {"x": value, "y": value.T.copy()})


def test_of_two_tied_names_one_is_found() -> None:
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert list(find({"b": value, "a": value}, {"x": value})) == ["a"]


# --- the tokenizer ---------------------------------------------------------------------------------------------


def test_the_plain_tokenizer_is_used_because_it_agrees(engine: OnnxEngine, base: BaseFolder) -> None:
    assert isinstance(engine.tokenizer, PlainTokenizer)
    for length in (8, 16, 32):
        facts = exporting.tokenizer_facts(base.path)
        assert facts is not None
        assert PlainTokenizer(base.path, facts, length)(list(PROBES)) == Tokenizer(base.path, length)(list(PROBES))


def test_a_tokenizer_that_does_not_agree_is_not_used(base: BaseFolder, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path / "model")
    assert exporting.tokenizer_facts(tmp_path / "model") is not None
    (tmp_path / "model" / FILE).write_text("{}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "Tokenizer", lambda path, length: Tokenizer(base.path, length))
        assert exporting.tokenizer_facts(tmp_path / "model") is None
    (tmp_path / "model" / FILE).unlink()
    assert exporting.tokenizer_facts(tmp_path / "model") is None


# --- which engine ----------------------------------------------------------------------------------------------


def trial(engine: str, p50_ms: float, cpu_ms: float, threads: int = 1) -> Trial:
    return Trial(engine=engine, threads=threads, p50_ms=p50_ms, cpu_ms=cpu_ms)


def test_the_fastest_is_taken_unless_it_burns_more_than_torch_as_it_comes() -> None:
    torch, on_all, onnx = trial("torch", 5.0, 5.0), trial("torch", 4.0, 8.0, threads=2), trial("onnx", 2.0, 2.0)
    spinning, greedy = trial("onnx", 1.5, 7.0, threads=2), trial("onnx", 1.0, 14.0, threads=2)
    assert best([torch, on_all, onnx]).engine == "onnx"
    assert best([torch, on_all, trial("onnx", 9.0, 4.0)]).engine == "torch"
    assert best([torch, on_all, onnx, greedy]).threads == 1
    assert best([torch, on_all, onnx, greedy, spinning]).threads == 2


def test_onnx_is_held_to_what_torch_costs_where_torch_may_not_win() -> None:
    torch, onnx = trial("torch", 0.5, 8.0, threads=2), trial("onnx", 2.0, 2.0)
    spinning = trial("onnx", 1.0, 14.0, threads=2)
    assert best([onnx, spinning, torch], "onnx") == Choice(engine="onnx", threads=1, trials=[onnx, spinning, torch])
    assert best([spinning, trial("onnx", 1.5, 9.0), torch], "onnx").threads == 1, "the cheapest, where all cost more"
    assert best([onnx], "onnx").engine == "onnx", "one way, and nothing to compare"


def test_torch_on_all_cores_is_measured_where_there_is_a_choice() -> None:
    for kind in ("auto", "onnx"):
        assert ("torch", 2, False) in ways(kind, 0, 2)
    assert ways("onnx", 2, 4) == [("onnx", 2, False), ("onnx", 2, True), ("torch", 4, False)]
    assert ways("onnx", 1, 4) == [("onnx", 1, False)]


@pytest.mark.parametrize(
    ("built", "found"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True),
        ("cuda = None\nhip = '7.0'\n", True),
        ("this is no Python", False),
    ],
)
def test_a_device_file_is_a_gpu_only_to_a_torch_that_is_built_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str, found: bool
) -> None:
    (tmp_path / "version.py").write_text(f"from typing import Optional\n__version__ = '2'\n{built}")
    monkeypatch.setattr(choose, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(choose, "GPU_FILES", (str(tmp_path / "nvidiactl"),))
    assert not choose.on_gpu("auto"), "no device file"
    (tmp_path / "nvidiactl").write_text("")
    assert choose.on_gpu("auto") == found
    assert choose.on_gpu("cuda")
    assert not choose.on_gpu("cpu")


def test_what_torch_is_built_for_is_read_as_torch_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(choose, "GPU_FILES", (str(tmp_path),))
    assert choose.on_gpu("auto") == bool(torch.version.cuda or torch.version.hip)


@pytest.mark.parametrize("changed", ["config.json", "tokenizer_config.json", FILE])
def test_the_same_weights_with_another_configuration_or_tokenizer_are_another_model_in_the_cache(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    shutil.copytree(base.path, tmp_path / "model")
    other, cache, calls = resolve(str(tmp_path / "model")), tmp_path / "cache", []
    choice = Choice(engine="onnx", threads=1)

    def ran(module: str, arguments: list[str], seconds: float) -> object:
        calls.append(module.rpartition(".")[2])
        if module.endswith("export"):
            Path(arguments[1]).mkdir(parents=True)
            (Path(arguments[1]) / MAP).touch()
        return choose.subprocess.CompletedProcess(module, 0, msgspec.json.encode(choice).decode(), "")

    def used(model: BaseFolder) -> Path:
        folder = choose.graph_folder(model, cache)
        assert choose.chosen(model, folder, cache, kind="auto", threads=0) == choice
        return folder

    monkeypatch.setattr(choose, "_run", ran)
    assert used(base) == used(other)
    assert calls == ["export", "measure"]
    (tmp_path / "model" / changed).write_bytes((tmp_path / "model" / changed).read_bytes() + b"\n")
    assert resolve(str(tmp_path / "model")).sha256 == base.sha256
    assert choose.remembered(other, cache, kind="auto", threads=0) is None
    assert used(other) != used(base)
    assert calls == ["export", "measure"] * 2


@pytest.mark.slow
def test_a_model_is_exported_and_measured_once(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_engine(base, cache=tmp_path, device="cpu")
    assert first.encode(["hello"]).shape == (1, 32)

    def never(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(choose, "_run", never)
    again = open_engine(base, cache=tmp_path, device="cpu")
    assert type(again) is type(first)
    assert isinstance(open_engine(base, cache=tmp_path, kind="torch", device="cpu"), TorchEngine)
    assert isinstance(open_engine(base, cache=tmp_path, kind="onnx", threads=1), OnnxEngine)


def test_a_model_without_a_graph_is_served_by_torch(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refused(module: str, *arguments: object) -> object:
        calls.append(module)
        return choose.subprocess.CompletedProcess(module, 3, "", "torch cannot export the model.")

    monkeypatch.setattr(choose, "_run", refused)
    assert isinstance(open_engine(base, cache=tmp_path, device="cpu"), TorchEngine)
    assert isinstance(open_engine(base, cache=tmp_path, device="cpu"), TorchEngine)
    assert calls == ["stream_ft.model.export"], "what cannot be exported is not tried at every start"
    with pytest.raises(ConfigError, match="torch cannot export the model"):
        open_engine(base, cache=tmp_path, kind="onnx")


def test_a_graph_that_has_gone_bad_is_no_reason_not_to_start(base: BaseFolder, graph: Path, tmp_path: Path) -> None:
    folder = graph_path(base, tmp_path)
    shutil.copytree(graph, folder)
    golden = load_file(folder / GOLDEN)
    save_file({**golden, "pooled": golden["pooled"] * 2}, folder / GOLDEN)
    assert isinstance(open_engine(base, cache=tmp_path, device="cpu", threads=1, measured=False), TorchEngine)
    with pytest.raises(ConfigError, match="off by"):
        open_engine(base, cache=tmp_path, kind="onnx", threads=1)


def graph_path(base: BaseFolder, cache: Path) -> Path:
    return cache / "graphs" / f"{choose.cache_key(base)}-{choose.FORMAT}"


def test_a_measurement_that_fails_leaves_a_server_that_starts(
    base: BaseFolder, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(graph, graph_path(base, tmp_path))
    broken = choose.subprocess.CompletedProcess("", 1, "", "boom")
    monkeypatch.setattr(choose, "_run", lambda *arguments: broken)
    assert choose.chosen(base, graph, tmp_path, kind="auto", threads=0) == Choice(engine="onnx", threads=1)


def test_a_cache_that_cannot_be_written_is_one_sentence(base: BaseFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache folder .* cannot be used"):
        open_engine(base, cache=tmp_path / "file" / "cache", device="cpu")


def test_an_export_that_fails_leaves_nothing(base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> object:
        raise ExportError("no")

    monkeypatch.setattr(exporting, "_exported", broken)
    with pytest.raises(ExportError):
        export(base, tmp_path / "graphs" / "one")
    assert list((tmp_path / "graphs").iterdir()) == []


GIVING_WAY = """
import os, sys, threading
from pathlib import Path
import numpy as np
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines.onnx_engine import OnnxEngine

def threads():
    return {int(n): os.getpriority(os.PRIO_PROCESS, int(n)) for n in os.listdir("/proc/self/task")}
base = BaseFolder(name=sys.argv[1], path=Path(sys.argv[2]), sha256=sys.argv[3])
engine = OnnxEngine(base, Path(sys.argv[4]), max_tokens=32, threads=2, spinning=True, gives_way=True)
before = threads()
files = {"tensors.safetensors": Path(sys.argv[5]).read_bytes()}
def prepare():
    engine.prepare("v", files)
    engine.trial("v", ["hello"])
    print(max(before.values()), *sorted(nice for thread, nice in threads().items() if thread not in before))
thread = threading.Thread(target=prepare)
thread.start()
thread.join()
engine.activate("v")
np.save(sys.argv[6], engine.encode(["hello", "where is my parcel"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux only")
def test_the_threads_of_a_session_do_not_give_way_with_the_one_that_builds_it(
    base: BaseFolder, graph: Path, engine: OnnxEngine, tmp_path: Path
) -> None:
    files = disturbed(base)
    (tmp_path / "v").write_bytes(files[TENSORS])
    arguments = [base.name, str(base.path), base.sha256, str(graph), str(tmp_path / "v"), str(tmp_path / "found.npy")]
    ran = subprocess.run([sys.executable, "-c", GIVING_WAY, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert ran.stdout.split() == [str(nice) for nice in (max(usual, NICE), usual, usual)], (
        "the thread that builds; that which prepares, and that of the session"
    )
    engine.prepare("v", files)
    engine.activate("v")
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy").astype(np.float32),
        engine.encode(["hello", "where is my parcel"]).astype(np.float32),
        atol=2e-3,
    )


APART = """
import os, sys
from pathlib import Path
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines.onnx_engine import OnnxEngine
base = BaseFolder(name=sys.argv[1], path=Path(sys.argv[2]), sha256=sys.argv[3])
engine = OnnxEngine(base, Path(sys.argv[4]), max_tokens=32, threads=2)
every = os.sched_getaffinity(0)
def kept():
    return sum(os.sched_getaffinity(int(n)) != every for n in os.listdir("/proc/self/task"))
engine.prepare("v", {})
before = kept()
engine.activate("v")
engine.encode(["hello"])
print(before, kept())
"""


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores")
def test_the_second_thread_of_a_forward_keeps_off_the_core_of_the_first(base: BaseFolder, graph: Path) -> None:
    arguments = [base.name, str(base.path), base.sha256, str(graph)]
    ran = subprocess.run([sys.executable, "-c", APART, *arguments], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["0", "1"], ran.stderr
