"""A mixture of heads: the arithmetic, its file, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from stream_ft.errors import ArtifactError
from stream_ft.model.closed_form import fit_head
from stream_ft.model.heads import Head, Projection, lift, projection_matrix
from stream_ft.model.mixture import Mixture, Part, read_head

DIM = 12
LABELS = ("a", "b", "c")
RNG = np.random.default_rng(5)
EMBEDDINGS = RNG.normal(size=(7, DIM)).astype(np.float16)
WIDE = Projection(seed=3, features=20, orthogonal=True, raw=2.0)


def part(name="one", *, share=0.25, projection=None, rows=3, names=None, temperature=0.5) -> Part:
    width = DIM if projection is None else projection.width(DIM)
    draw = np.random.default_rng(len(name))
    return Part(
        name=name,
        weight=draw.normal(size=(rows, width)).astype(np.float16).astype(np.float32),
        bias=draw.normal(size=rows).astype(np.float32),
        share=share,
        projection=projection,
        temperature=temperature,
        names=names,
    )


NAMES = np.array([[1, 0, 0], [0, 0.25, 0.75], [0, 1, 0], [0.5, 0, 0.5]], np.float32)
MIXTURE = Mixture(
    labels=LABELS, parts=(part(), part("concepts", share=0.75, projection=WIDE, rows=4, names=NAMES)), dim=DIM
)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_probabilities_are_the_shares_of_the_parts():
    one, two = MIXTURE.parts
    x = EMBEDDINGS.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    wide = np.hstack([np.maximum(x @ projection_matrix(3, DIM, 20, True), 0), 2 * x])
    expected = 0.25 * softmax((x @ one.weight.T + one.bias) / 0.5)
    expected += 0.75 * softmax((wide @ two.weight.T + two.bias) / 0.5) @ NAMES
    np.testing.assert_allclose(MIXTURE.probabilities(EMBEDDINGS), expected, atol=1e-5)
    np.testing.assert_allclose(MIXTURE.logits(EMBEDDINGS), np.log(expected), atol=1e-4)
    best = expected.argmax(axis=1)
    assert [label for label, _ in MIXTURE.predict(EMBEDDINGS)] == [LABELS[i] for i in best]
    assert [p for _, p in MIXTURE.predict(EMBEDDINGS)] == pytest.approx(expected.max(axis=1), abs=1e-5)


def test_one_part_over_the_labels_answers_as_the_head_it_is():
    only = part(share=1.0, temperature=0.3)
    head = Head(labels=LABELS, weight=only.weight, bias=only.bias, projection=None, dim=DIM, temperature=0.3)
    mixture = Mixture(labels=LABELS, parts=(only,), dim=DIM)
    np.testing.assert_allclose(mixture.probabilities(EMBEDDINGS), head.probabilities(EMBEDDINGS), atol=1e-6)


def test_what_is_read_answers_as_what_was_written():
    read = read_head(MIXTURE.to_bytes())
    assert isinstance(read, Mixture)
    assert (read.labels, read.dim) == (LABELS, DIM)
    assert [(p.name, p.share, p.temperature, p.projection) for p in read.parts] == [
        ("one", 0.25, 0.5, None),
        ("concepts", 0.75, 0.5, WIDE),
    ]
    np.testing.assert_array_equal(read.probabilities(EMBEDDINGS), MIXTURE.probabilities(EMBEDDINGS))
    assert read.to_bytes() == MIXTURE.to_bytes()


def test_single_heads_are_read_as_before_and_their_bytes_stay_what_they_were():
    head = fit_head(EMBEDDINGS, ["x", "y", "x", "y", "x", "y", "z"], features=16)
    data = head.to_bytes()
    read = read_head(data)
    assert isinstance(read, Head)
    assert read.to_bytes() == data
    length = int.from_bytes(data[:8], "little")
    meta = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.head"])
    assert json.loads(meta["projection"]) == {"seed": 0, "features": 16}


def test_a_single_head_takes_the_wider_features_too():
    head = Head(
        labels=LABELS,
        weight=RNG.normal(size=(3, 32)).astype(np.float16).astype(np.float32),
        bias=np.zeros(3, np.float32),
        projection=WIDE,
        dim=DIM,
    )
    read = read_head(head.to_bytes())
    assert isinstance(read, Head)
    assert read.projection == WIDE
    np.testing.assert_array_equal(read.probabilities(EMBEDDINGS), head.probabilities(EMBEDDINGS))


def test_a_reader_of_single_heads_refuses_a_mixture():
    with pytest.raises(ArtifactError):
        Head.from_bytes(MIXTURE.to_bytes())


def test_orthogonal_projections_are_orthogonal_in_blocks_and_repeatable():
    matrix = projection_matrix(3, DIM, 20, True)
    assert matrix.shape == (DIM, 20)
    np.testing.assert_allclose(matrix[:, :DIM].T @ matrix[:, :DIM], DIM * np.eye(DIM), atol=1e-4)
    np.testing.assert_allclose(matrix[:, DIM:].T @ matrix[:, DIM:], DIM * np.eye(8), atol=1e-4)
    projection_matrix.cache_clear()
    np.testing.assert_array_equal(projection_matrix(3, DIM, 20, True), matrix)
    assert lift(EMBEDDINGS, WIDE).shape == (7, 32)
    assert WIDE.width(DIM) == 32


def changed(tensors=None, meta=None, drop=()) -> bytes:
    """The mixture's file with other tensors or another statement about its parts."""
    data = MIXTURE.to_bytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.head"])
    kept = {name: value for name, value in (load(data) | (tensors or {})).items() if name not in drop}
    return save(kept, {"stream_ft.head": json.dumps(said | (meta or {}))})


