from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from serving_parts import DIM, base, head

from stream_ft.errors import ArtifactError
from stream_ft.model import golden
from stream_ft.model.heads import Head
from stream_ft.serve.slots import NotReadyError, Slots, Version, check_golden
from stream_ft.testing import FakeEngine


def version(name: str, on: str, *labels: str, dim: int = DIM) -> Version:
    return Version(name=name, epoch=0, base=on, start_head="h" + name, head=Head.from_bytes(head(*labels, dim=dim)))


def put(slots: Slots, version: Version) -> None:
    slots.check(version)
    slots.flip(version)


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine(DIM)
    made.prepare("one", base("one"))
    made.prepare("two", base("two"))
    return made


def test_nothing_answers_before_the_first_flip(engine: FakeEngine) -> None:
    slots = Slots(engine)
    assert slots.current is None
    with pytest.raises(NotReadyError):
        slots.forward(["hello"])


def test_an_answer_is_what_the_head_reads_from_its_own_embedding(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes", "no"))
    answers = slots.forward(["hello", "good bye"])
    assert [answer.version.name for answer in answers] == ["v0", "v0"]
    for answer in answers:
        embedding = np.frombuffer(answer.embedding, "<f2")
        assert embedding.shape == (DIM,)
        assert answer.version.head.predict(embedding[None]) == [(answer.label, pytest.approx(answer.score))]


def test_a_flip_changes_embedding_and_name_together(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes", "no"))
    before = slots.forward(["hello"])[0]
    put(slots, version("v1", "two", "yes", "no"))
    after = slots.forward(["hello"])[0]
    assert (before.version.base, after.version.base) == ("one", "two")
    assert before.embedding != after.embedding


def test_the_empty_head_answers_with_no_label(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one"))
    assert [(a.label, a.score) for a in slots.forward(["hello"])] == [("", 0.0)]


def test_a_flip_that_fails_leaves_everything_as_it_was(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes", "no"))
    before = slots.forward(["hello"])
    with pytest.raises(ArtifactError) as caught:
        put(slots, version("v1", "two", "yes", "no", dim=DIM + 1))
    assert caught.value.step == "shapes"
    assert engine.active == "one"
    assert slots.forward(["hello"]) == before


def test_a_base_that_was_never_prepared_is_not_flipped_to(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes"))
    with pytest.raises(KeyError):
        put(slots, version("v1", "nobody", "yes"))
    assert slots.current is not None
    assert slots.current.name == "v0"
    assert slots.forward(["hello"])[0].version.name == "v0"


def test_the_active_base_is_not_forgotten(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes"))
    slots.forget("one")
    slots.forget("two")
    assert engine.bases == ["one"]


def test_what_was_not_checked_is_not_flipped_to(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes"))
    new, other = version("v1", "two", "yes"), version("v2", "two", "no")
    slots.check(other)
    with pytest.raises(RuntimeError, match="not checked"):
        slots.flip(new)
    assert slots.forward(["hello"])[0].version.name == "v0"


def test_checking_does_not_touch_what_answers(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes", "no"))
    before = slots.forward(["hello"])
    slots.check(version("v1", "two", "yes", "no"))
    assert engine.active == "one"
    assert slots.forward(["hello"]) == before


def test_a_flip_computes_nothing(engine: FakeEngine) -> None:
    slots = Slots(engine)
    new = version("v0", "one", "yes", "no")
    slots.check(new)
    encoded = engine.encoded
    slots.flip(new)
    assert engine.encoded == encoded


def test_forwards_and_flips_belong_to_one_thread(engine: FakeEngine) -> None:
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes"))
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            slots.forward(["hello"])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "one thread" in str(errors[0])


# --- a challenger ----------------------------------------------------------------------------------------------


@pytest.fixture
def tried(engine: FakeEngine) -> Slots:
    """v0 on one answers; trial-1 on two is tried beside it."""
    slots = Slots(engine)
    put(slots, version("v0", "one", "yes", "no"))
    challenger = version("trial-1", "two", "a", "b")
    slots.check(challenger)
    slots.challenge(challenger)
    return slots


def test_each_slot_answers_with_its_own_base_and_head(tried: Slots, engine: FakeEngine) -> None:
    for _ in range(2):
        for forward, name, base_, labels in (
            (tried.forward, "v0", "one", {"yes", "no"}),
            (tried.forward_challenger, "trial-1", "two", {"a", "b"}),
        ):
            answer = forward(["hello"])[0]
            assert (answer.version.name, answer.version.base, answer.label in labels) == (name, base_, True)
            assert answer.embedding == engine.trial(base_, ["hello"])[0].tobytes()
    assert engine.held == {"one", "two"}


def test_the_engine_is_switched_only_where_the_slot_changes(tried: Slots, engine: FakeEngine) -> None:
    engine.calls.clear()
    for forward in (tried.forward, tried.forward, tried.forward_challenger, tried.forward_challenger, tried.forward):
        forward(["hello"])
    assert engine.calls == [("activate", "two"), ("activate", "one")]


def test_without_a_challenger_the_champion_answers_its_requests(tried: Slots, engine: FakeEngine) -> None:
    tried.challenge(None)
    assert tried.challenger is None
    assert tried.forward_challenger(["hello"])[0].version.name == "v0"
    assert engine.held == {"one"}


def test_a_challenger_that_fails_leaves_the_champion_as_it_was(tried: Slots, engine: FakeEngine) -> None:
    tried.forward(["hello"])
    engine.drop("two")
    with pytest.raises(KeyError):
        tried.forward_challenger(["hello"])
    assert tried.forward(["hello"])[0].embedding == engine.trial("one", ["hello"])[0].tobytes()


def test_neither_slots_base_is_forgotten(tried: Slots, engine: FakeEngine) -> None:
    for base_ in ("one", "two"):
        tried.forget(base_)
    assert engine.bases == ["one", "two"]
    tried.challenge(None)
    tried.forget("two")
    assert engine.bases == ["one"]


def test_nobody_is_challenged_by_what_was_not_checked_or_prepared(tried: Slots, engine: FakeEngine) -> None:
    with pytest.raises(RuntimeError, match="not checked"):
        tried.challenge(version("trial-2", "two", "a"))
    tried.challenge(None)
    late = version("trial-3", "two", "a")
    tried.check(late)
    engine.drop("two")
    with pytest.raises(KeyError):
        tried.challenge(late)
    assert tried.challenger is None


class Lying:
    """A head that is wrong in one way."""

    def __init__(self, **wrong: Any) -> None:
        self.labels = wrong.get("labels", ("a", "b"))
        self.dim = wrong.get("dim", DIM)
        self._logits = wrong.get("logits", np.zeros((len(golden.TEXTS), 2), np.float32))
        self._answer = wrong.get("answer", "a")

    def logits(self, embeddings: Any) -> Any:
        return self._logits

    def predict(self, embeddings: Any) -> list[tuple[str, float]]:
        return [(self._answer, 1.0)] * len(embeddings)


@pytest.mark.parametrize(
    ("wrong", "step"),
    [
        ({"dim": DIM + 1}, "shapes"),
        ({"labels": ("a", "a")}, "labels"),
        ({"labels": ("a", "")}, "labels"),
        ({"logits": np.full((len(golden.TEXTS), 2), np.nan)}, "finite"),
        ({"logits": np.zeros((len(golden.TEXTS), 3))}, "shapes"),
        ({"answer": "c"}, "labels"),
    ],
)
def test_golden_texts_find_a_head_that_is_wrong(wrong: dict[str, Any], step: str) -> None:
    embeddings = np.ones((len(golden.TEXTS), DIM), np.float16)
    check_golden(Lying(), embeddings, DIM)
    with pytest.raises(ArtifactError) as caught:
        check_golden(Lying(**wrong), embeddings, DIM)
    assert caught.value.step == step


@pytest.mark.parametrize(
    ("embeddings", "step"),
    [
        (np.full((len(golden.TEXTS), DIM), np.inf, np.float16), "finite"),
        (np.ones((len(golden.TEXTS), DIM - 1), np.float16), "golden"),
        (np.ones((1, DIM), np.float16), "golden"),
        (np.ones((len(golden.TEXTS), DIM), np.float32), "dtypes"),
    ],
)
def test_golden_texts_find_an_encoder_that_is_wrong(embeddings: Any, step: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_golden(Lying(), embeddings, DIM)
    assert caught.value.step == step


def test_a_base_that_says_what_its_round_had_must_give_that(engine: FakeEngine) -> None:
    slots = Slots(engine)
    right = golden.golden_file(engine.trial("one", list(golden.TEXTS)), golden.EXACT)
    wrong = golden.golden_file(engine.trial("two", list(golden.TEXTS)), golden.EXACT)
    new = version("v0", "one", "yes", "no")
    with pytest.raises(ArtifactError, match="off by") as refused:
        slots.check(new, anew=True, files=wrong)
    assert refused.value.step == "golden"
    with pytest.raises(RuntimeError, match="was not checked"):
        slots.flip(new)
    slots.check(new, anew=True, files=right)
    slots.flip(new)
    assert slots.current is new


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "cannot be read"),
        (golden.golden_file(np.ones((4, DIM), np.float16), 0.1)[golden.FILE][:-8], "cannot be read"),
        (golden.golden_file(np.ones((3, DIM), np.float16), 0.1)[golden.FILE], "golden texts"),
        (golden.golden_file(np.full((4, DIM), np.nan, np.float16), 0.1)[golden.FILE], "off by nan"),
    ],
)
def test_what_a_base_says_of_the_golden_texts_must_make_sense(file: bytes, said: str) -> None:
    with pytest.raises(ArtifactError, match=said) as refused:
        golden.check({golden.FILE: file}, np.ones((4, DIM), np.float16), golden.EXACT)
    assert refused.value.step == "golden"


def test_the_coarser_of_two_engines_says_how_far_they_may_differ() -> None:
    found = np.ones((4, DIM), np.float16)
    for made_by, checked_by, off, refused in (
        (golden.EXACT, golden.EXACT, 0.05, True),
        (golden.ROUNDED, golden.EXACT, 0.05, False),
        (golden.EXACT, golden.ROUNDED, 0.05, False),
        (golden.EXACT, golden.ROUNDED, 0.3, True),
    ):
        file = golden.golden_file((found - np.float16(off)).astype(np.float16), made_by)
        if refused:
            with pytest.raises(ArtifactError, match="off by"):
                golden.check(file, found, checked_by)
        else:
            golden.check(file, found, checked_by)
    golden.check({}, found, golden.EXACT)
