"""The engine with integers in torch: adapters unmerged, and the same rules for a version as with any engine."""

from __future__ import annotations

import importlib.util
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from tiny import bert, texts

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import BaseFolder, Tokenizer, base_files, load_model
from stream_ft.model.engines import quantised_engine
from stream_ft.model.engines.pooling import mean_pool, pad
from stream_ft.model.engines.quantised_engine import QuantisedEngine, Unmerged, quantise
from stream_ft.model.engines.torch_engine import TorchEngine
from stream_ft.model.tensors import ADAPTER, CONFIG, TENSORS

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torchao") is None,
        reason="torchao is not installed: pip install -e '.[quantize]'",
    ),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),  # of peft
]
WORDS = [words for words, _ in texts(20)]
FIRST, SECOND = "encoder.layer.0.output.dense", "encoder.layer.1.intermediate.dense"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(params=["int8", "int4"])
def engine(base: BaseFolder, request: pytest.FixtureRequest) -> QuantisedEngine:
    engine = QuantisedEngine(base, bits=request.param, max_tokens=32, threads=1, device="cpu")
    engine.prepare("genesis", base_files(base))
    engine.activate("genesis")
    return engine


def adapter(
    base: BaseFolder, folder: Path, *targets: str, seed: int = 0, rank: int = 4, rslora: bool = False
) -> dict[str, bytes]:
    """The files of a base whose adapter peft has saved, with all its matrices random."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, use_rslora=rslora, target_modules=list(targets) or "all-linear", lora_dropout=0.0
    )
    model = get_peft_model(load_model(base.path), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in {".json", ".safetensors"}}
    return base_files(base) | files


def by_peft(base: BaseFolder, bits: quantised_engine.Bits, folder: Path | None) -> np.ndarray:
    """Embeddings of plain peft's adapter on the same quantised model; without one, of that model."""
    from peft import PeftModel

    model = load_model(base.path)
    quantise(model, bits, torch.device("cpu"))
    assert type(model.get_submodule(FIRST).weight).__module__.startswith("torchao"), "not quantised"
    if folder is not None:
        with pytest.warns(UserWarning, match="get_apply_tensor_subclass"):  # it could not merge, and says so
            model = PeftModel.from_pretrained(model, folder).eval()
    tokenizer = Tokenizer(base.path, 32)
    rows = []
    for text in WORDS:
        tokens, mask = pad(tokenizer([text]), tokenizer.pad_id, torch.device("cpu"))
        with torch.inference_mode():
            rows.append(mean_pool(model(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)[0].numpy())
    return np.stack(rows)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found.astype(np.float32) - expected).max() < 4e-3)


def test_without_an_adapter_it_is_the_quantised_model(engine: QuantisedEngine, base: BaseFolder) -> None:
    found = engine.encode(WORDS)
    assert (found.dtype, found.shape) == (np.float16, (20, 32))
    assert close(found, by_peft(base, engine.bits, None))
    whole = TorchEngine(base, max_tokens=32, threads=1, device="cpu").encode(WORDS).astype(np.float32)
    off = np.linalg.norm(found - whole, axis=1) / np.linalg.norm(whole, axis=1)
    assert 0 < off.mean() < 0.1, "quantised, and still the same model"


@pytest.mark.parametrize(("rank", "rslora"), [(4, False), (9, True)])
def test_an_adapter_gives_what_plain_peft_gives_on_the_same_quantised_model(
    engine: QuantisedEngine, base: BaseFolder, tmp_path: Path, rank: int, rslora: bool
) -> None:
    before = engine.encode(WORDS)
    engine.prepare("one", adapter(base, tmp_path / "one", rank=rank, rslora=rslora))
    assert (engine.encode(WORDS) == before).all(), "preparing must not touch what answers"
    engine.activate("one")
    found = engine.encode(WORDS)
    assert close(found, by_peft(base, engine.bits, tmp_path / "one"))
    assert not close(found, before.astype(np.float32)), "the adapter changes nothing: the test would not see a lost one"


def test_nothing_is_left_over_from_the_version_before(
    engine: QuantisedEngine, base: BaseFolder, tmp_path: Path
) -> None:
    genesis = engine.encode(WORDS)
    engine.prepare("one", adapter(base, tmp_path / "one", FIRST, seed=1))
    engine.prepare("two", adapter(base, tmp_path / "two", SECOND, seed=2))
    engine.activate("one")
    first = engine.encode(WORDS)
    engine.activate("two")
    second = engine.encode(WORDS)
    assert close(second, by_peft(base, engine.bits, tmp_path / "two"))
    both = load(adapter(base, tmp_path / "both", FIRST, SECOND)[ADAPTER])
    for part, target in (("one", FIRST), ("two", SECOND)):
        both |= {k: v for k, v in load((tmp_path / part / ADAPTER).read_bytes()).items() if target in k}
    (tmp_path / "both" / ADAPTER).write_bytes(save(both))
    assert not close(second, by_peft(base, engine.bits, tmp_path / "both")), "leftovers would not be noticed"
    engine.activate("genesis")
    assert (engine.encode(WORDS) == genesis).all()
    engine.activate("one")
    assert (engine.encode(WORDS) == first).all(), "a set never changes"


def test_a_flip_between_two_batches_is_seen_by_every_layer_at_once(
    engine: QuantisedEngine, base: BaseFolder, tmp_path: Path
) -> None:
    expected = {}
    for name in ("one", "two"):
        engine.prepare(name, adapter(base, tmp_path / name, seed=len(name) + ord(name[0])))
        engine.activate(name)
        expected[name] = engine.encode(WORDS)
    assert (expected["one"] != expected["two"]).any()
    for name in ("one", "two", "genesis", "two", "one"):
        engine.activate(name)
        if name in expected:
            assert (engine.encode(WORDS) == expected[name]).all()