def parts_said(at: int, **fields) -> dict[str, str]:
    said = [
        {"name": p.name, "share": p.share, "temperature": p.temperature}
        | {"projection": None if p.projection is None else p.projection.to_json()}
        for p in MIXTURE.parts
    ]
    said[at] |= fields
    return {"parts": json.dumps(said)}


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (b"", "manifest"),
        (b"\x10\0\0\0\0\0\0\0not json at all!", "manifest"),
        (changed(meta={"parts": "3"}), "manifest"),
        (changed(meta={"parts": "[3]"}), "manifest"),
        (changed(meta={"dim": "many"}), "manifest"),
        (changed(meta=parts_said(0, projection=[1])), "manifest"),
        (changed(meta=parts_said(1, projection={"seed": True, "features": 20})), "manifest"),
        (changed(meta=parts_said(1, projection={"seed": 3, "features": 20, "raw": float("nan")})), "manifest"),
        (changed(meta=parts_said(0, share="much")), "manifest"),
        (changed(meta={"parts": "[]"}), "keys"),
        (changed(drop=("0.bias",)), "keys"),
        (changed(drop=("1.weight",)), "keys"),
        (changed(tensors={"2.weight": np.zeros((3, DIM), np.float16)}), "keys"),
        (changed(tensors={"7.names": np.zeros((3, 3), np.float16)}), "keys"),
        (changed(meta={"labels": '["a", "b", "b"]'}), "labels"),
        (changed(meta={"labels": '["a", "b", ""]'}), "labels"),
        (changed(meta={"labels": "[]"}), "labels"),
        (changed(tensors={"1.names": np.ones((4, 2), np.float16)}), "labels"),
        (changed(tensors={"0.weight": np.zeros((3, DIM + 1), np.float16)}), "shapes"),
        (changed(tensors={"0.bias": np.zeros(4, np.float32)}), "shapes"),
        (changed(tensors={"1.names": np.ones((3, 3), np.float16)}), "shapes"),
        (changed(meta={"dim": "0"}), "shapes"),
        (changed(tensors={"0.weight": np.zeros((3, DIM), np.float32)}), "dtypes"),
        (changed(tensors={"0.weight": np.full((3, DIM), np.inf, np.float16)}), "finite"),
        (changed(tensors={"0.bias": np.full(3, np.nan, np.float32)}), "finite"),
        (changed(tensors={"1.names": np.full((4, 3), np.nan, np.float16)}), "finite"),
        (changed(tensors={"1.names": -np.ones((4, 3), np.float16)}), "finite"),
        (changed(tensors={"1.names": np.zeros((4, 3), np.float16)}), "finite"),
        (changed(meta=parts_said(0, share=0.0)), "finite"),
        (changed(meta=parts_said(0, share=0.5)), "finite"),
        (changed(meta=parts_said(0, temperature=0.0)), "finite"),
    ],
)
def test_what_is_wrong_is_refused_with_its_step(data, step):
    with pytest.raises(ArtifactError) as caught:
        read_head(data) if step == "manifest" else Mixture.from_bytes(data)
    assert caught.value.step == step


def test_weights_beyond_fp16_are_refused_when_read_not_served():
    broken = replace(MIXTURE, parts=(replace(MIXTURE.parts[0], weight=np.full((3, DIM), 1e6, np.float32), share=1.0),))
    with pytest.raises(ArtifactError) as caught:
        read_head(broken.to_bytes())
    assert caught.value.step == "finite"
