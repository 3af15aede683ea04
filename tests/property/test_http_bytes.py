"""Arbitrary bytes at every entrance of the HTTP service: always one JSON sentence, never a stopped loop."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_parts import Serving

from stream_ft.ingest.texts import text_reject
from stream_ft.serve.protocol import OUTPUTS

PATHS = ("/predict", "/feedback", "/labels", "/v2/models/shop/infer")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "inputs",
                    "input",
                    "label",
                    "prediction_id",
                    "kind",
                    "correction",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "id",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=300) | json_values.map(lambda value: msgspec.json.encode(value, enc_hook=str))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder: Path = tmp_path_factory.mktemp("serving")
    with Serving(folder, token="") as made:
        made.genesis("yes", "no")
        yield made


def check(response: httpx.Response) -> None:
    assert response.status_code in (200, 202, 400, 404, 405, 413, 415, 422)
    content = response.json()
    if response.status_code >= 400:
        assert list(content) == ["error"]
        assert content["error"]
        assert "\n" not in content["error"]
        assert "Traceback" not in content["error"]


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(PATHS), body=bodies)
def test_any_body_gets_an_answer(serving: Serving, path: str, body: bytes) -> None:
    check(serving.post(path, content=body))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=50), max_size=6))
def test_any_texts_are_answered_or_refused_as_a_whole(serving: Serving, texts: list[str]) -> None:
    response = serving.post("/predict", content=msgspec.json.encode({"inputs": texts}))
    good = bool(texts) and all(text_reject(text) is None for text in texts)
    assert response.status_code == (200 if good else 422)
    if good:
        rows = response.json()["predictions"]
        assert len(rows) == len(texts)
        assert all(row["label"] in ("yes", "no") for row in rows)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(max_size=50), max_size=6),
    nested=st.booleans(),
    names=st.lists(st.sampled_from(list(OUTPUTS)), min_size=1, unique=True),
)
def test_any_texts_and_outputs_of_the_protocol(
    serving: Serving, texts: list[str], nested: bool, names: list[str]
) -> None:
    shape, data = ([len(texts), 1], [[text] for text in texts]) if nested else ([len(texts)], texts)
    tensor = {"name": "text", "datatype": "BYTES", "shape": shape, "data": data}
    asked = {"inputs": [tensor], "outputs": [{"name": name} for name in names]}
    response = serving.post("/v2/models/shop/infer", content=msgspec.json.encode(asked))
    good = bool(texts) and all(text_reject(text) is None for text in texts)
    assert response.status_code == (200 if good else 422)
    if good:
        outputs = response.json()["outputs"]
        assert [output["name"] for output in outputs] == names
        for output in outputs:
            assert output["shape"][0] == len(texts)
            assert math.prod(output["shape"]) == len(output["data"])


@settings(max_examples=60, deadline=None)
@given(
    path=st.text(st.characters(codec="utf-8", exclude_characters="?#"), max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
)
def test_any_path_gets_an_answer(serving: Serving, path: str, method: str) -> None:
    quoted = "/" + quote(path, safe="/")
    check(serving.request(method, quoted))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        ["authorization", "origin", "content-length", "content-type", "host", "inference-header-content-length"]
    ),
    value=st.binary(max_size=40).filter(lambda b: not set(b) & set(b"\r\n\0"))
    | st.text(string.digits, max_size=30).map(str.encode),
)
def test_any_header_gets_an_answer(serving: Serving, name: str, value: bytes) -> None:
    response = serving.request(
        "POST", "/v2/models/shop/infer", content=b'{"inputs": []}', headers=[(name.encode(), value)]
    )
    assert response.status_code in (400, 403, 413, 415)
    assert list(response.json()) == ["error"]


def test_after_all_that_it_still_answers(serving: Serving) -> None:
    assert serving.batcher.alive
    assert serving.post("/predict", {"inputs": "hello"}).status_code == 200
    assert serving.metrics.registry.get_sample_value(
        "stream_ft_http_requests_total", {"route": "predict", "code": "500"}
    ) in (None, 0.0)
