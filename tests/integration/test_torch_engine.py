import threading

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from tiny import bert, llama, texts
from transformers import AutoModel, AutoTokenizer

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import base_files
from stream_ft.model.engines import torch_engine
from stream_ft.model.engines.batching import batches
from stream_ft.model.engines.pooling import pad
from stream_ft.model.engines.torch_engine import TorchEngine, pick_device
from stream_ft.model.tensors import TENSORS

WORDS = [words for words, _ in texts(20)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def engine(base):
    engine = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    engine.prepare("genesis", base_files(base))
    engine.activate("genesis")
    return engine


def changed(engine, name="encoder.layer.1.output.dense.weight", seed=0):
    shape = dict(engine.module.named_parameters())[name].shape
    value = np.random.default_rng(seed).normal(scale=0.3, size=tuple(shape)).astype(np.float32)
    return {TENSORS: save({name: value})}


def test_embeddings_are_those_of_plain_transformers(engine, base):
    model, tokenizer = AutoModel.from_pretrained(base.path).eval(), AutoTokenizer.from_pretrained(base.path)
    found = engine.encode(WORDS)
    assert found.dtype == np.float16
    assert found.shape == (20, engine.dim)
    for row, text in zip(found, WORDS, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(row.astype(np.float32), states.mean(0).numpy(), atol=2e-3)


def test_an_embedding_does_not_depend_on_its_neighbours(engine):
    long = "where is my parcel it never came " * 3
    alone = np.concatenate([engine.encode([text]) for text in WORDS])
    together = engine.encode([long, *WORDS, long])[1:-1]
    np.testing.assert_allclose(alone.astype(np.float32), together.astype(np.float32), atol=2e-3)


def test_no_texts_give_no_rows(engine):
    assert engine.encode([]).shape == (0, 32)


@pytest.mark.parametrize("text", ["", "   ", "\x00", "未知的词", "x" * 1_000_000, "parcel " * 200_000])
def test_odd_texts_have_finite_embeddings(engine, text):
    assert np.isfinite(engine.encode([text])).all()


def test_a_long_text_is_cut_to_max_tokens(engine):
    assert (engine.encode(["parcel " * 100]) == engine.encode(["parcel " * 30])).all()


def test_activate_changes_what_is_served_and_back(engine):
    before = engine.encode(WORDS)
    engine.prepare("one", changed(engine))
    assert (engine.encode(WORDS) == before).all(), "prepare must not touch the active set"
    engine.activate("one")
    after = engine.encode(WORDS)
    assert (after != before).any()
    engine.activate("genesis")
    assert (engine.encode(WORDS) == before).all()
    engine.activate("one")
    assert (engine.encode(WORDS) == after).all()


def test_what_the_next_set_does_not_change_goes_back_to_pretrained(engine, base):
    other = "encoder.layer.0.output.dense.weight"
    engine.prepare("one", changed(engine))
    engine.prepare("two", changed(engine, other))
    engine.activate("one")
    engine.activate("two")
    direct = TorchEngine(base, max_tokens=32, threads=1, device="cpu")
    direct.prepare("two", changed(direct, other))
    direct.activate("two")
    assert (engine.encode(WORDS) == direct.encode(WORDS)).all()


def test_the_active_set_survives_its_drop(engine):
    engine.prepare("one", changed(engine))
    engine.activate("one")
    served = engine.encode(WORDS)
    engine.drop("one")
    engine.drop("never prepared")
    assert (engine.encode(WORDS) == served).all()
    with pytest.raises(KeyError):
        engine.activate("one")


def test_a_refused_base_leaves_the_engine_as_it_was(engine):
    before = engine.encode(WORDS)
    with pytest.raises(ArtifactError):
        engine.prepare("bad", {TENSORS: save({"nowhere": np.zeros(3, np.float32)})})
    with pytest.raises(KeyError):
        engine.activate("bad")
    assert (engine.encode(WORDS) == before).all()


def test_a_second_thread_is_told_that_it_is_wrong(engine):
    entered, leave = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        leave.wait(10)

    handle = engine.module.register_forward_pre_hook(hold)
    thread = threading.Thread(target=engine.encode, args=(WORDS,))
    thread.start()
    try:
        assert entered.wait(10)
        with pytest.raises(RuntimeError, match="two threads"):
            engine.activate("genesis")
    finally:
        leave.set()
        thread.join()
        handle.remove()
    engine.activate("genesis")


def test_one_of_two_tied_tensors_is_refused(tmp_path):
    engine = TorchEngine(llama(tmp_path, tied=True), threads=1, device="cpu", architecture="causal-lm")
    shape = engine.module.lm_head.weight.shape
    with pytest.raises(ArtifactError) as caught:
        engine.prepare("one", {TENSORS: save({"lm_head.weight": np.zeros(shape, np.float32)})})
    assert caught.value.step == "keys"
    assert engine.encode(WORDS).shape == (20, 32)


def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(ConfigError, match="no device"):
        pick_device("cuda:99")
    with pytest.raises(ConfigError):
        pick_device("abacus")


def test_batches_hold_every_row_once_within_their_budget():
    lengths = [5, 100, 3, 64, 64, 1, 0, 30]
    groups = list(batches(lengths, tokens=128))
    assert sorted(row for group in groups for row in group) == list(range(8))
    assert all(len(group) * max(1, *(lengths[row] for row in group)) <= 128 for group in groups if len(group) > 1)


def test_padding_is_masked():
    tokens, mask = pad([[5, 6], [], [7]], 0, torch.device("cpu"))
    assert tokens.tolist() == [[5, 6], [0, 0], [7, 0]]
    assert mask.tolist() == [[1, 1], [1, 0], [1, 0]]


def test_a_trial_is_what_would_be_served_and_touches_nothing(engine):
    before = engine.encode(WORDS)
    engine.prepare("one", changed(engine))
    tried = engine.trial("one", WORDS)
    assert (engine.encode(WORDS) == before).all()
    assert (engine.trial("genesis", WORDS) == before).all(), "nothing of the first trial is left"
    engine.activate("one")
    assert (engine.encode(WORDS) == tried).all()
    assert (tried != before).any()


def test_a_trial_goes_on_beside_a_forward(engine):
    engine.prepare("one", changed(engine))
    entered, leave = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        leave.wait(10)

    handle = engine.module.register_forward_pre_hook(hold)
    thread = threading.Thread(target=engine.encode, args=(WORDS,))
    thread.start()
    try:
        assert entered.wait(10)
        handle.remove()
        assert np.isfinite(engine.trial("one", WORDS)).all()
    finally:
        leave.set()
        thread.join()


def test_a_tensor_that_lies_the_other_way_round_is_laid_out_as_the_one_that_it_replaces(engine, monkeypatch):
    name = "encoder.layer.1.output.dense.weight"
    engine.prepare("as it lies", changed(engine))
    merged = torch_engine.effective
    monkeypatch.setattr(
        torch_engine, "effective", lambda *a, **k: {key: np.asfortranarray(v) for key, v in merged(*a, **k).items()}
    )
    engine.prepare("turned", changed(engine))
    engine.activate("as it lies")
    expected = engine.encode(WORDS)
    strides = engine._live[name].stride()
    engine.activate("turned")
    assert engine._live[name].stride() == strides
    np.testing.assert_array_equal(engine.encode(WORDS), expected)
