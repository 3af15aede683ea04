import json

import numpy as np
import pytest
from safetensors.numpy import save

from stream_ft.errors import ArtifactError
from stream_ft.model.tensors import ADAPTER, CONFIG, TENSORS, effective

SHA = "a" * 64
RANDOM = np.random.default_rng(0)
PRETRAINED = {
    "layer.0.query.weight": RANDOM.normal(size=(4, 3)).astype(np.float32),
    "layer.0.key.weight": RANDOM.normal(size=(4, 3)).astype(np.float32),
    "layer.0.key.bias": np.zeros(4, np.float32),
    "out.weight": np.zeros((5, 4), np.float32),
    "steps": np.zeros(3, np.int64),
    "layer.0.rounded.weight": np.zeros((4, 3), np.int8),
}
SHAPES = {name: value.shape for name, value in PRETRAINED.items()}


DTYPES = {name: str(value.dtype) for name, value in PRETRAINED.items()}


def read(files, tied=()):
    return effective(files, shapes=SHAPES, dtypes=DTYPES, tied=tied, pretrained=PRETRAINED.__getitem__, base_sha256=SHA)


def adapter(config=None, drop=(), **tensors):
    prefix = "base_model.model.layer.0.query.lora_"
    values = {
        prefix + "A.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        prefix + "B.weight": np.arange(8, dtype=np.float32).reshape(4, 2),
    } | tensors
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["layer.0.query"]} | (config or {})
    return {
        CONFIG: json.dumps(plain).encode(),
        ADAPTER: save({name: value for name, value in values.items() if name not in drop}),
    }


def delta():
    a, b = np.arange(6).reshape(2, 3), np.arange(8).reshape(4, 2)
    return (b @ a).astype(np.float32)


def refused(step, files, tied=()):
    with pytest.raises(ArtifactError) as caught:
        read(files, tied)
    assert caught.value.step == step


def test_a_folder_without_tensors_changes_nothing():
    assert read({"base.json": json.dumps({"base_model_sha256": SHA}).encode()}) == {}


def test_lora_is_merged_with_alpha_over_rank():
    result = read(adapter())
    assert list(result) == ["layer.0.query.weight"]
    np.testing.assert_allclose(result["layer.0.query.weight"], PRETRAINED["layer.0.query.weight"] + 2 * delta())


def test_rslora_divides_by_the_root_of_the_rank():
    result = read(adapter({"use_rslora": True}))["layer.0.query.weight"]
    np.testing.assert_allclose(result, PRETRAINED["layer.0.query.weight"] + 4 / np.sqrt(2) * delta(), rtol=1e-6)


def test_transposed_weights_take_the_transposed_delta():
    prefix = "base_model.model.layer.0.query.lora_"
    a, b = np.ones((2, 4), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    files = adapter({"fan_in_fan_out": True}, **{prefix + "A.weight": a, prefix + "B.weight": b})
    result = read(files)["layer.0.query.weight"]
    np.testing.assert_allclose(result, PRETRAINED["layer.0.query.weight"] + 2 * (b @ a).T, rtol=1e-6)


def test_the_pretrained_tensor_is_left_alone():
    before = PRETRAINED["layer.0.query.weight"].copy()
    read(adapter())
    np.testing.assert_array_equal(PRETRAINED["layer.0.query.weight"], before)


def test_a_suffix_names_only_whole_modules():
    # peft would match "query" and not "myquery"; "ery" must match nothing
    assert list(read(adapter({"target_modules": ["query"]}))) == ["layer.0.query.weight"]
    refused("keys", adapter({"target_modules": ["ery"]}))


def test_missing_or_foreign_tensors_of_an_adapter_are_refused():
    refused("keys", adapter(drop=["base_model.model.layer.0.query.lora_B.weight"]))
    refused("keys", adapter(**{"base_model.model.layer.0.key.lora_A.weight": np.zeros((2, 3), np.float32)}))
    refused("keys", adapter({"target_modules": ["layer.0.query", "layer.0.key"]}))


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["classifier"]},
        {"rank_pattern": {"query": 4}},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"r": "2"},
        {"r": 0},
        {"lora_alpha": None},
        {"target_modules": ".*query"},
    ],
)
def test_what_cannot_be_merged_is_refused(config):
    refused("manifest", adapter(config))


def test_shapes_types_and_values_of_an_adapter_are_checked():
    name = "base_model.model.layer.0.query.lora_A.weight"
    refused("shapes", adapter(**{name: np.zeros((3, 3), np.float32)}))
    refused("dtypes", adapter(**{name: np.zeros((2, 3), np.float16)}))
    refused("finite", adapter(**{name: np.full((2, 3), np.nan, np.float32)}))
    refused("finite", adapter(**{name: np.full((2, 3), 3e38, np.float32)}))


def test_an_adapter_needs_both_files():
    files = adapter()
    refused("missing", {CONFIG: files[CONFIG]})
    refused("missing", {ADAPTER: files[ADAPTER]})


def test_full_tensors_come_as_they_are():
    value = RANDOM.normal(size=(4, 3)).astype(np.float32)
    result = read({TENSORS: save({"layer.0.key.weight": value})})
    np.testing.assert_array_equal(result["layer.0.key.weight"], value)


def test_full_tensors_are_checked():
    refused("keys", {TENSORS: save({"layer.1.key.weight": np.zeros((4, 3), np.float32)})})
    refused("shapes", {TENSORS: save({"layer.0.key.weight": np.zeros((3, 4), np.float32)})})
    refused("dtypes", {TENSORS: save({"layer.0.key.bias": np.zeros(4, np.float64)})})
    refused("finite", {TENSORS: save({"layer.0.key.bias": np.array([0, np.inf, 0, 0], np.float32)})})


def test_a_tensor_that_is_no_float_in_the_model_is_refused():
    for dtype in (np.float32, np.int64):
        refused("dtypes", {TENSORS: save({"steps": np.zeros(3, dtype)})})
    prefix = "base_model.model.layer.0.rounded.lora_"
    a, b = np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)
    prefixed = {f"base_model.model.layer.0.query.lora_{side}.weight" for side in "AB"}
    files = adapter(
        {"target_modules": ["layer.0.rounded"]},
        drop=prefixed,
        **{prefix + "A.weight": a, prefix + "B.weight": b},
    )
    refused("dtypes", files)


def test_one_of_two_tied_names_is_refused():
    refused("keys", {TENSORS: save({"out.weight": np.ones((5, 4), np.float32)})}, tied=["out.weight"])


def test_two_kinds_of_change_at_once_are_refused():
    refused("keys", adapter() | {TENSORS: save({"layer.0.key.bias": np.zeros(4, np.float32)})})


@pytest.mark.parametrize("marker", ["base.json", "stream_ft.json"])
def test_a_base_for_another_model_is_refused(marker):
    refused("base", adapter() | {marker: json.dumps({"base_model_sha256": "b" * 64}).encode()})
    refused("base", adapter() | {marker: b"{}"})


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 7, b"\xff" * 64, b"not safetensors at all", b"\x10" + b"\x00" * 7 + b"{" * 16]
)
@pytest.mark.parametrize("name", [TENSORS, ADAPTER])
def test_files_that_cannot_be_read_are_refused(name, data):
    refused("manifest", adapter() | {name: data} if name == ADAPTER else {name: data})


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_configuration_that_cannot_be_read_is_refused(data):
    refused("manifest", adapter() | {CONFIG: data})
