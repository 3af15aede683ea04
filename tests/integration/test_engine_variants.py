"""The 8-bit graph and the compiled engine answer for the version they are told to, and settings are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.numpy import load_file, save, save_file
from tiny import bert, texts

from stream_ft import config
from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import BaseFolder, base_files, load_model
from stream_ft.model.engines import choose, quantised_engine, torch_engine
from stream_ft.model.engines import int8_graph as int8
from stream_ft.model.engines.choose import FORMAT, cache_key
from stream_ft.model.engines.graph import GOLDEN, GRAPH, WEIGHTS
from stream_ft.model.engines.int8_graph import Int8Graph, int8_graph, rounded
from stream_ft.model.engines.onnx_engine import OnnxEngine
from stream_ft.model.engines.torch_engine import TorchEngine, live_tensors
from stream_ft.model.engines.variants import open_variant
from stream_ft.model.export import export
from stream_ft.model.tensors import TENSORS
from stream_ft.wiring import encoding

WORDS = [words for words, _ in texts(20)] + ["", "where is my parcel it never came " * 6]
FIRST, SECOND = (f"encoder.layer.{layer}.output.dense.weight" for layer in (0, 1))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def cache(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    export(base, folder / "graphs" / f"{cache_key(base)}-{FORMAT}")
    return folder


@pytest.fixture(scope="module")
def graph(cache: Path) -> Path:
    return next((cache / "graphs").iterdir())


@pytest.fixture
def engine(base: BaseFolder, graph: Path) -> OnnxEngine:
    return OnnxEngine(base, graph, max_tokens=32, int8=int8_graph(graph))


def changed(base: BaseFolder, *names: str, seed: int = 0) -> dict[str, bytes]:
    """A version that changes these tensors, or all; each on its own."""
    rng = np.random.default_rng(seed)
    tensors = {name: tensor.detach().numpy() for name, tensor in live_tensors(load_model(base.path)).items()}
    return {
        TENSORS: save(
            {
                name: (value + rng.normal(scale=0.3, size=value.shape)).astype(np.float32)
                for name, value in tensors.items()
                if not names or name in names
            }
        )
    }


def answers(engine: OnnxEngine | TorchEngine, name: str, files: dict[str, bytes]) -> np.ndarray:
    engine.prepare(name, files)
    engine.activate(name)
    return engine.encode(WORDS).astype(np.float32)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# --- 8 bits in ONNX --------------------------------------------------------------------------------------------


def whole(base: BaseFolder, files: dict[str, bytes]) -> np.ndarray:
    return answers(TorchEngine(base, max_tokens=32, threads=1, device="cpu"), "v", files)


@pytest.mark.parametrize("names", [(), (FIRST,), (SECOND,)])
def test_eight_bits_are_near_to_what_torch_gives(engine: OnnxEngine, base: BaseFolder, names: tuple[str, ...]) -> None:
    genesis = answers(engine, "genesis", base_files(base))
    assert 0 < off(genesis, whole(base, base_files(base))) < 0.03
    files = changed(base, *names)
    expected = whole(base, files)
    assert off(answers(engine, "v", files), expected) < min(0.05, off(genesis, expected) / 3)


def test_a_version_is_rounded_as_onnxruntime_rounds_it(base: BaseFolder, tmp_path: Path, graph: Path) -> None:
    """Replacing weights of the 8-bit graph is the same as making the 8-bit graph of a model with those weights."""
    files = changed(base)
    module = load_model(base.path)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in _tensors(files, tmp_path).items()})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base.path / name, tmp_path)
    module.save_pretrained(tmp_path)  # type: ignore[operator]
    from stream_ft.model.base import resolve

    other = resolve(str(tmp_path))
    export(other, tmp_path / "graphs" / "other")
    direct = OnnxEngine(other, tmp_path / "graphs" / "other", max_tokens=32, int8=int8_graph(tmp_path / "graphs/other"))
    replaced = OnnxEngine(base, graph, max_tokens=32, int8=int8_graph(graph))
    np.testing.assert_array_equal(answers(replaced, "v", files), answers(direct, "v", base_files(other)))


def _tensors(files: dict[str, bytes], folder: Path) -> dict[str, np.ndarray]:
    (folder / "changed.safetensors").write_bytes(files[TENSORS])
    return load_file(folder / "changed.safetensors")


def test_nothing_is_left_over_from_the_version_before_in_eight_bits(engine: OnnxEngine, base: BaseFolder) -> None:
    genesis = answers(engine, "genesis", base_files(base))
    first = answers(engine, "one", changed(base, FIRST))
    second = answers(engine, "two", changed(base, SECOND, seed=1))
    assert off(second, whole(base, changed(base, SECOND, seed=1))) < 0.03
    assert off(first, second) > 0.1
    assert (answers(engine, "genesis", base_files(base)) == genesis).all()


def test_columns_are_rounded_on_their_own() -> None:
    matrix = np.array([[1.0, 1e-4, 0.0], [-0.5, -2e-4, 0.0], [0.26, 1e-5, 0.0]], np.float32)
    integers, scales = rounded(matrix)
    assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
    assert np.abs(integers).max(0).tolist() == [64, 64, 0]
    assert (np.abs(integers * scales - matrix) <= scales / 2 + 1e-9).all()


def test_no_sum_of_two_products_overflows() -> None:
    """Without VNNI two products of 8 bits are added in 16."""
    matrix = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    largest = np.abs(rounded(matrix)[0].astype(int)).max()
    assert 2 * 255 * largest <= 2**15 - 1


def test_an_eight_bit_graph_is_made_once_and_a_broken_one_is_told(graph: Path, tmp_path: Path) -> None:
    made = int8_graph(graph).path
    before = made.stat().st_mtime_ns
    assert int8_graph(graph).path.stat().st_mtime_ns == before
    shutil.copytree(made.parent, tmp_path / "int8")
    (tmp_path / "int8" / int8.MAP).write_text("{}")
    with pytest.raises(ArtifactError) as caught:
        Int8Graph(tmp_path / "int8")
    assert caught.value.step == "manifest"
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / GRAPH).write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="cannot be made") as caught:
        int8_graph(tmp_path / "graph")
    assert caught.value.step == "export"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph", "int8"], "a draft is left"


def test_a_weight_that_an_eight_bit_graph_holds_by_another_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    weight = numpy_helper.from_array(value, "w")
    onnx.external_data_helper.set_external_data(weight, location=WEIGHTS)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 8))]
    # Made of a torch layer, a Gemm has its matrix the other way round; onnxruntime turns it.
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    (tmp_path / "graph").mkdir()
    onnx.save(
        helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight])), tmp_path / "graph" / GRAPH
    )
    with pytest.raises(ArtifactError, match="w stands in it as w_Transposed") as caught:
        int8.write(tmp_path / "graph", tmp_path / "int8")
    assert caught.value.step == "export"
    with pytest.raises(ArtifactError, match=r"cannot be made: the weight w stands"):
        int8_graph(tmp_path / "graph")

    def renamed(source: Path, target: Path, **settings: object) -> None:
        model = onnx.load(source)
        model.graph.initializer[0].name = "other"
        onnx.save(model, target)

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", renamed)
    with pytest.raises(ArtifactError, match="w is not in it"):
        int8.write(tmp_path / "graph", tmp_path / "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["graph"], "a draft is left"


def test_an_eight_bit_graph_that_is_far_off_is_not_used(base: BaseFolder, graph: Path, tmp_path: Path) -> None:
    shutil.copytree(graph, tmp_path / "graph")
    golden = load_file(tmp_path / "graph" / GOLDEN)
    save_file(golden | {"pooled": golden["pooled"] * np.float32(1.3)}, tmp_path / "graph" / GOLDEN)
    with pytest.raises(ArtifactError, match="off by") as caught:
        OnnxEngine(base, tmp_path / "graph", int8=int8_graph(graph))
    assert caught.value.step == "golden"


# --- compiled --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_engine_flips_without_compiling_anew(base: BaseFolder) -> None:
    plain = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    engine = TorchEngine(base, max_tokens=32, threads=1, device="cpu", compiled=True)
    versions = {"genesis": base_files(base), "one": changed(base, FIRST), "two": changed(base, SECOND, seed=1)}
    expected = {name: answers(plain, name, files) for name, files in versions.items()}
    assert off(expected["one"], expected["two"]) > 0.1
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for name in ("genesis", "one", "two", "one", "genesis", "two"):
            np.testing.assert_allclose(answers(engine, name, versions[name]), expected[name], atol=4e-3)
            np.testing.assert_allclose(engine.trial(name, WORDS).astype(np.float32), expected[name], atol=4e-3)
        for rows, words in ((1, 1), (1, 25), (2, 1), (3, 9), (32, 4)):
            texts = ["parcel " * words] * rows
            np.testing.assert_allclose(engine.encode(texts), answers_of(plain, "two", texts), atol=4e-3)
    finally:
        torch.compiler.set_stance("default")


def answers_of(engine: TorchEngine, name: str, texts: list[str]) -> np.ndarray:
    engine.activate(name)
    return engine.encode(texts)


def test_a_model_that_cannot_be_compiled_is_one_sentence(base: BaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> object:
        def forward(**inputs: object) -> object:
            raise RuntimeError("No working C++ compiler found\nand a page of more")

        return forward

    monkeypatch.setattr(torch_engine.torch, "compile", broken)
    with pytest.raises(
        ConfigError, match=r"cannot be compiled: RuntimeError: No working C\+\+ compiler found It needs"
    ) as told:
        TorchEngine(base, max_tokens=32, threads=1, device="cpu", compiled=True)
    assert "g++" in str(told.value.remedy)


# --- which one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "quantize", "compiled", "said"),
    [
        ("onnx", "none", True, "model.compile"),
        ("auto", "int8", True, "model.compile"),
        ("torch", "int4", True, "model.compile"),
        ("onnx", "int4", False, "int4"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    base: BaseFolder, cache: Path, kind: str, quantize: str, compiled: bool, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_variant(base, cache=cache, kind=kind, device="cpu", quantize=quantize, compiled=compiled)  # type: ignore[arg-type]


def test_settings_reach_the_engine(base: BaseFolder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Recorded:
        def __init__(self, _: BaseFolder, **options: object) -> None:
            made.append(options)

    monkeypatch.setattr(torch_engine, "TorchEngine", Recorded)
    monkeypatch.setattr(quantised_engine, "QuantisedEngine", Recorded)

    def opened(*, serving: bool = False, **model: object) -> object:
        flags = {f"model.{name}": value for name, value in model.items()}
        settings = config.load(None, {"model.device": "cpu", "model.cache_dir": str(cache), "model.threads": 1} | flags)
        return encoding.open_engine(settings, base, serving=serving)

    opened(engine="torch", compile=True)
    opened(engine="torch", quantize="int8")
    opened(quantize="int4")
    assert [(m.get("compiled"), m.get("bits")) for m in made] == [(True, None), (None, "int8"), (None, "int4")]
    eight = opened(quantize="int8")
    assert isinstance(eight, OnnxEngine)
    assert "int8" in eight._graph
    plain = opened(engine="onnx")
    assert isinstance(plain, OnnxEngine)
    assert "int8" not in plain._graph
    monkeypatch.setattr(choose, "cores", lambda: 3)
    for name in ("none", "int8"):
        served, encoded = (opened(serving=serving, engine="onnx", quantize=name) for serving in (True, False))
        assert isinstance(served, OnnxEngine)
        assert isinstance(encoded, OnnxEngine)
        assert (served.lanes, encoded.lanes) == (3, 1), "a learner leaves the other cores to those who are answered"


def test_a_model_without_a_graph_is_not_quantised_otherwise_in_silence(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> Path:
        raise ArtifactError("export", "torch cannot export the model.")

    monkeypatch.setattr("stream_ft.model.engines.variants.graph_folder", refused)
    with pytest.raises(ConfigError, match=r"no 8-bit ONNX engine .* cannot export"):
        open_variant(base, cache=tmp_path, device="cpu", quantize="int8")


@pytest.mark.parametrize("method", ["partial", "full", "scratch"])
@pytest.mark.parametrize("model", [{"model.quantize": "int4"}, {"model.quantize": "int8", "model.engine": "torch"}])
def test_rounds_that_change_whole_tensors_do_not_go_with_torchao(
    base: BaseFolder, method: str, model: dict[str, str]
) -> None:
    settings = config.load(None, {"round.method": method, "model.device": "cpu"} | model)
    with pytest.raises(ConfigError, match=f"round.method {method}"):
        encoding.open_engine(settings, base)


def test_onnxruntime_is_the_one_that_the_eight_bit_graph_was_made_with(graph: Path) -> None:
    assert ort.__version__ in int8_graph(graph).path.parent.name