def test_a_trial_beside_a_forward_is_what_would_be_served(
    engine: QuantisedEngine, base: BaseFolder, tmp_path: Path
) -> None:
    genesis = engine.encode(WORDS)
    engine.prepare("one", adapter(base, tmp_path / "one"))
    layer = next(layer for layer in engine._decoder.modules() if isinstance(layer, Unmerged))
    entered, leave, answers = threading.Event(), threading.Event(), []

    def wait(*_: object) -> None:
        entered.set()
        assert leave.wait(20)

    handle = layer.register_forward_pre_hook(wait)
    thread = threading.Thread(target=lambda: answers.append(engine.encode(WORDS)))
    thread.start()
    try:
        assert entered.wait(10)
        tried = engine.trial("one", WORDS)
        with pytest.raises(RuntimeError, match="two threads"):
            engine.activate("one")
    finally:
        leave.set()
        thread.join()
        handle.remove()
    assert (answers[0] == genesis).all(), "the trial changed the version that answered"
    engine.activate("one")
    assert (engine.encode(WORDS) == tried).all()
    assert (engine.trial("genesis", WORDS) == genesis).all()
    with pytest.raises(KeyError):
        engine.trial("never prepared", WORDS)


def test_sets_hold_no_copy_of_the_model(engine: QuantisedEngine) -> None:
    own, twin = ({id(p) for p in module.parameters()} for module in (engine._decoder, engine._twin))
    assert own == twin


def test_the_active_set_survives_its_drop(engine: QuantisedEngine, base: BaseFolder, tmp_path: Path) -> None:
    engine.prepare("one", adapter(base, tmp_path / "one"))
    engine.activate("one")
    served = engine.encode(WORDS)
    engine.drop("one")
    engine.drop("never prepared")
    assert not engine.prepared("one")
    assert (engine.encode(WORDS) == served).all()
    with pytest.raises(KeyError):
        engine.activate("one")


def _with_tensor(files: dict[str, bytes], change: object) -> dict[str, bytes]:
    tensors = load(files[ADAPTER])
    change(tensors)  # type: ignore[operator]
    return files | {ADAPTER: save(tensors)}


def _first(tensors: dict[str, np.ndarray]) -> str:
    return sorted(tensors)[0]


@pytest.mark.parametrize(
    ("damage", "step", "said"),
    [
        (lambda f: _with_tensor(f, lambda t: t.pop(_first(t))), "keys", "differ"),
        (lambda f: _with_tensor(f, lambda t: t.update({_first(t): t[_first(t)].T.copy()})), "shapes", "shapes"),
        (lambda f: _with_tensor(f, lambda t: t.update({_first(t): t[_first(t)].astype("f2")})), "dtypes", "float32"),
        (lambda f: _with_tensor(f, lambda t: t.update({_first(t): t[_first(t)] * np.nan})), "finite", "not finite"),
        (lambda f: {k: v for k, v in f.items() if k != CONFIG}, "missing", CONFIG),
        (lambda f: {k: v for k, v in f.items() if k != ADAPTER}, "missing", ADAPTER),
        (lambda f: f | {"base.json": json.dumps({"base_model_sha256": "0" * 64}).encode()}, "base", "another"),
        (lambda f: f | {TENSORS: save({"pooler.dense.bias": np.zeros(32, np.float32)})}, "keys", "adapters only"),
        (
            lambda f: f | {CONFIG: json.dumps(json.loads(f[CONFIG]) | {"fan_in_fan_out": True}).encode()},
            "manifest",
            "fan_in_fan_out",
        ),
    ],
)
def test_a_refused_base_leaves_the_engine_as_it_was(
    base: BaseFolder, tmp_path: Path, damage: object, step: str, said: str
) -> None:
    engine = QuantisedEngine(base, bits="int8", max_tokens=32, threads=1, device="cpu")
    before = engine.encode(WORDS)
    with pytest.raises(ArtifactError, match=said) as caught:
        engine.prepare("bad", damage(adapter(base, tmp_path / "bad")))  # type: ignore[operator]
    assert caught.value.step == step
    assert not engine.prepared("bad")
    assert (engine.encode(WORDS) == before).all()


def test_an_adapter_of_an_embedding_is_refused(base: BaseFolder, tmp_path: Path) -> None:
    files = adapter(base, tmp_path / "one", FIRST)
    name = "embeddings.word_embeddings"
    rows, columns = load_model(base.path).get_submodule(name).weight.shape
    prefix = f"base_model.model.{name}.lora_"
    files[ADAPTER] = save(
        {prefix + "A.weight": np.ones((4, columns), np.float32), prefix + "B.weight": np.ones((rows, 4), np.float32)}
    )
    files[CONFIG] = json.dumps(json.loads(files[CONFIG]) | {"target_modules": [name]}).encode()
    engine = QuantisedEngine(base, bits="int8", max_tokens=32, threads=1, device="cpu")
    with pytest.raises(ArtifactError, match="not a linear layer") as caught:
        engine.prepare("one", files)
    assert caught.value.step == "keys"


def test_without_torchao_it_says_what_to_install(base: BaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else found(name, *a))
    with pytest.raises(ConfigError, match="torchao") as caught:
        QuantisedEngine(base, bits="int8", device="cpu")
    assert ".[quantize]" in str(caught.value)


def test_a_layer_that_four_bits_do_not_fit_stays_as_it_was() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.Linear(20, 4))
    before = module[1].weight
    quantise(module, "int4", torch.device("cpu"))
    assert module[1].weight is before
    assert type(module[0].weight).__module__.startswith("torchao")
