from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving

from stream_ft.events import MAX_TEXT
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.slots import Answer


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, max_inputs=8, max_body_bytes=100_000) as made:
        yield made


@pytest.fixture
def ready(serving: Serving) -> Serving:
    serving.genesis("yes", "no")
    return serving


def infer(*data: Any, **change: Any) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [len(data)], "datatype": "BYTES", "data": list(data)}
    return {"inputs": [tensor | change]}


# --- /predict ---------------------------------------------------------------------------------------------------


def test_a_list_is_answered_in_order_with_ids_and_the_version(ready: Serving) -> None:
    response = ready.post("/predict", {"inputs": ["hello", "good bye"]})
    body = response.json()
    assert response.status_code == 200
    assert response.headers["stream-ft-version"] == body["version"] == "v0.0.0"
    assert body["model"] == "shop"
    assert [set(row) for row in body["predictions"]] == [{"id", "label", "score"}] * 2
    assert all(ready.ids.issued(row["id"]) for row in body["predictions"])
    alone = [ready.post("/predict", {"inputs": text}).json()["predictions"][0] for text in ("hello", "good bye")]
    for row, other in zip(body["predictions"], alone, strict=True):
        assert (row["label"], row["score"]) == (other["label"], pytest.approx(other["score"], rel=1e-5))


def test_an_empty_model_answers_with_an_empty_label(serving: Serving) -> None:
    serving.genesis()
    assert serving.post("/predict", {"inputs": "hello"}).json()["predictions"][0]["label"] == ""


def test_before_a_version_is_loaded_the_answer_is_503(serving: Serving) -> None:
    response = serving.post("/predict", {"inputs": "hello"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "No version" in response.json()["error"]


def test_every_prediction_is_published_as_it_was_served(ready: Serving) -> None:
    row = ready.post("/predict", {"inputs": ["hello", "退货"]}).json()["predictions"][1]
    event = ready.written("predictions")[1]
    assert (event["id"], event["input"], event["output"], event["score"]) == (
        row["id"],
        "退货",
        row["label"],
        row["score"],
    )
    assert (event["type"], event["model"], event["version"], event["time"]) == ("prediction", "shop", "v0.0.0", 1_000.0)
    assert event["base"] == ready.follower.state.base
    assert base64.b64decode(event["embedding"]) == ready.engine.encode(["退货"])[0].tobytes()
    assert event["latency_s"] > 0


def test_the_answer_does_not_wait_for_a_log_that_takes_nothing(ready: Serving) -> None:
    ready.log.full = True
    assert ready.post("/predict", {"inputs": "hello"}).status_code == 200


def test_predictions_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    with Serving(tmp_path, publish=lambda message: False) as serving:
        serving.genesis("yes")
        assert serving.post("/predict", {"inputs": ["a", "b"]}).status_code == 200
        assert serving.metrics.registry.get_sample_value("stream_ft_predictions_dropped_total") == 2


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"inputs": NaN}', 400, "not JSON"),
        (b'{"inputs": "\xff\xfe"}', 400, "UTF-8"),
        (b'{"inputs": "\\ud800"}', 400, "half of a surrogate pair"),
        (b'{"inputs": "a\\udc00b"}', 400, "half of a surrogate pair"),
        (b'{"inputs": ' + b"[" * 5_000, 400, "expected form"),
        (b'{"x": ' + b"[" * 50_000, 400, "nested too deeply"),
        (b'{"inputs": ' + b"9" * 5_000 + b"}", 400, "form"),
        (b"[]", 400, "expected form"),
        (b"null", 400, "expected form"),
        (b"{}", 400, "inputs"),
        (b'{"inputs": 1}', 400, "expected form"),
        (b'{"inputs": ["a", 1]}', 400, "inputs"),
        (b'{"inputs": []}', 422, "no inputs"),
        (b'{"inputs": ""}', 422, "empty"),
        (b'{"inputs": ["a", " \\t\\n"]}', 422, "Input 1 is empty"),
        ('{"inputs": ["a", "\u200b"]}'.encode(), 422, "Input 1 is empty"),
        ('{"inputs": "\\u0007\u2060\ue000"}'.encode(), 422, "Input 0 is empty"),
        (b'{"inputs": "' + b"a" * (MAX_TEXT + 1) + b'"}', 422, "20001 characters"),
        (b'{"inputs": ["' + b'","'.join([b"a"] * 9) + b'"]}', 422, "9 inputs"),
        (b'{"inputs": "' + b"a" * 100_000 + b'"}', 413, "larger than 100000 bytes"),
    ],
)
def test_fault_08_bad_bodies_get_one_sentence(ready: Serving, content: bytes, status: int, words: str) -> None:
    response = ready.post("/predict", content=content)
    assert response.status_code == status
    assert words in response.json()["error"]
    assert "Traceback" not in response.text
    assert ready.engine.encoded == 4  # the golden texts


def test_no_answer_is_kept_for_the_next_time(ready: Serving) -> None:
    for asked in range(1, 4):
        assert ready.post("/predict", {"inputs": "the same"}).status_code == 200
        assert ready.engine.encoded == 4 + asked, "beside the golden texts"


def test_the_longest_text_is_answered(ready: Serving) -> None:
    assert ready.post("/predict", {"inputs": "字" * MAX_TEXT}).status_code == 200


