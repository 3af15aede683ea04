"""The Open Inference Protocol v2: tensors in, tensors out, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_parts import DIM, Serving

from stream_ft.serve.protocol import BY_DEFAULT, OUTPUTS

INFER = "/v2/models/shop/infer"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, max_inputs=8) as made:
        made.genesis("yes", "no", "maybe")
        yield made


def infer(*data: Any, **change: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [len(data)], "datatype": "BYTES", "data": list(data)}
    return {"inputs": [tensor | change]}


def asking(*names: str) -> dict[str, Any]:
    return {"outputs": [{"name": name} for name in names]}


# --- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2], ["hello", "good bye"]),
        ([2, 1], ["hello", "good bye"]),
        ([2, 1], [["hello"], ["good bye"]]),
        ([2], [["hello"], ["good bye"]]),
    ],
)
def test_texts_may_be_flat_or_nested(serving: Serving, shape: list[int], data: list[Any]) -> None:
    plain = serving.post("/predict", {"inputs": ["hello", "good bye"]}).json()["predictions"]
    response = serving.post(INFER, infer(shape=shape, data=data))
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    assert tuple(outputs) == BY_DEFAULT
    assert outputs["label"] == {
        "name": "label",
        "shape": [2],
        "datatype": "BYTES",
        "data": [row["label"] for row in plain],
    }


def test_what_the_protocol_lets_a_client_send_besides_does_no_harm(serving: Serving) -> None:
    asked = infer("hello", parameters={"content_type": "str"}, name="input-0")
    asked |= {"id": "7", "parameters": {"priority": 1, "binary_data_output": False}, "extra": None}
    asked["outputs"] = [{"name": "label", "parameters": {"binary_data": False}}]
    response = serving.post(INFER, asked)
    assert response.status_code == 200
    assert (response.json()["id"], len(response.json()["outputs"])) == ("7", 1)


@pytest.mark.parametrize("outputs", [None, []])
def test_one_that_asks_for_no_output_gets_the_usual(serving: Serving, outputs: Any) -> None:
    body = serving.post(INFER, infer("hello") | {"outputs": outputs}).json()
    assert tuple(output["name"] for output in body["outputs"]) == BY_DEFAULT


IDS = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [101, 7, 102]}
MASK = IDS | {"name": "attention_mask", "data": [1, 1, 1]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"inputs": [IDS]}, "datatype"),
        ({"inputs": [IDS, MASK]}, "2 input tensors"),
        ({"inputs": [infer("a")["inputs"][0], MASK]}, "2 input tensors"),
        ({"inputs": []}, "0 input tensors"),
        (infer("a", datatype="FP32"), "datatype"),
        (infer("a", "b", shape=[1, 2]), "shape"),
        (infer("a", "b", shape=[2, 1, 1]), "shape"),
        (infer("a", shape=[]), "shape"),
        (infer("a", 1), "strings"),
        (infer(["a"], "b"), "unevenly"),
        (infer(["a"], ["b", "c"], shape=[3]), "unevenly"),
        (infer(["a"], []), "unevenly"),
    ],
)
def test_other_tensors_are_refused_with_what_the_model_takes(
    serving: Serving, content: dict[str, Any], words: str
) -> None:
    response = serving.post(INFER, content)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]
    assert "datatype BYTES, shape [N] or [N, 1]" in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (infer("a", shape=[2]), 400),
        (infer("a", shape=[-1]), 400),
        (infer("a", shape=[2**70]), 400),
        (infer("a") | asking("logits"), 400),
        (infer("a") | asking("label", "label"), 400),
        (infer("a") | {"outputs": ["label"]}, 400),
        (infer("a") | {"id": 7}, 400),
        (infer("a") | {"parameters": []}, 400),
        (infer(*"abcdefghi"), 422),
        (infer("\u200b"), 422),
        (infer(shape=[0]), 422),
        (infer(shape=[0, 1]), 422),
    ],
)
def test_a_refusal_is_one_sentence(serving: Serving, content: dict[str, Any], status: int) -> None:
    response = serving.post(INFER, content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert serving.written("predictions") == []


# --- tensors ----------------------------------------------------------------------------------------------------


def tensor(output: dict[str, Any]) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = np.array(output["data"], np.float32).reshape(output["shape"])
    return made


def test_the_embedding_is_that_which_the_head_read(serving: Serving) -> None:
    (output,) = serving.post(INFER, infer("hello", "退货") | asking("embedding")).json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [2, DIM])
    expected = serving.engine.encode(["hello", "退货"])
    assert expected.dtype == np.float16
    np.testing.assert_array_equal(tensor(output), expected.astype(np.float32))


def test_probabilities_come_with_the_names_of_their_columns(serving: Serving) -> None:
    body = serving.post(INFER, infer("hello", "good bye", "退货") | asking("probabilities", "label", "score")).json()
    rows, labels, scores = body["outputs"]
    assert (rows["datatype"], rows["shape"], rows["parameters"]) == (
        "FP32",
        [3, 3],
        {"labels": ["yes", "no", "maybe"]},
    )
    assert [output["name"] for output in body["outputs"]] == ["probabilities", "label", "score"]
    matrix = tensor(rows)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert [rows["parameters"]["labels"][i] for i in matrix.argmax(axis=1)] == labels["data"]
    np.testing.assert_allclose(matrix.max(axis=1), scores["data"], rtol=1e-5)


def test_a_model_without_labels_has_no_columns(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        serving.genesis()
        (output,) = serving.post(INFER, infer("hello") | asking("probabilities")).json()["outputs"]
        assert (output["shape"], output["data"], output["parameters"]) == ([1, 0], [], {"labels": []})


def test_predictions_are_published_whatever_is_asked_for(serving: Serving) -> None:
    serving.post(INFER, infer("hello", "good bye") | asking("embedding"))
    assert [event["input"] for event in serving.written("predictions")] == ["hello", "good bye"]


# --- metadata, versions -----------------------------------------------------------------------------------------


def test_the_metadata_name_every_tensor(serving: Serving) -> None:
    body = serving.get("/v2/models/shop").json()
    assert (body["name"], body["platform"], body["versions"]) == ("shop", "stream_ft", ["v0.0.0"])
    assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {output["name"]: (output["datatype"], output["shape"]) for output in body["outputs"]} == {
        "label": ("BYTES", [-1]),
        "score": ("FP32", [-1]),
        "prediction_id": ("BYTES", [-1]),
        "embedding": ("FP32", [-1, DIM]),
        "probabilities": ("FP32", [-1, 3]),
    }
    answered = serving.post(INFER, infer("hello") | asking(*OUTPUTS)).json()["outputs"]
    for told, given in zip(body["outputs"], answered, strict=True):
        assert (told["name"], told["datatype"]) == (given["name"], given["datatype"])
        assert [size if size != -1 else 1 for size in told["shape"]] == given["shape"]


def test_the_metadata_are_there_before_a_version_is(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        body = serving.get("/v2/models/shop").json()
        assert (body["versions"], body["outputs"][-1]["shape"]) == ([], [-1, -1])
        assert serving.get("/v2/models/shop/versions/v0.0.0/ready").status_code == 404
        assert serving.post(INFER, infer("hello")).status_code == 503
        assert serving.get("/v2").json() == serving.get("/v2/").json()


def test_a_version_can_be_asked_while_it_is_the_one_that_answers(serving: Serving) -> None:
    first = "/v2/models/shop/versions/v0.0.0/infer"
    response = serving.post(first, infer("hello"))
    assert (response.status_code, response.json()["model_version"]) == (200, "v0.0.0")
    assert serving.post("/v2/models/shop/versions/v9.9.9/infer", infer("hello")).status_code == 404
    assert serving.post("/v2/models/other/versions/v0.0.0/infer", infer("hello")).status_code == 404
    serving.promote("better", "yes", "no")
    serving.follower.step()
    assert serving.post(first, infer("hello")).status_code == 404
    assert serving.post("/v2/models/shop/versions/v1.1.0/infer", infer("hello")).status_code == 200


def test_a_request_for_a_version_that_a_flip_overtook_is_not_answered_by_another(tmp_path: Path) -> None:
    """The version is asked for while it is current, and is another by the time the batch is formed."""
    with Serving(tmp_path) as old:
        old.genesis("yes")
        before = old.slots.current
        old.promote("better", "yes", "no")
        old.follower.step()
        with Serving(tmp_path / "front", current=lambda: before, batcher=old.batcher) as serving:
            response = serving.post("/v2/models/shop/versions/v0.0.0/infer", infer("hello"))
            assert (response.status_code, list(response.json())) == (404, ["error"])
            assert serving.written("predictions") == []
