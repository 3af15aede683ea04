"""A base is promoted while the fast tier goes on: what a round built is taken up, and answers get no worse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from learning_parts import Learning
from safetensors.numpy import save_file

from stream_ft import control
from stream_ft.errors import StoreFullError
from stream_ft.events import Example, LabelCorrection, LabelledEvent, to_json
from stream_ft.learn.fast.tier import FastTier, taught
from stream_ft.learn.job import Job, Result
from stream_ft.model.mixture import read_head
from stream_ft.ports import Record
from stream_ft.replay.store import Applied
from stream_ft.wiring import handover
from stream_ft.wiring.rounds import Outcome

SUBJECTS = ("card", "transfer", "refund", "exchange", "password", "top-up", "cash", "statement")
WORDS = ("please", "today", "again", "my", "the", "still", "now", "help", "why", "is", "not", "there", "it", "and")
NEW = b"b"
"""A base that encodes these sentences about as well as the first one: random bases differ in that."""
EXPERTS = ["softmax", "means", "concepts"]


@pytest.fixture
def learning(tmp_path: Path) -> Iterator[Learning]:
    # No round but the one that is brought.
    policy = {"schedule.min_evaluation": 200, "schedule.min_new": 10_000}
    made = Learning(tmp_path, **{"fast.enabled": True, "fast.checkpoint_every": 200} | policy)
    made.step(2)
    yield made
    made.close()


def sentence(number: int) -> tuple[str, str]:
    draw = np.random.default_rng(number)
    subject = SUBJECTS[number % len(SUBJECTS)]
    words = [*draw.choice(WORDS, 4), subject, *draw.choice(WORDS, 3), f"{number:x}"]
    return " ".join(words), subject


def feed(learning: Learning, start: int, stop: int) -> float:
    """Events one after the other; the share that was answered right before it was learned."""
    right: list[bool] = []
    ingest = learning.core.ingest

    def watched(records: Sequence[Record], now: float) -> Applied:
        applied = ingest(records, now)
        right.extend(scored.correct for scored in applied.scored)
        return applied

    learning.core.ingest = watched  # type: ignore[method-assign]
    for number in range(start, stop):
        said, label = sentence(number)
        event = LabelledEvent(id=f"s{number}", input=said, correction=LabelCorrection(label=label))
        learning.publish("labels", to_json(event))
        learning.step(seconds=1.0)
    learning.core.ingest = ingest  # type: ignore[method-assign]
    assert len(right) == stop - start
    return float(np.mean(right))


def encoder(learning: Learning, base: bytes) -> None:
    """From now on every base that is prepared encodes as this one."""
    engine = learning.engine

    def prepare(name: str, files: dict[str, bytes], between: object = None) -> None:
        engine._salts[name] = base

    engine.prepare = prepare  # type: ignore[method-assign,assignment]


def under(learning: Learning, base: bytes, texts: Sequence[str]) -> np.ndarray:
    active, learning.engine._salt = learning.engine._salt, base
    embeddings = learning.engine.encode(list(texts))
    learning.engine._salt = active
    return embeddings


def brought(
    learning: Learning, known: Sequence[Example], *, withheld: int = 60, spoiled: bool = False
) -> tuple[Outcome, FastTier]:
    """A round that trained the base :data:`NEW` on these examples, but for the last, and was found to be better.

    Args:
        spoiled: it confuses the subjects.
    """
    core = learning.core
    given = known[:-withheld]
    job = Job(
        kind="lora",
        base_model="tiny",
        champion_base=core.state.base,
        examples_upto=given[-1].seq,
        epoch=core.state.epoch,
        experts=EXPERTS,
    )
    folder = core._jobs / "round"
    (folder / "candidate").mkdir(parents=True)
    (folder / "candidate" / "tensors.safetensors").write_bytes(NEW)
    embeddings = under(learning, NEW, [example.input for example in known])
    tier = taught(np.roll(embeddings[: len(given)], int(spoiled), axis=0), given, experts=EXPERTS, seed=0)
    (folder / "head.safetensors").write_bytes(tier.head().to_bytes())
    (folder / "tier.safetensors").write_bytes(tier.to_bytes())
    ids = np.array([example.id for example in known])
    save_file({"ids": ids, "embeddings": embeddings}, folder / "embeddings.safetensors")
    scores = [[1.0] * 150 + [0.0] * 50, [1.0] * 160 + [0.0] * 40]
    result = Result(
        ok=True,
        kind="lora",
        examples_upto=job.examples_upto,
        scores_champion=scores[0],
        scores_candidate=scores[1],
        classes=["x"] * 200,
    )
    return Outcome(job=job, folder=folder, result=result), tier


def test_a_swap_of_the_base_costs_no_accuracy_and_goes_on_from_the_tier_that_the_round_built(
    learning: Learning,
) -> None:
    feed(learning, 0, 300)
    core = learning.core
    before = feed(learning, 300, 500)
    known = core.store.training()
    outcome, tier = brought(learning, known)
    encoder(learning, NEW)
    encoded = learning.engine.encoded
    core.finish(outcome, learning.clock.now())
    assert core.state.epoch == 1, "first it learns what came since"
    embeddings = under(learning, NEW, [example.input for example in known[-60:]])
    encoded += 60
    for embedding, example in zip(embeddings, known[-60:], strict=True):
        tier.learn(embedding, example.label)
    learning.step(10)
    assert core.state.epoch == 2
    assert core.dossier.examples_upto == known[-1].seq
    assert core.tiers.version in {"v2.2.0", "v2.2.1"}
    assert set(core.head.labels) == set(SUBJECTS)
    assert learning.engine.encoded == encoded, "all that the round embedded is taken over"
    live = core.tiers.fast
    assert live is not None
    assert live._tier is not None
    assert live._tier.to_bytes() == tier.to_bytes()
    after = feed(learning, 500, 700)
    assert before > 0.6
    noise = 2 * math.sqrt(2 * before * (1 - before) / 200)
    assert after >= before - noise


def test_what_came_during_the_round_is_learned_before_its_base_answers(learning: Learning) -> None:
    """A new label came meanwhile, which the round knows nothing of."""
    feed(learning, 0, 300)
    core = learning.core
    outcome, _ = brought(learning, core.store.training())
    for number in range(20):
        event = LabelledEvent(id=f"n{number}", input=f"my zebra {number:x}", correction=LabelCorrection(label="zebra"))
        learning.publish("labels", to_json(event))
    learning.step(3)
    assert "zebra" in core.head.labels
    encoder(learning, NEW)
    core.finish(outcome, learning.clock.now())
    while core.state.epoch == 1:
        assert "zebra" in core.head.labels, "the live tier answers meanwhile"
        learning.step()
    start = read_head(core.registry.get_head(core.state.start_head))
    assert start.predict(learning.engine.encode(["my zebra ff"]))[0][0] == "zebra", "the release itself"
    made = {example.id: example for example in core.store.training() if example.label == "zebra"}
    assert {example.embedding_base for example in made.values()} == {core.state.base}


def test_a_base_that_answers_worse_what_came_meanwhile_is_not_promoted(learning: Learning) -> None:
    feed(learning, 0, 400)
    core = learning.core
    outcome, _ = brought(learning, core.store.training(), spoiled=True)
    feed(learning, 400, 520)
    encoder(learning, NEW)
    core.finish(outcome, learning.clock.now())
    learning.step(12)
    assert core.handover is None
    assert core.state.epoch == 1
    assert any("Surely worse on what came since" in said for said in learning.said("refusal"))


def test_a_base_that_was_overtaken_meanwhile_is_learned_no_further(learning: Learning) -> None:
    feed(learning, 0, 300)
    core = learning.core
    outcome, _ = brought(learning, core.store.training())
    encoder(learning, NEW)
    core.finish(outcome, learning.clock.now())
    learning.issue(control.Rollback, to_epoch=0, reason="by hand")
    learning.step(2)
    assert core.state.epoch == 2
    assert core.handover is None
    assert any("overtaken" in said for said in learning.said("failure"))
    assert not learning.said("promotion")


def test_a_disk_that_is_full_ends_no_handover(learning: Learning, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(learning, 0, 500)
    core = learning.core
    outcome, _ = brought(learning, core.store.training())
    encoder(learning, NEW)
    full = True

    def save(*arguments: object) -> None:
        if full:
            raise OSError(28, "No space left on device")
        save_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(handover, "save_file", save)
    core.finish(outcome, learning.clock.now())
    for _ in range(4):  # the 60 that were withheld
        core.freshen(learning.clock.now())
    with pytest.raises(StoreFullError):
        core.freshen(learning.clock.now())
    full = False
    learning.step(3)
    assert core.state.epoch == 2


def test_a_base_that_the_engine_does_not_take_is_not_promoted(learning: Learning) -> None:
    feed(learning, 0, 300)
    core = learning.core
    outcome, _ = brought(learning, core.store.training())
    learning.engine.refuse["candidate"] = "finite"
    core.finish(outcome, learning.clock.now())
    learning.step(2)
    assert core.state.epoch == 1
    assert any("could not be learned" in said for said in learning.said("failure"))
    assert feed(learning, 300, 340) > 0.3, "and the learner goes on"