def test_a_body_that_lies_about_its_length_is_cut_off_all_the_same(ready: Serving) -> None:
    async def endless() -> Any:
        for _ in range(1_000):
            yield b"a" * 1_000

    response = ready.request("POST", "/predict", content=endless())
    assert response.status_code == 413


# --- a queue, a deadline ----------------------------------------------------------------------------------------


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[tuple[Serving, threading.Event]]:
    release = threading.Event()

    def forward(texts: list[str]) -> list[Answer]:
        release.wait(10)
        raise ZeroDivisionError("a user's words")

    batcher: Batcher[Answer] = Batcher(forward, queue=1, deadline_s=0.05)
    batcher.start()
    with Serving(tmp_path, batcher=batcher) as serving:
        yield serving, release
        release.set()
        batcher.close()


def test_a_request_beyond_its_deadline_is_504_and_one_beyond_the_queue_429(
    stuck: tuple[Serving, threading.Event],
) -> None:
    serving, _ = stuck
    statuses = [serving.post("/predict", {"inputs": "hello"}) for _ in range(3)]
    assert [response.status_code for response in statuses] == [504, 504, 429]
    assert statuses[2].headers["retry-after"] == "1"


def test_a_forward_that_fails_is_a_500_without_the_users_words(stuck: tuple[Serving, threading.Event]) -> None:
    serving, release = stuck
    release.set()
    response = serving.post("/predict", {"inputs": "hello"})
    assert response.status_code == 500
    assert "words" not in response.text
    assert "error" in response.json()


def test_a_closed_batcher_is_503(ready: Serving) -> None:
    ready.batcher.close()
    assert ready.post("/predict", {"inputs": "hello"}).status_code == 503


# --- the Open Inference Protocol --------------------------------------------------------------------------------


def test_infer_answers_with_tensors_and_echoes_the_id(ready: Serving) -> None:
    response = ready.post("/v2/models/shop/infer", infer("hello", "good bye") | {"id": "request-7"})
    body = response.json()
    assert response.status_code == 200
    assert response.headers["stream-ft-version"] == "v0.0.0"
    assert (body["model_name"], body["model_version"], body["id"]) == ("shop", "v0.0.0", "request-7")
    assert [(o["name"], o["datatype"], o["shape"]) for o in body["outputs"]] == [
        ("label", "BYTES", [2]),
        ("score", "FP32", [2]),
        ("prediction_id", "BYTES", [2]),
    ]
    plain = ready.post("/predict", {"inputs": ["hello", "good bye"]}).json()["predictions"]
    assert body["outputs"][0]["data"] == [row["label"] for row in plain]
    assert body["outputs"][1]["data"] == pytest.approx([row["score"] for row in plain], rel=1e-5)
    assert all(ready.ids.issued(name) for name in body["outputs"][2]["data"])


def test_infer_gives_the_outputs_that_are_asked_for(ready: Serving) -> None:
    body = ready.post("/v2/models/shop/infer", infer("hello") | {"outputs": [{"name": "score"}]}).json()
    assert [output["name"] for output in body["outputs"]] == ["score"]
    assert "id" not in body


def test_infer_takes_nested_data(ready: Serving) -> None:
    body = ready.post("/v2/models/shop/infer", infer(["a"], ["b"], shape=[2, 1])).json()
    assert body["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (infer("a", datatype="FP32"), 400),
        (infer("a", shape=[2]), 400),
        (infer("a", shape=[-1]), 400),
        (infer("a", shape=[1] * 9), 400),
        (infer("a", 1), 400),
        (infer(["a"], "b"), 400),
        (infer("a", name=3), 400),
        ({"inputs": infer("a")["inputs"] * 2}, 400),
        ({"inputs": []}, 400),
        (infer("a") | {"outputs": [{"name": "logits"}]}, 400),
        (infer(), 422),
        (infer(""), 422),
    ],
)
def test_infer_refuses_what_does_not_fit(ready: Serving, content: dict[str, Any], status: int) -> None:
    response = ready.post("/v2/models/shop/infer", content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_infer_knows_its_model_and_no_binary_tensors(ready: Serving) -> None:
    assert ready.post("/v2/models/other/infer", infer("a")).status_code == 404
    binary = ready.post("/v2/models/shop/infer", infer("a"), headers={"Inference-Header-Content-Length": "10"})
    assert binary.status_code == 415


def test_metadata_and_readiness_of_server_and_model(serving: Serving) -> None:
    assert serving.get("/v2").json()["name"] == "stream_ft"
    assert serving.get("/v2/health/live").status_code == 200
    assert serving.get("/v2/health/ready").status_code == 503
    assert serving.get("/v2/models/shop/ready").status_code == 503
    serving.genesis("yes")
    assert serving.get("/v2/health/ready").status_code == 200
    assert serving.get("/v2/models/shop/ready").json() == {"name": "shop", "ready": True}
    metadata = serving.get("/v2/models/shop").json()
    assert metadata["versions"] == ["v0.0.0"]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert serving.get("/v2/models/shop/versions/v0.0.0").json() == metadata
    assert serving.get("/v2/models/shop/versions/v0.0.0/ready").status_code == 200
    assert serving.get("/v2/models/shop/versions/v9.9.0").status_code == 404
    assert serving.get("/v2/models/other").status_code == 404
