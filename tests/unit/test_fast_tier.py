"""The fast tier as a whole: learning, publishing, checkpoints, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.fast import tier as fast_tier
from stream_ft.learn.fast.tier import EXPERTS, FastTier
from stream_ft.model.heads import Head
from stream_ft.model.mixture import read_head

DIM = 24
CENTRES = np.random.default_rng(0).normal(size=(5, DIM))
LABELS = ["refund", "退货", "card", "fee", "other"]


def events(count: int, seed: int = 1, classes: int = 5):
    draw = np.random.default_rng(seed)
    for _ in range(count):
        at = int(draw.integers(classes))
        yield (CENTRES[at] + 0.5 * draw.normal(size=DIM)).astype(np.float16), LABELS[at]


def taught(count: int = 60, **fields) -> FastTier:
    tier = FastTier(dim=DIM, **fields)
    for embedding, label in events(count):
        tier.learn(embedding, label)
    return tier


def test_it_knows_nothing_before_the_first_example_and_the_label_after_it():
    tier = FastTier(dim=DIM)
    (embedding, label), *_ = events(1)
    assert tier.predict(embedding) == ("", 0.0)
    assert isinstance(tier.head(), Head)
    assert tier.head().predict(embedding[None]) == [("", 0.0)]
    assert tier.learn(embedding, label)
    assert tier.predict(embedding) == (label, pytest.approx(1))
    assert tier.head().predict(embedding[None])[0][0] == label


def test_it_learns_and_its_head_answers_as_it_does():
    tier = taught()
    fresh = list(events(80, seed=5))
    assert np.mean([tier.predict(e)[0] == label for e, label in fresh]) > 0.95
    head = read_head(tier.head().to_bytes())
    rows = np.stack([e for e, _ in fresh])
    live = np.stack([tier.probabilities(e) for e in rows])
    assert head.labels == tuple(tier.labels)
    np.testing.assert_allclose(head.probabilities(rows), live, atol=0.01)
    assert tier.learned == 60
    assert sum(tier.shares().values()) == pytest.approx(1)


def test_the_same_events_give_the_same_bytes():
    one, two = taught(), taught()
    assert one.to_bytes() == two.to_bytes()
    assert one.head().to_bytes() == two.head().to_bytes()
    assert taught(20, seed=1).to_bytes() != taught(20).to_bytes()


@pytest.mark.parametrize("count", [0, 1, 33, 60])
def test_a_checkpoint_goes_on_exactly(count):
    one = taught(count)
    two = FastTier.from_bytes(one.to_bytes())
    assert two.to_bytes() == one.to_bytes()
    for embedding, label in events(40, seed=7):
        assert one.learn(embedding, label, 0.5) == two.learn(embedding, label, 0.5)
    assert two.to_bytes() == one.to_bytes()
    assert (two.labels, two.learned, two.names) == (one.labels, one.learned, one.names)


def test_another_order_of_labels_by_name_changes_nothing_but_the_names():
    named = {label: f"z{9 - at}" for at, label in enumerate(LABELS)}
    one, two = FastTier(dim=DIM), FastTier(dim=DIM)
    for embedding, label in events(60):
        one.learn(embedding, label)
        two.learn(embedding, named[label])
    for embedding, _ in events(20, seed=3):
        np.testing.assert_array_equal(one.probabilities(embedding), two.probabilities(embedding))
    assert two.labels == [named[label] for label in one.labels]


def test_one_learner_alone_is_a_tier_too():
    for name in ("softmax", "means", "ridge", "concepts"):
        tier = taught(experts=[name])
        assert tier.shares() == {name: 1.0}
        assert np.mean([tier.predict(e)[0] == label for e, label in events(60, seed=5)]) > 0.9


def test_a_renaming_is_followed_by_the_whole():
    tier = taught(200)
    renamed = {"refund": "card", "card": "fee", "fee": "refund"}
    right = []
    for embedding, label in events(120, seed=11):
        now = renamed.get(label, label)
        right.append(tier.predict(embedding)[0] == now)
        tier.learn(embedding, now)
    assert np.mean(right[30:80]) > 0.85
    assert np.mean(right[-40:]) > 0.95


def test_bad_examples_are_refused_and_change_nothing():
    tier = taught(50)
    before = tier.to_bytes()
    bad = CENTRES[0].astype(np.float16)
    bad[3] = np.inf
    assert not tier.learn(bad, "new label")
    bad[3] = np.nan
    assert not tier.learn(bad, "refund")
    assert not tier.learn(CENTRES[0].astype(np.float16), "refund", 0.0)
    for embedding, label, weight in (
        (np.zeros(DIM + 1, np.float16), "refund", 1.0),
        (CENTRES[0].astype(np.float16), "", 1.0),
        (CENTRES[0].astype(np.float16), "refund", 1.5),
        (CENTRES[0].astype(np.float16), "refund", -0.1),
        (CENTRES[0].astype(np.float16), "refund", float("nan")),
    ):
        with pytest.raises(ValueError, match="cannot be learned"):
            tier.learn(embedding, label, weight)
    assert tier.to_bytes() == before
    assert tier.learn(np.zeros(DIM, np.float16), "refund")  # an odd embedding, but one that can be served
    assert np.isfinite(tier.probabilities(CENTRES[1].astype(np.float16))).all()


@pytest.mark.parametrize("experts", [[], ["softmax", "softmax"], ["softmax", "nothing"]])
def test_a_tier_of_nothing_or_of_nobody_is_refused(experts):
    with pytest.raises(ConfigError):
        FastTier(dim=DIM, experts=experts)


def changed(drop=(), **fields) -> bytes:
    data = taught(20).to_bytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.fast"])
    tensors = {name: value for name, value in load(data).items() if name not in drop}
    return save(tensors, {"stream_ft.fast": json.dumps(said | fields)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing of the sort",
        taught(20).to_bytes()[:-5],
        changed(format=99),
        changed(dim=DIM + 1),
        changed(experts=["nothing"]),
        changed(experts=["means"], labels=3),
        changed(drop=("softmax.weight",)),
        changed(drop=("mixing.losses",)),
        Head.empty(DIM).to_bytes(),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(data):
    with pytest.raises(ArtifactError):
        FastTier.from_bytes(data)


def test_labels_that_do_not_fit_the_state_are_refused():
    with pytest.raises(ArtifactError):
        FastTier.from_bytes(changed(labels=LABELS[:2]))


def test_the_default_mixture_has_a_learner_for_every_kind_of_change():
    assert EXPERTS == ("softmax", "means", "concepts")


def test_taught_at_once_it_is_the_tier_that_learned_one_by_one():
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(600, 8)).astype(np.float16)
    rows[17] = np.nan  # is not learned, and shifts nothing
    examples = [
        Example(
            seq=at,
            id=at,
            input=str(at),
            correction=LabelCorrection(label=f"l{int(np.argmax(np.nan_to_num(row)))}"),
            source="s",
            trust=1 + at % 3,
        )
        for at, row in enumerate(rows)
    ]
    one, two = FastTier(dim=8, seed=3), fast_tier.taught(rows, examples, experts=EXPERTS, seed=3)
    for row, example in zip(rows, examples, strict=True):
        one.learn(row, example.label, fast_tier.weight_of(example.trust))
    assert one.labels == two.labels
    assert one.learned == two.learned == 599
    for row in rows[500:]:
        np.testing.assert_allclose(one.probabilities(row), two.probabilities(row), atol=2e-3)
