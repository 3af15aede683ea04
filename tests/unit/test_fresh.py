"""Heads of the fast tier: which is in force, whatever the order, and how a replica comes to answer with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from serving_parts import DIM, Serving, head

from stream_ft import control
from stream_ft.ports import Outgoing
from stream_ft.release.fold import State
from stream_ft.release.heads import HeadRecord, Heads, released, seq_of
from stream_ft.topics import topic

ME = "learner/a"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        made.genesis()
        made.say(control.Lead, by=ME, expected_epoch=0)
        made.follower.step()
        yield made


def record(state: State, seq: int, *labels: str, data: bytes | None = None, **other: object) -> HeadRecord:
    data = head(*labels) if data is None else data
    made = HeadRecord(
        base=state.base,
        start_head=state.start_head,
        epoch=state.epoch,
        leader=state.leader or "",
        seq=seq,
        sha256=sha256(data).hexdigest(),
        labels=len(labels),
        examples_upto=seq,
        data=data,
    )
    return msgspec.structs.replace(made, **other)


def publish(serving: Serving, *records: HeadRecord) -> None:
    heads = topic("shop", "heads")
    serving.log.append([Outgoing(topic=heads, value=msgspec.msgpack.encode(made)) for made in records])
    serving.follower.step()


def answered(serving: Serving) -> str:
    return serving.post("/predict", {"inputs": "hello"}).headers["stream-ft-version"]


def test_the_newest_head_of_the_release_answers_and_is_named(serving: Serving) -> None:
    state = serving.follower.state
    publish(serving, record(state, 1, "yes"), record(state, 2, "yes", "no"))
    assert answered(serving) == "v0.1.2"
    assert serving.slots.current is not None
    assert serving.slots.current.head.labels == ("yes", "no")
    assert not [call for call in serving.engine.calls if call[0] == "prepare"][1:]
    publish(serving, record(state, 1, "late"))
    assert answered(serving) == "v0.1.2"


@pytest.mark.parametrize(
    "other", [{"epoch": 0}, {"leader": "learner/b"}, {"base": "0" * 64}, {"start_head": "0" * 64}], ids=str
)
def test_fault_29_a_head_of_another_leader_epoch_or_release_is_dead(serving: Serving, other: dict[str, object]) -> None:
    publish(serving, record(serving.follower.state, 5, "zombie", **other))
    assert answered(serving) == "v0.1.0"


def test_a_rollback_is_the_end_of_the_heads_before_it(serving: Serving) -> None:
    old = serving.follower.state
    publish(serving, record(old, 1, "bad"))
    serving.say(control.Rollback, to_epoch=0, reason="bad answers")
    serving.follower.step()
    assert answered(serving) == "v0.2.0"
    publish(serving, record(old, 9, "worse"))
    assert answered(serving) == "v0.2.0"
    publish(serving, record(serving.follower.state, 1, "good"))
    assert answered(serving) == "v0.2.1"


def test_what_the_head_that_answers_has_learned_is_told(serving: Serving) -> None:
    assert "head" not in serving.get("/versions").json()
    old = serving.follower.state
    publish(serving, record(old, 1, data=head("yes", upto=7)))
    told = serving.get("/versions").json()
    assert told["active"] == told["head"]["version"] == "v0.1.1"
    assert (told["head"]["examples_upto"], told["head"]["offsets"]) == (7, {"feedback": 7})
    publish(serving, record(old, 2, data=head("yes", upto=9)[:-1]))
    assert serving.get("/versions").json()["head"] == told["head"], "one that is refused does not answer"
    serving.say(control.Rollback, to_epoch=0, reason="bad answers")
    serving.follower.step()
    assert "head" not in serving.get("/versions").json()
    state = serving.follower.state
    publish(serving, record(state, 1, "good", epoch=state.epoch + 1, leader="learner/b", data=head("good", upto=3)))
    serving.say(control.Lead, by="learner/b", expected_epoch=state.epoch)
    serving.follower.step()
    assert serving.get("/versions").json()["head"]["examples_upto"] == 3, "also where a release begins with one"


def test_a_head_of_a_later_epoch_is_held_and_the_release_begins_with_it(serving: Serving) -> None:
    state = serving.follower.state
    publish(serving, record(state, 1, "yes", epoch=2, leader="learner/b"))
    assert answered(serving) == "v0.1.0"
    seen = []
    flip = serving.slots.flip
    serving.slots.flip = lambda version: (seen.append(version.name), flip(version))[1]  # type: ignore[method-assign]
    serving.say(control.Lead, by="learner/b", expected_epoch=1)
    serving.follower.step()
    assert (answered(serving), seen) == ("v0.2.1", ["v0.2.1"])


@pytest.mark.parametrize(
    ("data", "sha", "step"),
    [
        (head("yes"), "0" * 64, "hash"),
        (head("yes", dim=DIM + 1), None, "shapes"),
        (head("yes")[:-1], None, "manifest"),
        (b"", None, "manifest"),
    ],
)
def test_fault_19_a_head_that_is_broken_is_refused_once_and_nothing_changes(
    serving: Serving, data: bytes, sha: str | None, step: str
) -> None:
    state = serving.follower.state
    publish(serving, record(state, 1, "yes"))
    publish(serving, record(state, 2, data=data, **({} if sha is None else {"sha256": sha})))
    for _ in range(3):
        serving.follower.step()
    failed = serving.metrics.registry.get_sample_value("stream_ft_swaps_total", {"result": "failed", "step": step})
    assert (answered(serving), failed) == ("v0.1.1", 1)
    publish(serving, record(state, 3, "yes", "no"))
    assert answered(serving) == "v0.1.3"


def test_records_that_are_none_and_a_topic_that_was_cut_are_passed_over(serving: Serving) -> None:
    heads = topic("shop", "heads")
    serving.log.append([Outgoing(topic=heads, value=b"\x81\xa4base\xff")])
    serving.follower.step()
    serving.log.append([Outgoing(topic=heads, value=b"{}")] * 30)
    serving.log.trim(heads, 0, 30)
    publish(serving, record(serving.follower.state, 1, "yes"))
    serving.follower.step()
    assert answered(serving) == "v0.1.1"


def test_the_same_heads_in_any_order_give_the_same_version(serving: Serving) -> None:
    state = serving.follower.state
    made = [
        record(state, 1, "a"),
        record(state, 2, "b"),
        record(state, 3, "c", epoch=0),
        record(state, 1, "d", epoch=2),
    ]
    found = set()
    for order in itertools.permutations(made):
        heads = Heads()
        for each in order:
            assert heads.take(msgspec.msgpack.encode(each)) == ""
            heads.forget(1)
        best = heads.in_force(state)
        assert best is not None
        found.add((best.epoch, best.seq))
    assert found == {(1, 2)}


def test_names() -> None:
    assert (released("v1.4.17"), seq_of("v1.4.17"), seq_of("trial-4"), seq_of("")) == ("v1.4.0", 17, 0, 0)
