from __future__ import annotations

from collections import Counter
from itertools import count

import numpy as np
import pytest

from stream_ft.replay.sampler import BalancedReservoir, Name, RecentWindow, Reservoir, Sampler, sampler

NAMES: list[Name] = ["reservoir", "balanced", "recent"]


def run(policy: Sampler, labels: list[str], start: int = 0) -> dict[int, str]:
    retained: dict[int, str] = {}
    for id, label in zip(count(start), labels, strict=False):
        retained[id] = label
        if (gone := policy.offer(id, label)) is not None:
            del retained[gone]
    return retained


def mixed(length: int, seed: int = 0) -> list[str]:
    rng = np.random.Generator(np.random.PCG64(seed))
    return [str(label) for label in rng.choice(list("abcd"), length, p=[0.85, 0.1, 0.04, 0.01])]


@pytest.mark.parametrize("name", NAMES)
def test_never_more_than_the_capacity_and_always_full(name: Name) -> None:
    assert len(run(sampler(name, 50, 0), mixed(30))) == 30
    assert len(run(sampler(name, 50, 0), mixed(2_000))) == 50


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_retains_the_same(name: Name) -> None:
    assert run(sampler(name, 20, 5), mixed(500)) == run(sampler(name, 20, 5), mixed(500))


@pytest.mark.parametrize("name", ["reservoir", "balanced"])
def test_another_seed_retains_others(name: Name) -> None:
    assert run(sampler(name, 20, 5), mixed(500)) != run(sampler(name, 20, 6), mixed(500))


@pytest.mark.parametrize("name", NAMES)
def test_restored_from_what_is_retained_it_goes_on_the_same(name: Name) -> None:
    labels = mixed(800)
    straight = sampler(name, 40, 1)
    retained = run(straight, labels[:500])
    restored = sampler(name, 40, 1)
    restored.restore(sorted(retained.items(), reverse=True))
    for id, label in enumerate(labels[500:], 500):
        assert restored.offer(id, label) == straight.offer(id, label)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_discarded_makes_room(name: Name) -> None:
    policy = sampler(name, 10, 0)
    retained = run(policy, ["a"] * 30)
    first = min(retained)
    policy.discard(first)
    policy.discard(first)
    policy.discard(12_345)
    assert policy.offer(100, "a") is None
    assert policy.offer(101, "a") is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_capacity_of_one(name: Name) -> None:
    assert len(run(sampler(name, 1, 0), list("aabbccaab"))) == 1


def test_a_reservoir_retains_early_and_late_alike() -> None:
    hits = np.zeros(10)
    for seed in range(200):
        for id in run(Reservoir(20, seed), ["a"] * 200):
            hits[id // 20] += 1
    # 400 expected in each tenth of the stream, standard deviation about 19.
    assert hits.min() > 320
    assert hits.max() < 480


def test_a_reservoir_keeps_the_proportions_of_the_classes() -> None:
    share = Counter(run(Reservoir(400, 3), mixed(8_000)).values())["a"] / 400
    assert 0.79 < share < 0.91


def test_a_balanced_reservoir_keeps_rare_classes_whole() -> None:
    labels = mixed(8_000)
    sizes = Counter(run(BalancedReservoir(200, 0), labels).values())
    assert sizes["d"] == min(labels.count("d"), 50) or sizes["d"] >= 49
    assert max(sizes.values()) - min(sizes.values()) <= 2


def test_a_balanced_reservoir_retains_a_rare_class_wholly_while_it_is_small() -> None:
    labels = ["a"] * 500 + ["b"] * 5 + ["a"] * 500
    retained = run(BalancedReservoir(40, 0), labels)
    assert [id for id, label in retained.items() if label == "b"] == [500, 501, 502, 503, 504]


def test_within_a_class_early_and_late_are_alike() -> None:
    hits = np.zeros(5)
    for seed in range(200):
        for id, label in run(BalancedReservoir(40, seed), ["a", "b"] * 200).items():
            hits[id // 80] += label == "a"
    # 800 expected in each fifth.
    assert hits.min() > 680
    assert hits.max() < 920


def test_more_classes_than_room() -> None:
    retained = run(BalancedReservoir(5, 0), [f"class {n}" for n in range(50)])
    assert len(retained) == 5
    assert max(retained) >= 5, "a new class always gets in"


def test_a_class_that_was_emptied_fills_again() -> None:
    policy = BalancedReservoir(40, 0)
    retained = run(policy, ["a", "b"] * 300)
    for id in [id for id, label in retained.items() if label == "a"]:
        policy.discard(id)
    refused = sum(policy.offer(1_000 + n, "a") == 1_000 + n for n in range(20))
    assert refused == 0


def test_the_recent_window_holds_the_newest() -> None:
    assert sorted(run(RecentWindow(7), mixed(100))) == list(range(93, 100))
